"""Training of PRMs and ORMs."""
