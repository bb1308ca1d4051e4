"""What a run leaves on disk: its ledger, checkpoints and metrics."""
