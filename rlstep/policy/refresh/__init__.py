"""A PRM that is trained on during RL: labels, training, weights."""
