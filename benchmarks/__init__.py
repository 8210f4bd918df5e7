"""Programs that measure; each prints a table and can write JSON with hardware, versions, commit and command."""
