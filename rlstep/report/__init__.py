"""What a person reads when a run is done: its numbers in one file, tables, pictures; the same over several seeds."""
