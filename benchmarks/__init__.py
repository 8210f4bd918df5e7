"""Programs that measure; each prints a table and writes JSON with hardware, versions, commit and command."""
