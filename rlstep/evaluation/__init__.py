"""How good it became: best-of-N curves of scored samples, learning curves of RL runs."""
