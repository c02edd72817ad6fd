"""GSM8K, grade-school word problems (Cobbe et al. 2021): real text, with a checker of each step's arithmetic.

A published solution, one step a line::

    Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.
    She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.
    #### 18

The checker judges what the calculator annotations `<<expression=value>>` state, exactly (`rlstep.tasks.calculator`). It
does not read the words: a step that calculates correctly what was not asked for is right to it, and a step without an
annotation gets no label.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path

from rlstep.runtime.errors import UserError
from rlstep.steps.answers import extract, same_answer
from rlstep.steps.boundaries import line_steps
from rlstep.steps.readers import gsm8k_solution, read
from rlstep.steps.records import Problem, Solution
from rlstep.tasks.base import Check
from rlstep.tasks.calculator import annotations_hold

HUB_ID = "openai/gsm8k"
SPLITS = ("train", "test")
VOCABULARY = 1024
TOKENIZER_ROWS = 2000

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class GSM8K:
    """The task `gsm8k`. Splits: train, test.

    Args:
        path: a folder with train.jsonl and test.jsonl; or one JSONL file, a fixed quarter of whose rows is the test
            split; or the id of a data set on the Hugging Face hub. Nothing is read before problems are asked for.
    """

    name = "gsm8k"
    splits = SPLITS

    def __init__(self, path: str = HUB_ID):
        self.path = path
        self._published: dict[str, list[Solution]] = {}

    def published(self, split: str) -> list[Solution]:
        """Every problem of a split with its published solution, in the file's order."""
        if split not in SPLITS:
            raise UserError(f"gsm8k has no split '{split}'; there are {', '.join(SPLITS)}.")
        if split not in self._published:
            self._published[split] = list(self._read(split))
        return self._published[split]

    def problems(self, split: str, n: int, seed: int) -> list[Problem]:
        return [Problem(s.problem_id, s.prompt, s.reference) for s in self._draw(split, n, seed)]

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """n published solutions of the training split."""
        return [Solution(s.problem_id, s.prompt, s.completion, s.reference) for s in self._draw("train", n, seed)]

    def check(self, prompt: str, completion: str, reference: str) -> Check:
        """Steps are lines. A line that states an answer is right when the answer is; any other by its annotations."""
        spans = line_steps(completion)
        labels = [_label(completion[start:end], reference) for start, end in spans]
        answer = extract(completion)
        return Check(spans, labels, answer, answer is not None and same_answer(answer, reference))

    def tokenizer(self):
        """A byte-level BPE with a small vocabulary, trained on training rows; every digit is its own token."""
        from rlstep.tasks.wordlevel import word_level_tokenizer

        texts = [s.prompt + s.completion for s in self.published("train")[:TOKENIZER_ROWS]]
        # Qwen2's own class splits the text: AutoTokenizer loads it so, whatever class was saved beside a Qwen2 model.
        tokenizer = word_level_tokenizer([]).train_new_from_iterator(texts, VOCABULARY, show_progress=False)
        tokenizer.model_max_length = 1024
        return tokenizer

    def _draw(self, split: str, n: int, seed: int) -> list[Solution]:
        rows = self.published(split)
        if n > len(rows):
            raise UserError(
                f"{self.path}: {n} rows of the split {split} were asked for; there are {len(rows)}. Ask for fewer."
            )
        return random.Random(f"{split} {seed}").sample(rows, n)

    def _read(self, split: str) -> Iterator[Solution]:
        path = Path(self.path)
        if path.is_dir():
            yield from read("gsm8k", path / f"{split}.jsonl")
        elif path.is_file():
            yield from (s for s in read("gsm8k", path) if _split_of(s.prompt) == split)
        else:
            for number, row in enumerate(_from_hub(self.path, split), start=1):
                yield gsm8k_solution(row, f"gsm8k-{split}-{number}", f"{self.path} ({split})", number)


def _label(line: str, reference: str) -> int | None:
    holds, answer = annotations_hold(line), extract(line)
    if answer is not None:
        return int(holds is not False and same_answer(answer, reference))
    return None if holds is None else int(holds)


def _split_of(prompt: str) -> str:
    """Which split a row of a single file belongs to: a property of its text, so no seed can make the two overlap."""
    return "test" if hashlib.sha256(prompt.encode()).digest()[0] < 64 else "train"


def _from_hub(name: str, split: str):
    if name.endswith((".jsonl", ".json")) or not _HUB_ID.fullmatch(name):
        raise UserError(f"{name}: no such file or folder. Give a folder with train.jsonl and test.jsonl, or a hub id.")
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(name, "main", split=split)
    except (DatasetNotFoundError, ConnectionError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: neither a file nor a folder here, and the hub does not give its configuration 'main': {reason}"
            " Give a folder with train.jsonl and test.jsonl where there is no network."
        ) from None
