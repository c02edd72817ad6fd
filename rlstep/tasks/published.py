"""Tasks of published problems with reference solutions: from a folder, a file or the hub, drawn by seed."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompts import Prompt, problem_text, prompt_key
from rlstep.steps.readers import ReadReport, read, reader_of
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Problem, Solution
from rlstep.steps.sources import Row, is_hub_id

SPLITS = ("train", "test")
VOCABULARY = 1024
TOKENIZER_ROWS = 2000


class PublishedTask:
    """What tasks on published data share; a subclass names its data and has the checker.

    Args:
        path: a folder with train.jsonl and test.jsonl, or with shards (`rlstep.steps.sources`) that have these words in
            their names; or one file, a fixed quarter of whose rows is the test split; or the id of a data set on the
            Hugging Face hub. Nothing is read before problems are asked for.
        boundary: what the checker takes for a step.
    """

    name: ClassVar[str]
    """The task's name, and that of the format of its rows (`rlstep.steps.readers`)."""
    hub_id: ClassVar[str]
    """The data set that is read if no path is given."""
    hub_config: ClassVar[str | None] = None
    """The configuration to use of a hub data set that has several."""
    splits = SPLITS

    def __init__(self, path: str | None = None, boundary: Boundary = Boundary()):  # noqa: B008 - frozen
        self.path, self.boundary = path or self.hub_id, boundary
        self._published: dict[str, list[Solution]] = {}

    def published(self, split: str) -> list[Solution]:
        """Every problem of a split with its reference solution, in the order of the rows; of equal ones the first."""
        if split not in SPLITS:
            raise UserError(f"{self.name} has no split '{split}'; there are {', '.join(SPLITS)}.")
        if split not in self._published:
            first: dict[str, Solution] = {}
            for solution in self._read(split):
                first.setdefault(prompt_key(solution.prompt), solution)
            self._published[split] = list(first.values())
        return self._published[split]

    def problems(self, split: str, n: int, seed: int) -> list[Problem]:
        # Some data sets have only one split: asking for nothing from the other must not fail.
        rows = self.draw(self.published(split), split, n, seed) if n else []
        return [Problem(s.problem_id, s.prompt, s.reference, s.extra) for s in rows]

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """n reference solutions of the training split."""
        rows = self.draw(self.published("train"), "train", n, seed) if n else []
        return [Solution(s.problem_id, s.prompt, s.completion, s.reference) for s in rows]

    def tokenizer(self):
        """A byte-level BPE with a small vocabulary, trained on training rows; every digit is its own token."""
        from rlstep.tasks.wordlevel import word_level_tokenizer

        texts = [problem_text(s.prompt) + s.completion for s in self.published("train")[:TOKENIZER_ROWS]]
        # Qwen2's own class splits the text: AutoTokenizer loads it so, whatever class was saved beside a Qwen2 model.
        tokenizer = word_level_tokenizer([]).train_new_from_iterator(texts, VOCABULARY, show_progress=False)
        tokenizer.model_max_length = 1024
        return tokenizer

    def draw(self, rows: Sequence[Solution], split: str, n: int, seed: int) -> list[Solution]:
        """n of a split's rows, by the seed."""
        if n > len(rows):
            raise UserError(
                f"{self.path}: {n} rows of the split {split} were asked for; there are {len(rows)}. Ask for fewer."
            )
        return random.Random(f"{split} {seed}").sample(rows, n)

    def _read(self, split: str) -> Iterator[Solution]:
        path = Path(self.path)
        if path.is_dir():
            own = path / f"{split}.jsonl"
            yield from read(self.name, own) if own.is_file() else read(self.name, path, split=split)
        elif path.is_file():
            yield from (s for s in read(self.name, path) if split_of(s.prompt) == split)
        else:
            reader, report = reader_of(self.name), ReadReport()
            for number, values in enumerate(self._from_hub(split), start=1):
                yield from reader.solutions(Field.of(Row(f"{self.path}/{split}", number, values)), report)

    def _from_hub(self, split: str):
        """The hub's rows, from its cache where they are there: a training machine may have no network."""
        if not is_hub_id(self.path):
            raise UserError(
                f"{self.path}: no such file or folder. Give a folder with files of the splits train and test, or a "
                "hub id."
            )
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError

        try:
            return load_dataset(self.path, self.hub_config, split=split)
        except (DatasetNotFoundError, ConnectionError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            wanted = f"split '{split}'" + (f" of its configuration '{self.hub_config}'" if self.hub_config else "")
            raise UserError(
                f"{self.path}: neither a file nor a folder here, and the hub does not give the {wanted}: {reason}"
                " Give a folder with files of the splits train and test where there is no network."
            ) from None


def split_of(prompt: Prompt) -> str:
    """Which split a row of a single file belongs to: a property of its text, so no seed can make the two overlap."""
    text = problem_text(prompt)
    return "test" if hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] < 64 else "train"
