"""Verifiers: process (PRM) and outcome (ORM) reward models, their training and scoring."""

from importlib import import_module

_LAZY = {
    "RewardModel": "rlstep.verifiers.scoring.reward_model",
    "PRMTrainer": "rlstep.verifiers.training.trainer",
    "ORMTrainer": "rlstep.verifiers.training.trainer",
    "ImplicitTrainer": "rlstep.verifiers.training.implicit_trainer",
    "ImplicitRewardModel": "rlstep.verifiers.scoring.implicit",
    "VerifierArguments": "rlstep.verifiers.training.arguments",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlstep.verifiers' has no attribute '{name}'")
