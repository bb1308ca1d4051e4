"""Shared by the service and the dashboard: errors, security headers, listening, signals, static files."""
