"""What every stage needs and no mathematics: errors, strict configuration, row files, run records, progress."""
