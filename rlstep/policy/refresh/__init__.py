"""A PRM that is trained further during RL: labels, training, weights."""
