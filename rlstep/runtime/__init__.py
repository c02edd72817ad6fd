"""What every stage needs besides mathematics: errors, strict configuration, row files, run records, progress."""
