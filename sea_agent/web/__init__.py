"""What every page of this project shares."""
