"""Verifiers: process (PRM) and outcome (ORM) reward models, their training and their scoring of solutions."""

from importlib import import_module

_LAZY = {
    "RewardModel": "rlstep.verifiers.scoring",
    "PRMTrainer": "rlstep.verifiers.trainer",
    "ORMTrainer": "rlstep.verifiers.trainer",
    "ImplicitTrainer": "rlstep.verifiers.implicit_trainer",
    "ImplicitRewardModel": "rlstep.verifiers.implicit",
    "VerifierArguments": "rlstep.verifiers.arguments",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlstep.verifiers' has no attribute '{name}'")
