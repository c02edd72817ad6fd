"""How good it became: best-of-N curves of labelled and scored solutions, learning curves of RL runs."""
