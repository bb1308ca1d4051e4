"""Live mode: the parts beside the gateway, and who starts and watches them all."""
