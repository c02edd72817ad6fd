"""The mathematics: tensors in, tensors out; no model, no file, nothing else of rlstep. Wrong input is a ValueError."""
