"""Readers of solution files: other people's formats in, `Solution` records out.

A reader is a function from a path to an iterator of solutions; `FORMATS` names them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import read_rows
from rlstep.steps.records import Solution, iter_solutions

GSM8K_PROMPT = "Question: {question}\nAnswer:\n"
GSM8K_ANSWER = "####"


def read(format: str, path: str | Path) -> Iterator[Solution]:
    """Yields the solutions of a file.

    Args:
        format: one of `FORMATS`: `solutions` is what rlstep's stages write; `gsm8k` the published
            JSONL of GSM8K, each row's answer being its reference solution.
        path: the file.

    Raises:
        UserError: an unknown format, no such file, an empty file.
        DataError: a row is malformed; names file, row and field.
    """
    if format not in _READERS:
        raise UserError(f"no format '{format}'; there are {', '.join(FORMATS)}.")
    return _READERS[format](path)


def gsm8k_solution(row: dict, problem_id: str, path, number: int) -> Solution:
    """The published solution of one row `{"question", "answer"}`, calculator annotations and all.

    Args:
        row: the row.
        problem_id: the id that the problem gets.
        path, number: where the row stands, for errors.
    """
    for name in ("question", "answer"):
        if name not in row:
            raise DataError(path, number, name, "missing; a GSM8K row has 'question' and 'answer'.")
        if not isinstance(row[name], str) or not row[name].strip():
            raise DataError(path, number, name, f"expected text, found {row[name]!r}.")
    _, mark, reference = row["answer"].rpartition(GSM8K_ANSWER)
    if not mark or not reference.strip():
        raise DataError(path, number, "answer", f"no final answer; expected a last line '{GSM8K_ANSWER} number'.")
    prompt = GSM8K_PROMPT.format(question=row["question"].strip())
    return Solution(problem_id, prompt, row["answer"].rstrip(), reference.strip())


def _read_gsm8k(path: str | Path) -> Iterator[Solution]:
    stem = Path(path).stem
    for number, row in read_rows(path):
        yield gsm8k_solution(row, f"gsm8k-{stem}-{number}", path, number)


_READERS: dict[str, Callable[[str | Path], Iterator[Solution]]] = {"solutions": iter_solutions, "gsm8k": _read_gsm8k}
FORMATS = tuple(_READERS)
