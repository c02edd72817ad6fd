"""Reports of finished runs: their numbers in one file, tables and figures; the same over several seeds."""
