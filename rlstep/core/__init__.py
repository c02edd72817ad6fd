"""The mathematics: tensors in, tensors out; no model, no file, nothing else of rlstep. Wrong input is a ValueError.

Each module's `__all__` is its public interface. All of it works without the rest of rlstep, and some of it exists only
for users.
"""
