"""Schema changes, applied in order when the service starts."""
