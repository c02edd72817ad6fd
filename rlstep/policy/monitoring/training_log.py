"""What a step-PPO run logs in addition to TRL's own metrics, in the same lines of the log."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOTrainer

from rlstep.policy.monitoring.metrics import batch_metrics, rollout_metrics
from rlstep.policy.rewards.scored import ScoredBatch, ScoredCompletion


class TrainingLog:
    """Adds to the metrics and completions that TRL collects until its next line of the log.

    Every rank calls each method. `tests/policy/test_trl_seam.py` holds the private names of TRL that are used here.

    Args:
        trainer: whose log it is.
    """

    def __init__(self, trainer: GRPOTrainer):
        self.trainer = trainer
        self._last_batch: tuple[float, int] | None = None  # when the last training batch was there, and its tokens
        self._processor_s = 0.0  # of the optimizer step's micro-batches so far

    def log_completions(self, batch: ScoredBatch, lengths: list[int]) -> None:
        """The metrics of a batch of all ranks (`batch_metrics`), and in training how fast batches come.

        One value per row, not one per batch: the last, smaller batch of an evaluation must not weigh as much as others.

        Args:
            batch: of all ranks.
            lengths: completion tokens of each row, 0 where TRL masked it.
        """
        training, loader = self.trainer.model.training, self.trainer.accelerator.gradient_state
        rows = len(lengths)
        size = self.trainer.num_generations if training else self.trainer.num_generations_eval
        if not training and loader.end_of_dataloader and loader.remainder > 0:
            # So that the ranks have batches of one size, the last one repeats rows of the first. What remains is
            # counted in problems, of each of which there are `size` rows.
            whole = self.trainer.args.eval_batch_size * self.trainer.accelerator.num_processes
            rows = min(rows, loader.remainder * size % whole or rows)
        metrics = batch_metrics(
            batch.scored[:rows], batch.completions[:rows], size, lengths[:rows], batch.finished[:rows]
        )
        for name, values in metrics.items():
            self._metrics[name] += values
        if training:
            now = time.perf_counter()
            if self._last_batch is not None:
                start, tokens = self._last_batch
                self._metrics["tokens_per_second"].append(tokens / (now - start))
            self._last_batch = now, sum(lengths)

    def log_rollouts(self, scored: Sequence[ScoredCompletion], finished: Sequence[bool]) -> None:
        """The metrics of vine's rollouts on all ranks (`rollout_metrics`).

        Args:
            scored, finished: one per rollout of this rank.
        """
        for of_rank in gather_object([rollout_metrics(scored, finished)]):
            for name, values in of_rank.items():
                self._metrics[name] += values

    def log_value(self, name: str, value: Tensor) -> None:
        """The mean over the ranks that have a value; a rank that has none gives NaN."""
        self._metrics[name].append(self.trainer.accelerator.gather(value.reshape(1)).nanmean().item())

    def log_token_mean(self, name: str, values_BT: Tensor, mask_BT: Tensor) -> None:
        """The mean over the completion tokens of all ranks, however they lie on these; NaN where there is none."""
        own = torch.stack([values_BT[mask_BT.bool()].float().sum(), mask_BT.bool().sum().float()])
        total, count = self.trainer.accelerator.gather(own[None]).sum(dim=0)
        self._metrics[name].append((total / count).item())

    def log_advantages(self, advantages_BT: Tensor, mask_BT: Tensor) -> None:
        """Their mean size; and in the completions that TRL shows, each one's mean in place of TRL's own advantage."""
        self.log_token_mean("advantage/mean_abs", advantages_BT.abs(), mask_BT)
        means_B = (advantages_BT * mask_BT).sum(dim=1) / mask_BT.sum(dim=1).clamp_min(1)
        means, shown = self.trainer.accelerator.gather(means_B).tolist(), self.trainer._logs["advantages"]
        for _ in range(min(len(means), len(shown))):
            shown.pop()
        shown.extend(means)

    def forget_log_probabilities(self) -> None:
        """Takes back what TRL measures of log-probabilities under vLLM in an evaluation, in which there are none."""
        for name in [name for name in self._metrics if name.startswith("sampling/")]:
            del self._metrics[name]

    @contextmanager
    def processor_time(self) -> Iterator[None]:
        """Around a micro-batch's training step: what the optimizer step's took together is logged after its last one.

        As TRL's `step_time`, which it stands beside; the processor's seconds do not grow where others use the machine.
        """
        start = time.process_time()
        yield
        self._processor_s += time.process_time() - start
        if self.trainer._step % self.trainer.current_gradient_accumulation_steps == 0:
            self.trainer._metrics["train"]["processor_step_time"].append(self._processor_s)
            self._processor_s = 0.0

    @contextmanager
    def one_value_each(self, mask_BT: Tensor, pieces: list[slice]) -> Iterator[None]:
        """Within it a micro-batch is computed in pieces; what each adds to a metric becomes one value in the end.

        That is the mean over the pieces, weighted by the tokens that all ranks have in each; the least of minima, the
        largest of maxima. What fewer pieces report stays as it is.

        Args:
            mask_BT: one on the micro-batch's completion tokens.
            pieces: its rows, as many pieces on each rank.
        """
        before = {name: len(values) for name, values in self._metrics.items()}
        yield
        tokens_P = torch.stack([mask_BT[rows].sum() for rows in pieces])
        weights = self.trainer.accelerator.reduce(tokens_P, reduction="sum").tolist()
        for name, values in self._metrics.items():
            start = before.get(name, 0)
            if len(values) - start == len(pieces):
                values[start:] = [_of_pieces(name, values[start:], weights)]

    @property
    def _metrics(self) -> dict[str, list[float]]:
        return self.trainer._metrics["train" if self.trainer.model.training else "eval"]


def _of_pieces(name: str, values: list[float], weights: list[int]) -> float:
    """One value of a metric for all pieces of a micro-batch; NaN where none has one."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if not math.isnan(value)]
    if not known:
        return math.nan
    if name.endswith(("_min", "_max")):
        return (min if name.endswith("_min") else max)(value for value, _ in known)
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else known[0][0]
