"""Which tokens a verifier is trained on and read at. Training and scoring both come here.

A PRM speaks at each step's last token. An ORM is trained at every token of the completion (paper, appendix E) and read
at the step ends, the last of which is the completion's last token.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlstep.runtime.errors import UserError
from rlstep.steps.labels import UNKNOWN, LabelPolicy
from rlstep.steps.positions import Encoded, encode_batch
from rlstep.steps.records import Solution
from rlstep.steps.trees import Beginnings
from rlstep.verifiers.model import Kind
from rlstep.verifiers.packing import added_mask, forest_mask, pack

CHUNK = 4096  # rows tokenised at a time: bounds the memory that offsets take


@dataclass(frozen=True)
class Feature:
    """One row for the model.

    Attributes:
        ids: (T,) tokens of the prompt and of the completion up to the last column.
        columns: (N,) indices into `ids` where the verifier speaks.
        targets: (N,) its targets there (`rlstep.steps.labels`); None when it is only asked.
        problem: the problem's number in the data; rows of one problem never lie in two halves of a split.
        tree: rows with the same tree share prefixes and are trained in one batch.
        shared: how many of the first columns are steps whose labels count with another row.
    """

    ids: Tensor
    columns: Tensor
    targets: Tensor | None = None
    problem: int = 0
    tree: str | None = None
    shared: int = 0


def score_columns(kind: Kind, encoded: Encoded) -> list[int]:
    """For each step, the index of the token at which the verifier's value is read."""
    if kind == "orm" and encoded.step_ends:
        return [*encoded.step_ends[:-1], len(encoded.ids) - 1]
    return encoded.step_ends


def train_columns(
    kind: Kind, encoded: Encoded, solution: Solution, policy: LabelPolicy
) -> tuple[list[int], list[float]]:
    """(columns, targets) of a solution.

    PRM: each step's target at its end, `UNKNOWN` where the policy teaches nothing. ORM: whether the answer is right, at
    every token of the completion.
    """
    if kind == "orm":
        columns = list(range(encoded.prompt_length, len(encoded.ids)))
        return columns, [float(solution.correct)] * len(columns)
    return score_columns(kind, encoded), policy.targets(solution)


def train_features(
    kind: Kind,
    solutions: Sequence[Solution],
    tokenizer,
    max_length: int | None,
    policy: LabelPolicy = LabelPolicy(),  # noqa: B008 - frozen
    keep_unknown: bool = False,
    whole_rows: bool = False,
) -> tuple[list[Feature], dict[str, int]]:
    """Tokenises labelled solutions once, before training.

    Args:
        kind: prm or orm.
        solutions: labelled with steps (prm) or with correctness (orm).
        tokenizer: the verifier's.
        max_length: positions of the model; steps that end beyond them are dropped whole, and rows left without any.
        policy: how labels become targets.
        whole_rows: drop rows that do not fit, instead of what lies behind the limit.
        keep_unknown: ask at steps without a target and at those that are counted with another solution, too; evaluation
            does, for what it says of whole solutions.

    Returns:
        The rows, and counts: rows and positions kept, positions dropped as too long, rows dropped as too long or
        without a label.

    Raises:
        UserError: a solution is not labelled, or a label is not in [0, 1].
    """
    for number, solution in enumerate(solutions, start=1):
        _check_labels(kind, number, solution)
    counts = Counter(dict.fromkeys(("rows", "positions", "positions_too_long", "rows_too_long", "rows_unlabelled"), 0))
    features, problems, beginnings = [], {}, Beginnings()
    for start in range(0, len(solutions), CHUNK):
        chunk = solutions[start : start + CHUNK]
        for solution, encoded in zip(chunk, _encode(tokenizer, chunk), strict=True):
            asked = list(zip(*train_columns(kind, encoded, solution, policy), strict=True))
            shared = beginnings.shared(solution) if kind == "prm" else 0
            known = _count_known(asked[shared:])
            if whole_rows and max_length is not None and len(encoded.ids) > max_length:
                counts["positions_too_long"] += known
                counts["rows_too_long"] += 1
                continue
            fit = [(c, t) for c, t in asked if max_length is None or c < max_length]
            known_fit = _count_known(fit[shared:])
            counts["positions_too_long"] += known - known_fit
            if known_fit == 0:
                counts["rows_too_long" if known else "rows_unlabelled"] += 1
                continue
            if not keep_unknown:
                fit = [(c, t) for c, t in fit[shared:] if t != UNKNOWN]
                shared = 0
            beginnings.take(solution)
            counts["rows"] += 1
            counts["positions"] += known_fit
            columns, targets = zip(*fit, strict=True)
            problem = problems.setdefault(solution.problem_id, len(problems))
            features.append(_feature(encoded.ids, columns, targets, problem, solution.tree, shared))
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


def collate(features: Sequence[Feature], pad_id: int, packing: bool, work: float | None = None) -> dict[str, Tensor]:
    """A batch: the tokens, (rows, columns) where they are asked, `owners` (N,) the feature asked, labels where known.

    Args:
        features: F rows, none empty.
        pad_id: fills what is not used.
        packing: lay rows out in bins, shared prefixes once, instead of one row each; `ends` then holds the mask.
        work: `packing.work_per_token` of the model.
    """
    counts_F = torch.tensor([len(feature.columns) for feature in features])
    batch = {"owners": torch.repeat_interleave(torch.arange(len(features)), counts_F)}
    if packing:
        packed = pack([feature.ids.tolist() for feature in features], pad_id, work_per_token=work)
        batch |= {"input_ids": packed.input_ids, "position_ids": packed.position_ids, "ends": packed.ends}
        batch["rows"] = torch.tensor(packed.bins)[batch["owners"]]
        places = [places[feature.columns] for places, feature in zip(packed.places, features, strict=True)]
        batch["columns"] = torch.cat(places)
    else:
        lengths_F = torch.tensor([len(feature.ids) for feature in features])
        input_ids_FT = pad_sequence([feature.ids for feature in features], batch_first=True, padding_value=pad_id)
        batch |= {
            "input_ids": input_ids_FT,
            "attention_mask": (torch.arange(input_ids_FT.shape[1]) < lengths_F[:, None]).long(),
            "rows": batch["owners"],
            "columns": torch.cat([feature.columns for feature in features]),
        }
    if features[0].targets is not None:
        batch["labels"] = torch.cat([feature.targets for feature in features])
        # For a causal LM the Trainer counts a batch's labels without the first, unless it finds these.
        batch["shift_labels"] = batch["labels"]
        batch["problems"] = torch.tensor([feature.problem for feature in features])
        batch["shared"] = torch.tensor([feature.shared for feature in features])
    return batch


def model_inputs(batch: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """What `classify_at` takes of a batch; the mask of packed rows is made here, on the batch's own device.

    Args:
        batch: of `collate`, on the model's device.
        dtype: for an attention that adds its mask ("eager"), the type to make it of; None for one that takes booleans.
    """
    found = {name: batch[name] for name in ("input_ids", "rows", "columns")}
    if "ends" not in batch:
        return found | {"attention_mask": batch["attention_mask"]}
    mask = forest_mask(batch["ends"])
    if dtype is not None:
        mask = added_mask(mask, dtype)
    return found | {"attention_mask": mask, "position_ids": batch["position_ids"]}


def pad_id_of(tokenizer) -> int:
    """What fills short rows; they are masked, so any token of the vocabulary will do where there is none for it."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def _encode(tokenizer, solutions: Iterable[Solution]) -> list[Encoded]:
    return encode_batch(
        tokenizer, [s.prompt for s in solutions], [s.completion for s in solutions], [s.steps or [] for s in solutions]
    )


def _count_known(asked: Sequence[tuple[int, float]]) -> int:
    return sum(target != UNKNOWN for _, target in asked)


def _feature(
    ids: list[int], columns: Sequence[int], targets=None, problem: int = 0, tree=None, shared: int = 0
) -> Feature:
    # Nothing after the last column can change a causal model's value there: those tokens are not computed.
    stop = max(columns) + 1 if columns else 0
    return Feature(
        torch.tensor(ids[:stop], dtype=torch.long),
        torch.tensor(columns, dtype=torch.long),
        None if targets is None else torch.tensor(targets, dtype=torch.float32),
        problem,
        tree,
        shared,
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
