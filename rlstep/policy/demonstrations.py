"""Demonstrations as training rows: tokens, with the loss only on the completion's."""

from datasets import Dataset

from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import refuse_halves
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution


def tokenize(tokenizer, solutions: list[Solution], prompt_format: PromptFormat, end: int) -> Dataset:
    """Prompts and completions as tokens, all at once: TRL's own preparation goes row by row.

    The completion is tokenised apart from the prompt, as it will be when it is sampled, and ends with the token `end`.
    """
    prompts = prompt_format.encode(tokenizer, [s.prompt for s in solutions])
    refuse_halves(s.completion for s in solutions)
    completions = tokenizer([s.completion for s in solutions], add_special_tokens=False)["input_ids"]
    rows = {"input_ids": [], "completion_mask": []}
    for prompt_ids, completion_ids in zip(prompts, completions, strict=True):
        completion_ids = [*completion_ids, end]
        rows["input_ids"].append(prompt_ids + completion_ids)
        rows["completion_mask"].append([0] * len(prompt_ids) + [1] * len(completion_ids))
    return Dataset.from_dict(rows)


def check_lengths(solutions: list[Solution], rows: Dataset, cut: int | None, limit: int | None) -> None:
    """Refuses demonstrations that exceed the model's context, unless they are to be truncated."""
    for solution, ids in zip(solutions, rows["input_ids"], strict=True):
        tokens = min(len(ids), cut or len(ids))
        if limit is not None and tokens > limit:
            raise UserError(
                f"the demonstration of '{solution.problem_id}' has {tokens} tokens, more than the model's {limit}"
                " positions. Drop it, set max_length to cut it, or take a model with a longer context."
            )
