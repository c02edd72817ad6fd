"""rlstep: reinforcement-learning fine-tuning of language models with dense step rewards.

The names below import what they need on first use, so that `import rlstep` is instant.
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "PRMTrainer": "rlstep.verifiers",
    "ORMTrainer": "rlstep.verifiers",
    "RewardModel": "rlstep.verifiers",
    "StepPPOConfig": "rlstep.policy",
    "StepPPOTrainer": "rlstep.policy",
    "Problem": "rlstep.steps.records",
    "Solution": "rlstep.steps.records",
}
__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlstep' has no attribute '{name}'")


def __dir__():
    return __all__
