"""What a completion is paid: sources, guards, and the scores that verifiers gave before."""
