"""Runs and their directories: position, checkpoints, records, TensorBoard."""
