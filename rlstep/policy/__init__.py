"""The generator: trained by SFT, sampled, trained by PPO with step rewards, and exported."""

from importlib import import_module

_LAZY = {"StepPPOConfig": "rlstep.policy.config", "StepPPOTrainer": "rlstep.policy.trainer"}
__all__ = sorted(_LAZY)


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlstep.policy' has no attribute '{name}'")
