"""Pages that show a run: one HTML file that needs nothing else."""
