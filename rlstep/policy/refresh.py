"""Refreshing the PRM: every so many updates its training goes on, on the policy's newest samples.

A frozen PRM is asked ever further from what it was trained on, because the policy moves to where the PRM errs in its
favour. A refresh labels new samples and trains the PRM on them, mixed with rows of its first training (replay) so that
it does not forget those. The samples are asked at the tokens at which they are scored, and the loss is that of the
PRM's first training under the label policy of its checkpoint.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from rlstep.core.losses import step_label_loss
from rlstep.core.rewards import steps_to_first_error
from rlstep.policy.rewards import Judgement
from rlstep.runtime.errors import UserError
from rlstep.steps.labels import UNKNOWN, LabelPolicy
from rlstep.steps.records import Solution, Span, read_solutions
from rlstep.tasks.base import Task
from rlstep.verifiers.adapters import own_parameters, unfreeze
from rlstep.verifiers.collate import Feature, collate, model_inputs, pad_id_of
from rlstep.verifiers.model import VerifierSpec, classify_at
from rlstep.verifiers.packing import mask_dtype, window_of, work_per_token
from rlstep.verifiers.scoring import RewardModel

MAX_GRADIENT = 1.0  # the norm that gradients are clipped to
Source = Literal["checker", "teacher", "monte_carlo"]
MonteCarlo = Literal["hard", "soft"]


@dataclass
class RefreshOptions:
    refresh_every: int = field(
        default=0,
        metadata={"help": "Updates from one refresh of the PRM on the policy's samples to the next; 0: it is frozen."},
    )
    refresh_labels: Source = field(
        default="checker",
        metadata={
            "help": "Who labels the new samples: the task's checker, a better PRM (teacher), or the policy's own "
            "rollouts from each step (monte_carlo)."
        },
    )
    refresh_teacher: str | None = field(
        default=None,
        metadata={"help": "teacher: folder, hub id or URL of a PRM; its probabilities are the labels (soft ones)."},
    )
    refresh_rollouts: int = field(default=8, metadata={"help": "monte_carlo: rollouts from the end of each step."})
    refresh_monte_carlo: MonteCarlo = field(
        default="hard",
        metadata={
            "help": "monte_carlo: hard: a step is right when any rollout reaches the answer; soft: its label is the "
            "share of rollouts that do."
        },
    )
    refresh_replay: str | None = field(
        default=None,
        metadata={"help": "Labelled solutions that the PRM was trained on (JSONL, Parquet), against forgetting them."},
    )
    refresh_replay_share: float = field(
        default=0.5, metadata={"help": "refresh_replay: its share of the rows of each refresh."}
    )
    refresh_rows: int = field(
        default=1024, metadata={"help": "Most new rows a refresh: distinct samples, the newest ones."}
    )
    refresh_epochs: int = field(default=1, metadata={"help": "Passes of a refresh over its rows."})
    refresh_batch_size: int = field(default=16, metadata={"help": "Rows an optimizer step of a refresh."})
    refresh_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of a refresh, constant."})

    def __post_init__(self):
        faults = [*self._range_faults(), *self._unread()]
        if self.refresh_labels == "teacher" and self.refresh_teacher is None:
            faults.append("refresh_labels 'teacher' needs refresh_teacher: a PRM's folder, hub id or URL")
        if faults:
            raise UserError("; ".join(faults) + ".")

    def _set(self, *names: str) -> list[str]:
        """Those of the options that are not at their default."""
        return [name for name in names if getattr(self, name) != self.__dataclass_fields__[name].default]

    def _range_faults(self) -> Iterator[str]:
        for name, choices in (("refresh_labels", Source), ("refresh_monte_carlo", MonteCarlo)):
            if getattr(self, name) not in get_args(choices):
                yield f"{name} is '{getattr(self, name)}'; choose one of {', '.join(get_args(choices))}"
        if self.refresh_every < 0:
            yield f"refresh_every is {self.refresh_every}; it must be at least 0, which is never"
        for name in ("refresh_rollouts", "refresh_rows", "refresh_epochs", "refresh_batch_size"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1"
        if not 0 < self.refresh_learning_rate < math.inf:
            yield f"refresh_learning_rate is {self.refresh_learning_rate}; it must be above 0"
        if not 0 < self.refresh_replay_share < 1:
            yield f"refresh_replay_share is {self.refresh_replay_share}; it must lie between 0 and 1, or be left out"

    def _unread(self) -> Iterator[str]:
        """Options that would do nothing."""
        every = self._set(*(name for name in self.__dataclass_fields__ if name != "refresh_every"))
        if self.refresh_every == 0 and every:
            yield f"refresh_every is 0, so {', '.join(every)} would do nothing; set it, or leave them out"
            return
        for name in self._set("refresh_teacher", "refresh_rollouts", "refresh_monte_carlo"):
            owner = "teacher" if name == "refresh_teacher" else "monte_carlo"
            if self.refresh_labels != owner:
                yield f"{name} is for refresh_labels '{owner}', not '{self.refresh_labels}'; leave it out"
        if self.refresh_replay is None and self._set("refresh_replay_share"):
            yield "refresh_replay_share needs refresh_replay: the labelled solutions that the PRM was trained on"


class Labeler(Protocol):
    def labels(
        self, prompts: Sequence[str], completions: Sequence[str], references: Sequence[str], steps: Sequence[list[Span]]
    ) -> list[list[float | None]]:
        """For each completion a label a step: 1 right, 0 wrong, between them a soft label, None unknown."""


@dataclass(frozen=True)
class CheckerLabels:
    """The exact checker's labels; None for a step that is none of the checker's."""

    task: Task

    def labels(self, prompts, completions, references, steps) -> list[list[float | None]]:
        found = []
        for *row, spans in zip(prompts, completions, references, steps, strict=True):
            check = self.task.check(*row)
            known = dict(zip(map(tuple, check.steps), check.labels, strict=True))
            found.append([known.get(tuple(span)) for span in spans])
        return found


@dataclass(frozen=True)
class TeacherLabels:
    """Another PRM's probabilities, as soft labels.

    Attributes:
        teacher: has a RewardModel's `score`.
        threshold: steps behind the first one scored below this have no label: a PRM's training ends at the first wrong
            step, and what it says of later ones means nothing. None takes them all.

    Raises:
        UserError: the teacher is an ORM.
    """

    teacher: RewardModel
    threshold: float | None = 0.5

    def __post_init__(self):
        if getattr(self.teacher, "kind", "prm") != "prm":
            raise UserError("refresh_teacher is an ORM: it values prefixes, not steps. Give a PRM.")

    def labels(self, prompts, completions, references, steps) -> list[list[float | None]]:
        found = []
        for scores in self.teacher.score(prompts, completions, steps):
            known = len(scores)
            if self.threshold is not None:
                known = steps_to_first_error(torch.tensor(scores, dtype=torch.float64), self.threshold)
            found.append([*scores[:known], *[None] * (len(scores) - known)])
        return found


@dataclass(frozen=True)
class MonteCarloLabels:
    """What the policy makes of each step (Math-Shepherd, 2312.08935, equations 3 and 4).

    Of the N rollouts that go on from the end of step k, the label is 1 where any reaches the answer, else 0 (hard), or
    the share of those that do (soft). A step that ends the completion is graded as it stands. Steps behind the first
    one with the value 0 are not rolled out and have no label.

    Attributes:
        rollout: (P prefixes, N) to P lists of N continuations each. It is called once for each number of steps, with
            the distinct prefixes of all completions: the prompt and the completion up to a step's end.
        is_correct: (prompt, completion, reference) to whether the answer is right.
        rollouts: N.
        soft: which of the two labels.
    """

    rollout: Callable[[list[str], int], list[list[str]]]
    is_correct: Callable[[str, str, str], bool]
    rollouts: int = 8
    soft: bool = False

    def labels(self, prompts, completions, references, steps) -> list[list[float | None]]:
        rows = list(zip(prompts, completions, references, steps, strict=True))
        found: list[list[float]] = [[] for _ in rows]
        todo = [row for row, (*_, spans) in enumerate(rows) if spans]
        while todo:
            heads = {row: self._head(*rows[row], len(found[row])) for row in todo}
            values = self._values(list(dict.fromkeys(heads.values())))
            for row, head in heads.items():
                found[row].append(values[head])
            todo = [row for row in todo if found[row][-1] > 0 and len(found[row]) < len(rows[row][3])]
        return [[*values, *[None] * (len(spans) - len(values))] for values, spans in zip(found, steps, strict=True)]

    def _head(self, prompt: str, completion: str, reference: str, spans: list[Span], step: int) -> tuple:
        """(prompt, completion up to the step's end, reference, whether the completion ends there)."""
        end = spans[step][1]
        ended = not completion[end:].strip()
        return prompt, completion if ended else completion[:end], reference, ended

    def _values(self, heads: list[tuple]) -> dict[tuple, float]:
        prefixes = list(dict.fromkeys(prompt + begun for prompt, begun, _, ended in heads if not ended))
        drawn = dict(zip(prefixes, self.rollout(prefixes, self.rollouts), strict=True)) if prefixes else {}
        values = {}
        for prompt, begun, reference, ended in heads:
            tails = [""] if ended else drawn[prompt + begun]
            if not ended and len(tails) != self.rollouts:
                raise ValueError(f"{len(tails)} rollouts came of a prefix; {self.rollouts} were asked for.")
            right = sum(self.is_correct(prompt, begun + tail, reference) for tail in tails)
            values[prompt, begun, reference, ended] = right / len(tails) if self.soft else float(right > 0)
        return values


def make_labeler(
    options: RefreshOptions,
    task: Task,
    teacher: RewardModel | None = None,
    rollout: Callable[[list[str], int], list[list[str]]] | None = None,
) -> Labeler:
    """The labeler that the options name; `teacher` and `rollout` are for those that need them."""
    if options.refresh_labels == "checker":
        return CheckerLabels(task)
    if options.refresh_labels == "teacher":
        return TeacherLabels(teacher)

    def is_correct(prompt: str, completion: str, reference: str) -> bool:
        return task.check(prompt, completion, reference).correct

    return MonteCarloLabels(rollout, is_correct, options.refresh_rollouts, options.refresh_monte_carlo == "soft")


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
        UserError: the reward model is no PRM of this process or has nothing to train, or the replay has no usable row.
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
            # Loaded frozen; what it shares with its base stays so.
            unfreeze(reward_model.model.requires_grad_(False))
        self.weights = TrainedWeights(reward_model.model, options.refresh_learning_rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.version = self.last_update = 0
        self._rows: dict[tuple[str, str], tuple[str, list[Span]]] = {}  # (prompt, completion), the oldest first
        path = options.refresh_replay
        self._replay = read_solutions(path, need=("steps", "labels")) if path else []
        if path and not self._usable(self._replay, 1, torch.Generator()):
            raise UserError(f"refresh_replay: {path} has no labelled row that fits the PRM. Give its training data.")

    def observe(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        references: Sequence[str],
        judgements: Sequence[Judgement],
        finished: Sequence[bool] | None = None,
    ) -> None:
        """Keeps the newest distinct samples, `refresh_rows` of them.

        Args:
            prompts, completions, references, judgements: of all ranks, in one order.
            finished: whether the policy ended each completion; all by default. The last step of one that was cut off
                is cut off, too, and is not labelled.
        """
        finished = [True] * len(prompts) if finished is None else finished
        for prompt, completion, reference, judged, whole in zip(
            prompts, completions, references, judgements, finished, strict=True
        ):
            if steps := judged.steps if whole else judged.steps[:-1]:
                self._rows.pop((prompt, completion), None)
                self._rows[prompt, completion] = (reference, [tuple(span) for span in steps])
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
        found = {"rows": len(new), "steps": len(targets_N), **counts, "replay_rows": 0}
        if new:
            share = self.options.refresh_replay_share if self._replay else 0.0
            replay = self._usable(self._replay, round(len(new) * share / (1 - share)), self.generator)
            found |= {"replay_rows": len(replay), "right_share": (targets_N >= 0.5).float().mean().item()}
            found["loss_before"], found["agreement_before"] = self._measure(new)
            self._fit(new + replay)
            self.version += 1
            found["loss_after"], found["agreement_after"] = self._measure(new)
            if not math.isfinite(found["loss_after"]):
                raise UserError(
                    f"the PRM's loss is {found['loss_after']} after the refresh at update {update}: lower "
                    f"refresh_learning_rate, which is {self.options.refresh_learning_rate}."
                )
        return found | {"seconds": time.perf_counter() - start}

    def state_dict(self) -> dict:
        """All that a resumed run needs to go on as the uninterrupted one would: JSON values and tensors."""
        rows = [[*key, reference, [list(span) for span in steps]] for key, (reference, steps) in self._rows.items()]
        return {
            "rows": rows,
            "version": self.version,
            "last_update": self.last_update,
            "generator": self.generator.get_state(),
            "weights": self.weights.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self._rows = {
            (prompt, completion): (reference, [tuple(span) for span in steps])
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
        prompts, completions = zip(*self._rows, strict=True)
        references, steps = zip(*self._rows.values(), strict=True)
        labels = self.labeler.labels(prompts, completions, references, steps)
        rows = zip(prompts, completions, references, steps, labels, strict=True)
        return [Solution(p, p, c, reference, steps=spans, labels=known) for p, c, reference, spans, known in rows]

    def _features(self, solutions: Sequence[Solution]) -> tuple[list[Feature], dict[str, int]]:
        """Rows for training, asked where `RewardModel.score` asks them, and how many were dropped why."""
        prompts, completions = [s.prompt for s in solutions], [s.completion for s in solutions]
        layout, limit = self.reward_model.layout, self.reward_model.max_positions
        asked = layout.features(prompts, completions, [s.steps for s in solutions], self.reward_model.tokenizer)
        features, dropped = [], Counter(rows_unlabelled=0, rows_too_long=0)
        for solution, row in zip(solutions, asked, strict=True):
            targets_S = torch.tensor(self.policy.targets(solution))
            known_S = targets_S != UNKNOWN
            if not known_S.any():
                dropped["rows_unlabelled"] += 1
                continue
            columns_N = row.columns[known_S]
            ids = row.ids[: int(columns_N.max()) + 1]  # a causal model's value there depends on no later token
            if limit is not None and len(ids) > limit:
                dropped["rows_too_long"] += 1
                continue
            features.append(replace(row, ids=ids, columns=columns_N, targets=targets_S[known_S]))
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
            right_N = self.reward_model.layout.values(logits_NK) >= 0.5
            loss += _loss(logits_NK, targets_N).item() * len(targets_N)
            agreement += (right_N == (targets_N >= 0.5)).sum().item()
            steps += len(targets_N)
        return loss / steps, agreement / steps

    def _ask(self, rows: list[Feature]) -> tuple[Tensor, Tensor]:
        """(logits_NK, targets_N) of the labelled steps of all rows."""
        model = self.reward_model.model
        window = window_of(model.config)
        packing = self.reward_model.packing and (window is None or all(len(row.ids) <= window for row in rows))
        work = work_per_token(model.config) if packing else None
        batch = collate(rows, pad_id_of(self.reward_model.tokenizer), packing, work)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        return classify_at(model, **model_inputs(batch, mask_dtype(model))), batch["labels"]


class TrainedWeights:
    """The parameters of a model that require gradients, and AdamW over them.

    Updates of a refresh are smaller than what a weight in half precision can show, so the optimizer works on copies in
    float32, and the model gets them rounded. Parameters in float32 are trained as they are.

    Raises:
        UserError: no parameter requires gradients.
    """

    def __init__(self, model: nn.Module, learning_rate: float):
        self.own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not self.own:
            raise UserError("all parameters of the PRM are frozen, so refresh_every has nothing to train.")
        self.exact = {
            name: parameter if parameter.dtype == torch.float32 else parameter.detach().float()
            for name, parameter in self.own.items()
        }
        self.optimizer = torch.optim.AdamW(self.exact.values(), lr=learning_rate, weight_decay=0.0)

    @torch.no_grad()
    def step(self) -> None:
        """One update by the gradients that the model's parameters have, clipped; then they have none."""
        for name, exact in self.exact.items():
            if exact is not self.own[name]:
                gradient, self.own[name].grad = self.own[name].grad, None
                exact.grad = None if gradient is None else gradient.to(exact)
        nn.utils.clip_grad_norm_(self.exact.values(), MAX_GRADIENT)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._give()

    def _give(self) -> None:
        for name, exact in self.exact.items():
            if exact is not self.own[name]:
                self.own[name].copy_(exact)

    def state_dict(self) -> dict[str, dict]:
        """Copies on the CPU: `values` by parameter name, and `optimizer`, its state by parameter name."""

        def copied(tensor: Tensor) -> Tensor:
            return tensor.detach().to("cpu", copy=True)

        moments = {
            name: {key: copied(value) for key, value in self.optimizer.state[exact].items()}
            for name, exact in self.exact.items()
            if exact in self.optimizer.state
        }
        return {"values": {name: copied(exact) for name, exact in self.exact.items()}, "optimizer": moments}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, dict]) -> None:
        if differing := sorted(set(state["values"]) ^ set(self.exact)):
            raise UserError(
                f"the checkpoint's state is of another PRM: {len(differing)} trained weights differ, {differing[0]} "
                "first. Give the reward model that the run was started with."
            )
        for name, exact in self.exact.items():
            exact.copy_(state["values"][name])
        self._give()
        index = {name: number for number, name in enumerate(self.exact)}
        # Cloned: the optimizer would go on in the caller's tensors.
        moments = {
            index[name]: {key: value.clone() for key, value in found.items()}
            for name, found in state["optimizer"].items()
        }
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


def _loss(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    if logits_NK.shape[1] == 1:
        # One value, whose sigmoid is the probability (Skywork's): the same as a softmax of it and 0.
        logits_NK = torch.cat([torch.zeros_like(logits_NK), logits_NK], dim=1)
    return step_label_loss(logits_NK, targets_N, tuple(range(logits_NK.shape[1])))


@contextmanager
def own_randomness(device: torch.device, generator: torch.Generator) -> Iterator[None]:
    """Dropout draws from the global generators: here they are seeded by `generator`, and afterwards as they were."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else [], device_type="cuda"):
        seed = int(torch.randint(2**62, (1,), generator=generator))
        # Not torch.manual_seed, which would reach the other devices, too.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
