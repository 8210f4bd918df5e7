"""A run and its directory: position, checkpoints, records, and what it shows."""
