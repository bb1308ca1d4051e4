"""Storage: functions from a connection to plain rows, and the database that runs them."""
