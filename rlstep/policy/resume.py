"""What exact resume keeps of reinforcement learning, beside what it keeps of any training (`rlstep.runtime.resume`).

That is what is left of a generation batch, metrics and completions that are not logged yet, and the order of the data
after the first epoch. `tests/policy/test_trl_seam.py` holds the private names used here.

vLLM has random states of its own: there a run continues from the same state, but is not the same to the last bit.
"""

from collections import deque
from typing import Any

from accelerate.utils import send_to_device
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.runtime.errors import UserError
from rlstep.runtime.resume import ExactResume, refill


class ExactPolicyResume(ExactResume):
    """A mixin for a subclass of TRL's GRPOTrainer; it comes before GRPOTrainer in the list of bases.

    Args:
        *args, **kwargs: GRPOTrainer's and `ExactResume`'s.
    """

    layout_settings = (
        *ExactResume.layout_settings, "steps_per_generation", "num_generations", "num_iterations", "shuffle_dataset",
    )  # fmt: skip

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.sync_ref_model:
            self.register_state("reference_model", self.accelerator.unwrap_model(self.ref_model))

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.args.sync_ref_model and is_deepspeed_zero3_enabled():
            raise UserError("sync_ref_model moves a reference of which no rank has all under ZeRO-3; take ZeRO-2.")

    def _get_train_sampler(self, dataset=None):
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _state(self) -> dict[str, Any]:
        done_batch = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        return super()._state() | {
            "batch": {"step": self._step, "slices": None if done_batch else self._buffered_inputs},
            "metrics": self._metrics,
            "logs": {name: _plain(values) for name, values in self._logs.items()},
        }

    def _restore(self, kept: dict[str, Any], epochs: int) -> None:
        self._step = kept["batch"]["step"]
        self._buffered_inputs = send_to_device(kept["batch"]["slices"], self.accelerator.device)
        refill(self._metrics, kept["metrics"])
        for name, values in kept["logs"].items():
            _refill(self._logs[name], values)
        # The sampler shuffles once an epoch with a generator of its own; a new one would begin with the first order.
        for _ in range(epochs):
            next(iter(self._train_sampler), None)


def _plain(values: deque | dict[str, deque]) -> list | dict[str, list]:
    return list(values) if isinstance(values, deque) else {name: list(items) for name, items in values.items()}


def _refill(values: deque | dict[str, deque], kept: list | dict[str, list]) -> None:
    values.clear()
    if isinstance(values, deque):
        values.extend(kept)
    for name, items in kept.items() if isinstance(kept, dict) else ():
        values[name].extend(items)
