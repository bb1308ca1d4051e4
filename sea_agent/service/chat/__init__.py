"""The gateway of live mode: an OpenAI-compatible endpoint in front of engines, which now and then asks its user."""
