"""Rows of tokens, and the positions that a verifier is trained at and read at. Training and scoring both come here.

A PRM is read at each step's last token. An ORM is trained at every token of the completion (paper, appendix E) and read
at the step ends, the last of which is the completion's last token. An implicit PRM is read before every
token of the completion, for that token's probability.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.steps.labels import UNKNOWN, LabelPolicy
from rlstep.steps.positions import Encoded, encode_batch
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.steps.records import Solution, Span
from rlstep.steps.trees import Beginnings
from rlstep.verifiers.spec import Kind

CHUNK = 4096  # rows tokenised at a time: bounds the memory that offsets take


@dataclass(frozen=True)
class Feature:
    """One row for the model.

    Attributes:
        ids: (T,) tokens of the prompt and of the completion up to the last position.
        positions: (N,) indices into `ids` where the verifier is trained or read.
        targets: (N,) its targets there (`rlstep.steps.labels`); None when only scoring.
        problem: the problem's number in the data; rows of one problem never lie in two halves of a split.
        tree: rows with the same tree share prefixes and are trained in one batch.
        shared: how many of the first positions are steps whose labels count with another row.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor | None = None
    problem: int = 0
    tree: str | None = None
    shared: int = 0


@dataclass(frozen=True)
class TokenFeature(Feature):
    """A row that is scored by the log-probability of each token of its completion.

    Attributes:
        ids: (T,) prompt and completion without its last token, whose prediction is not read.
        positions: (N,) the place before each token of the completion.
        targets: (1,) whether the answer is right; None when only scoring.
        next_ids: (N,) the completion's tokens.
        step_of: (N,) the step that each belongs to; what follows the last step's end is a part of it.
        steps: how many steps there are.
        reference: (N,) the reference's log-probabilities, once they are known.
    """

    next_ids: Tensor | None = None
    step_of: Tensor | None = None
    steps: int = 0
    reference: Tensor | None = None


def score_positions(kind: Kind, encoded: Encoded) -> list[int]:
    """For each step, the index of the token at which the verifier's value is read."""
    if kind == "orm" and encoded.step_ends:
        return [*encoded.step_ends[:-1], len(encoded.ids) - 1]
    return encoded.step_ends


def train_positions(
    kind: Kind, encoded: Encoded, solution: Solution, policy: LabelPolicy
) -> tuple[list[int], list[float]]:
    """(positions, targets) of a solution.

    PRM: each step's target at its end, `UNKNOWN` where the policy teaches nothing. ORM: whether the answer is right, at
    every token of the completion.
    """
    if kind == "orm":
        positions = list(range(encoded.prompt_length, len(encoded.ids)))
        return positions, [float(solution.correct)] * len(positions)
    return score_positions(kind, encoded), policy.targets(solution)


def train_features(
    kind: Kind,
    solutions: Sequence[Solution],
    tokenizer,
    max_length: int | None,
    policy: LabelPolicy = LabelPolicy(),  # noqa: B008 - frozen
    keep_unknown: bool = False,
    whole_rows: bool = False,
    prompt_format: PromptFormat | None = None,
) -> tuple[list[Feature], dict[str, int]]:
    """Tokenises labelled solutions once, before training.

    Args:
        kind: prm or orm.
        solutions: labelled with steps (prm) or with correctness (orm).
        tokenizer: the verifier's.
        max_length: positions of the model; steps that end beyond them are dropped whole, and rows left without any.
        policy: how labels become targets.
        keep_unknown: read steps without a target and those that are counted with another solution, too; evaluation
            does, for what it says of whole solutions.
        whole_rows: drop rows with a position beyond the limit, instead of what lies after it; evaluation does.
        prompt_format: how prompts are written; by default each as its own form says.

    Returns:
        The rows, and counts: rows and positions kept, positions dropped as too long, rows dropped as too long or
        without a label.

    Raises:
        UserError: a solution is not labelled, or a label is not in [0, 1].
    """
    for number, solution in enumerate(solutions, start=1):
        _check_labels(kind, number, solution)
    counts = Counter(dict.fromkeys(("rows", "positions", "positions_too_long", "rows_too_long", "rows_unlabelled"), 0))
    features: list[Feature] = []
    number_of: dict[str, int] = {}
    beginnings = Beginnings()
    for solution, encoded in zip(solutions, _encode_solutions(tokenizer, solutions, prompt_format), strict=True):
        pairs = list(zip(*train_positions(kind, encoded, solution, policy), strict=True))
        shared = beginnings.shared(solution) if kind == "prm" else 0
        known = _known(pairs[shared:])
        if whole_rows and max_length is not None and pairs and pairs[-1][0] >= max_length:
            counts["positions_too_long"] += known
            counts["rows_too_long"] += 1
            continue
        fitting = [(position, target) for position, target in pairs if max_length is None or position < max_length]
        known_and_fitting = _known(fitting[shared:])
        counts["positions_too_long"] += known - known_and_fitting
        if known_and_fitting == 0:
            counts["rows_too_long" if known else "rows_unlabelled"] += 1
            continue
        if not keep_unknown:
            fitting = [(position, target) for position, target in fitting[shared:] if target != UNKNOWN]
            shared = 0
        beginnings.take(solution)
        counts["rows"] += 1
        counts["positions"] += known_and_fitting
        positions, targets = zip(*fitting, strict=True)
        problem = number_of.setdefault(solution.problem_id, len(number_of))
        features.append(feature_at(encoded.ids, positions, targets, problem, solution.tree, shared))
    return features, dict(counts)


def _known(pairs: Sequence[tuple[int, float]]) -> int:
    """How many of the (position, target) pairs have a known target."""
    return sum(target != UNKNOWN for _, target in pairs)


def score_features(
    kind: Kind,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    steps: Sequence[list[Span]],
    tokenizer,
    prompt_format: PromptFormat | None = None,
) -> list[Feature]:
    """Rows to be scored at every step; a row without steps has no positions."""
    return [
        feature_at(encoded.ids, score_positions(kind, encoded))
        for encoded in encode_rows(tokenizer, prompts, completions, steps, prompt_format)
    ]


def feature_at(
    ids: Sequence[int], positions: Sequence[int], targets=None, problem: int = 0, tree=None, shared: int = 0
) -> Feature:
    """A row up to its last position: what follows cannot change a causal model's values, and is not computed."""
    stop = max(positions) + 1 if positions else 0
    return Feature(
        torch.tensor(ids[:stop], dtype=torch.long),
        torch.tensor(positions, dtype=torch.long),
        None if targets is None else torch.tensor(targets, dtype=torch.float32),
        problem,
        tree,
        shared,
    )


def token_feature(encoded: Encoded) -> TokenFeature:
    """The row of a tokenised completion that has a token; without steps it is one step as a whole.

    Raises:
        UserError: nothing stands before the completion's first token, so no model can give its probability.
    """
    start, last = encoded.prompt_length, len(encoded.ids) - 1
    if start == 0:
        raise UserError(
            "a prompt is empty, and the tokenizer puts nothing before a text: an implicit PRM cannot give the "
            "probability of the completion's first token. Give every row a prompt."
        )
    ends = encoded.step_ends or [last]
    return TokenFeature(
        ids=torch.tensor(encoded.ids[:-1], dtype=torch.long),
        positions=torch.arange(start - 1, last),
        next_ids=torch.tensor(encoded.ids[start:], dtype=torch.long),
        step_of=torch.tensor([min(bisect_left(ends, place), len(ends) - 1) for place in range(start, last + 1)]),
        steps=len(ends),
    )


def encode_rows(
    tokenizer,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    steps: Sequence[list[Span]],
    prompt_format: PromptFormat | None = None,
) -> Iterator[Encoded]:
    """Yields what `encode_batch` gives, in chunks that bound the memory of the offsets."""
    for start in range(0, len(prompts), CHUNK):
        rows = slice(start, start + CHUNK)
        yield from encode_batch(tokenizer, prompts[rows], completions[rows], steps[rows], prompt_format)


def _encode_solutions(
    tokenizer, solutions: Sequence[Solution], prompt_format: PromptFormat | None
) -> Iterator[Encoded]:
    prompts, completions = [s.prompt for s in solutions], [s.completion for s in solutions]
    return encode_rows(tokenizer, prompts, completions, [s.steps or [] for s in solutions], prompt_format)


def _check_labels(kind: Kind, number: int, solution: Solution) -> None:
    where = f"solution {number} (problem '{solution.problem_id}', sample {solution.sample})"
    if kind == "orm":
        if not isinstance(solution.correct, bool):
            raise UserError(
                f"{where}: 'correct' is {solution.correct!r}; an ORM needs true or false. Run `rlstep label`."
            )
        return
    if solution.steps is None or solution.labels is None:
        raise UserError(f"{where}: 'labels' is null; a PRM needs step labels. Run `rlstep label`.")
    if len(solution.labels) != len(solution.steps):
        raise UserError(
            f"{where}: {counted(len(solution.labels), 'label')} for {counted(len(solution.steps), 'step')}."
        )
    for label in solution.labels:
        if label is not None and not (isinstance(label, (int, float)) and 0 <= label <= 1):
            raise UserError(f"{where}: label {label!r}; labels are 0 (wrong) to 1 (right), or null where unknown.")
