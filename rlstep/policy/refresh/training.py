"""Refreshing the PRM: at fixed intervals it is trained further on the policy's newest samples.

A frozen PRM scores texts ever further from its training data, because the policy moves to where the PRM errs in its
favour. A refresh labels new samples and trains the PRM on them, mixed with rows of its first training (replay) so that
it does not forget those. The PRM is trained at the tokens at which it scores, and the loss is that of its first
training under the label policy of its checkpoint.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlstep.core.losses import step_label_loss
from rlstep.policy.refresh.labels import Labeler, RefreshOptions
from rlstep.policy.refresh.weights import TrainedWeights, own_randomness
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.runtime.errors import UserError
from rlstep.steps.labels import UNKNOWN, LabelPolicy
from rlstep.steps.prompts import Prompt, PromptKey, problem_text, prompt_key, prompt_of
from rlstep.steps.records import Solution, Span, read_solutions
from rlstep.verifiers.adapters import own_parameters, unfreeze
from rlstep.verifiers.features import Feature
from rlstep.verifiers.forward import batch_of, logits_at, pad_id_of
from rlstep.verifiers.packing import window_of
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec


class Refresher:
    """Gathers the policy's samples and trains the PRM on them when a refresh is due.

    Every rank observes the same rows (gathered by the caller), gets the same labels and trains its own copy of the PRM
    alike; nothing is sent, so kernels that are not deterministic let the copies differ in their last digits. The run's
    global random state is neither read nor moved: shuffling, replay and dropout have a generator of their own.

    Args:
        options: with `refresh_every` above 0.
        reward_model: the PRM, trained in place: of one that was loaded as an adapter the adapter and its class head, of
            others the parameters that require gradients.
        labeler: labels the new samples.
        seed: of the generator; the same on every rank.

    Attributes:
        version: refreshes that have trained so far. Scores of another version are out of date.

    Raises:
        UserError: the reward model is not a local PRM or has nothing to train, or the replay has no usable row.
    """

    def __init__(self, options: RefreshOptions, reward_model: RewardModel, labeler: Labeler, seed: int):
        if not isinstance(getattr(reward_model, "model", None), nn.Module):
            raise UserError("refresh_every trains the PRM, and this one is on a server. Give its folder or hub id.")
        if reward_model.kind != "prm":
            raise UserError("refresh_every trains a PRM on step labels, and the reward model is an ORM. Give a PRM.")
        self.options, self.reward_model, self.labeler = options, reward_model, labeler
        config = reward_model.model.config
        own = getattr(config, "rlstep_verifier", None) is not None
        self.policy = VerifierSpec.from_config(config._name_or_path, config).policy if own else LabelPolicy()
        if own_parameters(reward_model.model):
            # It is loaded frozen; what it shares with its base stays frozen.
            unfreeze(reward_model.model.requires_grad_(False))
        self.weights = TrainedWeights(reward_model.model, options.refresh_learning_rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.version = self.last_update = 0
        self._rows: dict[tuple[PromptKey, str], tuple[str, list[Span]]] = {}  # (prompt, completion), the oldest first
        path = options.refresh_replay
        self._replay = read_solutions(path, need=("steps", "labels")) if path else []
        if path and not self._usable(self._replay, 1, torch.Generator()):
            raise UserError(f"refresh_replay: {path} has no labelled row that fits the PRM. Give its training data.")

    def observe(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        references: Sequence[str],
        scored: Sequence[ScoredCompletion],
        finished: Sequence[bool] | None = None,
    ) -> None:
        """Keeps the newest distinct samples, `refresh_rows` of them.

        Args:
            prompts, completions, references, scored: of all ranks, in one order.
            finished: whether the policy ended each completion; all by default. The last step of one that was cut off
                is cut off as well, and is not labelled.
        """
        finished = [True] * len(prompts) if finished is None else finished
        for prompt, completion, reference, row, whole in zip(
            prompts, completions, references, scored, finished, strict=True
        ):
            if steps := row.steps if whole else row.steps[:-1]:
                key = prompt_key(prompt), completion
                self._rows.pop(key, None)
                self._rows[key] = (reference, [tuple(span) for span in steps])
        for key in list(self._rows)[: -self.options.refresh_rows]:
            del self._rows[key]

    def due(self, update: int) -> bool:
        """Whether a multiple of `refresh_every` was reached since the last refresh; `update` counts from 1."""
        every = self.options.refresh_every
        return every > 0 and update // every > self.last_update // every

    def refresh(self, update: int) -> dict[str, float]:
        """Labels the samples since the last refresh, trains the PRM on them and on replay, and forgets them.

        Returns:
            `rows` and `steps` with a label, `rows_unlabelled` and `rows_too_long` that were dropped, `replay_rows`;
            `right_share` of the steps; `loss_before` and `loss_after`, means over the steps of the new rows, and
            `agreement_before` and `agreement_after`, the share of them where PRM and label are on one side of 0.5;
            `seconds`. Without a row that has a label nothing is trained, and the counts are all there is.

        Raises:
            UserError: the training diverged.
        """
        start = time.perf_counter()
        new, counts = self._features(self._labelled())
        self._rows.clear()
        self.last_update = update
        targets_N = torch.cat([row.targets for row in new]) if new else torch.empty(0)
        report = {"rows": len(new), "steps": len(targets_N), **counts, "replay_rows": 0}
        if new:
            share = self.options.refresh_replay_share if self._replay else 0.0
            replay = self._usable(self._replay, round(len(new) * share / (1 - share)), self.generator)
            report |= {"replay_rows": len(replay), "right_share": (targets_N >= 0.5).float().mean().item()}
            report["loss_before"], report["agreement_before"] = self._measure(new)
            self._fit(new + replay)
            self.version += 1
            report["loss_after"], report["agreement_after"] = self._measure(new)
            if not math.isfinite(report["loss_after"]):
                raise UserError(
                    f"the PRM's loss is {report['loss_after']} after the refresh at update {update}: lower "
                    f"refresh_learning_rate, which is {self.options.refresh_learning_rate}."
                )
        return report | {"seconds": time.perf_counter() - start}

    def state_dict(self) -> dict:
        """All that a resumed run needs to go on as the uninterrupted one would: JSON values and tensors."""
        rows = [
            [prompt_of(key), completion, reference, [list(span) for span in steps]]
            for (key, completion), (reference, steps) in self._rows.items()
        ]
        return {
            "rows": rows,
            "version": self.version,
            "last_update": self.last_update,
            "generator": self.generator.get_state(),
            "weights": self.weights.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self._rows = {
            (prompt_key(prompt), completion): (reference, [tuple(span) for span in steps])
            for prompt, completion, reference, steps in state["rows"]
        }
        self.version, self.last_update = state["version"], state["last_update"]
        self.generator.set_state(state["generator"].cpu())
        # An adapter follows its base to another device with the first pass, and none was made yet; the optimizer's
        # state goes to where the weights are now.
        self.reward_model.model.to(self.reward_model.model.device)
        self.weights.load_state_dict(state["weights"])

    def _labelled(self) -> list[Solution]:
        if not self._rows:
            return []
        keys, completions = zip(*self._rows, strict=True)
        prompts = [prompt_of(key) for key in keys]
        references, steps = zip(*self._rows.values(), strict=True)
        labels = self.labeler.labels(prompts, completions, references, steps)
        rows = zip(prompts, completions, references, steps, labels, strict=True)
        return [
            Solution(problem_text(p), p, c, reference, steps=spans, labels=known)
            for p, c, reference, spans, known in rows
        ]

    def _features(self, solutions: Sequence[Solution]) -> tuple[list[Feature], dict[str, int]]:
        """Rows for training, at the positions that `RewardModel.score` reads, and how many were dropped, by reason."""
        prompts, completions = [s.prompt for s in solutions], [s.completion for s in solutions]
        query_format, limit = self.reward_model.query_format, self.reward_model.max_positions
        rows = query_format.features(prompts, completions, [s.steps for s in solutions], self.reward_model.tokenizer)
        features, dropped = [], Counter(rows_unlabelled=0, rows_too_long=0)
        for solution, row in zip(solutions, rows, strict=True):
            targets_S = torch.tensor(self.policy.targets(solution))
            known_S = targets_S != UNKNOWN
            if not known_S.any():
                dropped["rows_unlabelled"] += 1
                continue
            positions_N = row.positions[known_S]
            ids = row.ids[: int(positions_N.max()) + 1]  # a causal model's value there depends on no later token
            if limit is not None and len(ids) > limit:
                dropped["rows_too_long"] += 1
                continue
            features.append(replace(row, ids=ids, positions=positions_N, targets=targets_S[known_S]))
        return features, dict(dropped)

    def _usable(self, solutions: list[Solution], count: int, generator: torch.Generator) -> list[Feature]:
        """`count` rows for training in random order; none twice before all have been taken."""
        features: list[Feature] = []
        while len(features) < count:
            order = torch.randperm(len(solutions), generator=generator).tolist()
            for start in range(0, len(order), count):
                if len(features) < count:
                    features += self._features([solutions[i] for i in order[start : start + count]])[0]
            if not features:
                break
        return features[:count]

    @torch.enable_grad()
    def _fit(self, rows: list[Feature]) -> None:
        size, model = self.options.refresh_batch_size, self.reward_model.model
        with own_randomness(model.device, self.generator):
            model.train()
            try:
                for _ in range(self.options.refresh_epochs):
                    order = torch.randperm(len(rows), generator=self.generator).tolist()
                    for start in range(0, len(order), size):
                        logits_NK, targets_N = self._ask([rows[i] for i in order[start : start + size]])
                        _loss(logits_NK, targets_N).backward()
                        self.weights.step()
            finally:
                model.eval()

    @torch.no_grad()
    def _measure(self, rows: list[Feature]) -> tuple[float, float]:
        """(loss, agreement), means over the labelled steps."""
        loss = agreement = steps = 0
        size = self.options.refresh_batch_size
        for start in range(0, len(rows), size):
            logits_NK, targets_N = self._ask(rows[start : start + size])
            right_N = self.reward_model.query_format.values(logits_NK) >= 0.5
            loss += _loss(logits_NK, targets_N).item() * len(targets_N)
            agreement += (right_N == (targets_N >= 0.5)).sum().item()
            steps += len(targets_N)
        return loss / steps, agreement / steps

    def _ask(self, rows: list[Feature]) -> tuple[Tensor, Tensor]:
        """(logits_NK, targets_N) of the labelled steps of all rows."""
        model = self.reward_model.model
        window = window_of(model.config)
        packing = self.reward_model.packing and (window is None or all(len(row.ids) <= window for row in rows))
        batch = batch_of(model, rows, pad_id_of(self.reward_model.tokenizer), packing)
        return logits_at(model, batch), batch["labels"]


def _loss(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    if logits_NK.shape[1] == 1:
        # One value, whose sigmoid is the probability (Skywork's): the same as a softmax of it and 0.
        logits_NK = torch.cat([torch.zeros_like(logits_NK), logits_NK], dim=1)
    return step_label_loss(logits_NK, targets_N, tuple(range(logits_NK.shape[1])))
