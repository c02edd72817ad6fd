"""Which tokens a verifier is trained on and read at. Training and scoring both come here.

A PRM speaks at each step's last token. An ORM is trained at every token of the completion (paper, appendix E) and read
at the step ends, the last of which is the completion's last token.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from rlstep.runtime.errors import UserError
from rlstep.steps.positions import Encoded, encode_batch
from rlstep.steps.records import Solution
from rlstep.verifiers.model import Kind

CHUNK = 4096  # rows tokenised at a time: bounds the memory that offsets take


@dataclass(frozen=True)
class Feature:
    """One row for the model.

    Attributes:
        ids: (T,) tokens of the prompt and of the completion up to the last column.
        columns: (N,) indices into `ids` where the verifier speaks.
        targets: (N,) its targets there in [0, 1]; None when it is only asked.
    """

    ids: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor | None = None


def score_columns(kind: Kind, encoded: Encoded) -> list[int]:
    """For each step, the index of the token at which the verifier's value is read."""
    if kind == "orm" and encoded.step_ends:
        return [*encoded.step_ends[:-1], len(encoded.ids) - 1]
    return encoded.step_ends


def train_columns(kind: Kind, encoded: Encoded, solution: Solution) -> tuple[list[int], list[float]]:
    """(columns, targets) that a solution teaches.

    PRM: each step's label at its end, up to and including the first wrong step (paper, section 2.6); steps with an
    unknown label teach nothing. ORM: whether the answer is right, at every token of the completion.
    """
    if kind == "orm":
        columns = list(range(encoded.prompt_length, len(encoded.ids)))
        return columns, [float(solution.correct)] * len(columns)
    columns, targets = [], []
    for column, label in zip(score_columns(kind, encoded), solution.labels, strict=True):
        if label is None:
            continue
        columns.append(column)
        targets.append(float(label))
        if label == 0:
            break
    return columns, targets


def train_features(
    kind: Kind, solutions: Sequence[Solution], tokenizer, max_length: int | None
) -> tuple[list[Feature], dict[str, int]]:
    """Tokenises labelled solutions once, before training.

    Args:
        kind: prm or orm.
        solutions: labelled with steps (prm) or with correctness (orm).
        tokenizer: the verifier's.
        max_length: positions of the model; labels beyond them are dropped, and rows left without any.

    Returns:
        The rows, and counts: rows and positions kept, positions dropped as too long, rows dropped as too long or
        without a label.

    Raises:
        UserError: a solution is not labelled, or a label is not in [0, 1].
    """
    for number, solution in enumerate(solutions, start=1):
        _check_labels(kind, number, solution)
    counts = Counter(dict.fromkeys(("rows", "positions", "positions_too_long", "rows_too_long", "rows_unlabelled"), 0))
    features = []
    for start in range(0, len(solutions), CHUNK):
        chunk = solutions[start : start + CHUNK]
        for solution, encoded in zip(chunk, _encode(tokenizer, chunk), strict=True):
            columns, targets = train_columns(kind, encoded, solution)
            fit = len(columns) if max_length is None else sum(column < max_length for column in columns)
            counts["positions_too_long"] += len(columns) - fit
            if fit == 0:
                counts["rows_too_long" if columns else "rows_unlabelled"] += 1
                continue
            counts["rows"] += 1
            counts["positions"] += fit
            features.append(_feature(encoded.ids, columns[:fit], targets[:fit]))
    return features, dict(counts)


def score_features(
    kind: Kind, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list], tokenizer
) -> list[Feature]:
    """Rows to be asked at every step; a row without steps has no columns."""
    return [
        _feature(encoded.ids, score_columns(kind, encoded))
        for start in range(0, len(prompts), CHUNK)
        for encoded in encode_batch(
            tokenizer, prompts[start : start + CHUNK], completions[start : start + CHUNK], steps[start : start + CHUNK]
        )
    ]


def pad(features: Sequence[Feature], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch: input_ids, attention_mask (B, T), padded on the right; rows, columns (N,); labels (N,) where known."""
    lengths_B = torch.tensor([len(feature.ids) for feature in features])
    input_ids_BT = pad_sequence([feature.ids for feature in features], batch_first=True, padding_value=pad_id)
    counts_B = torch.tensor([len(feature.columns) for feature in features])
    batch = {
        "input_ids": input_ids_BT,
        "attention_mask": (torch.arange(input_ids_BT.shape[1]) < lengths_B[:, None]).long(),
        "rows": torch.repeat_interleave(torch.arange(len(features)), counts_B),
        "columns": torch.cat([feature.columns for feature in features]),
    }
    if features[0].targets is not None:
        batch["labels"] = torch.cat([feature.targets for feature in features])
    return batch


def pad_id_of(tokenizer) -> int:
    """What fills short rows; they are masked, so any token of the vocabulary will do where there is none for it."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def _encode(tokenizer, solutions: Iterable[Solution]) -> list[Encoded]:
    return encode_batch(
        tokenizer, [s.prompt for s in solutions], [s.completion for s in solutions], [s.steps or [] for s in solutions]
    )


def _feature(ids: list[int], columns: list[int], targets: list[float] | None = None) -> Feature:
    # Nothing after the last column can change a causal model's value there: those tokens are not computed.
    stop = max(columns) + 1 if columns else 0
    return Feature(
        torch.tensor(ids[:stop], dtype=torch.long),
        torch.tensor(columns, dtype=torch.long),
        None if targets is None else torch.tensor(targets, dtype=torch.float32),
    )


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
        raise UserError(f"{where}: {len(solution.labels)} labels for {len(solution.steps)} steps.")
    for label in solution.labels:
        if label is not None and not (isinstance(label, (int, float)) and 0 <= label <= 1):
            raise UserError(f"{where}: label {label!r}; labels are 0 (wrong) to 1 (right), or null where unknown.")
