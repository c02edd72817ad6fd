"""The arguments of a short training run."""

import pytest


@pytest.fixture
def arguments(tmp_path):
    """Makes VerifierArguments for a few quick steps in tmp_path."""
    from rlstep.verifiers.training.trainer import VerifierArguments

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
