"""How good a model became: best-of-N curves of scored samples, and learning curves of RL runs."""
