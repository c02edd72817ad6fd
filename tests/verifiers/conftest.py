"""Tiny verifiers on disk, and the arguments of a short training run."""

import pytest


@pytest.fixture(scope="session")
def verifier_paths(tiny_lm, tokenizer, tmp_path_factory) -> dict[str, str]:
    """Untrained PRM and ORM checkpoints."""
    from transformers import set_seed

    from rlstep.verifiers.model import VerifierSpec, new_verifier

    paths = {}
    for kind in ("prm", "orm"):
        set_seed(1)
        path = tmp_path_factory.mktemp(kind)
        new_verifier(tiny_lm, VerifierSpec(kind)).save_pretrained(path)
        tokenizer.save_pretrained(path)
        paths[kind] = str(path)
    return paths


@pytest.fixture
def arguments(tmp_path):
    """Makes VerifierArguments for a few quick steps in tmp_path."""
    from rlstep.verifiers.trainer import VerifierArguments

    def make(**changes):
        options = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1,
            "learning_rate": 3e-3,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "use_cpu": True,
        }
        return VerifierArguments(**(options | changes))

    return make
