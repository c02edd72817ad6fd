"""Parquet files: reads rows from any, and writes solutions with a fixed schema, a batch at a time.

The schema is explicit, because pyarrow would infer it from the first batch: a column that begins with nulls, or labels
that begin with whole numbers, would reject later rows. pyarrow is imported when it is needed.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.file_kinds import refuse_other_kind
from rlstep.runtime.halves import encodable
from rlstep.runtime.rows import atomic

READ_ROWS = 256
# A row group: large enough to compress well, small enough for any memory.
WRITE_ROWS = 4096


def solution_schema():
    """The columns of a file of solutions: the fields of `rlstep.steps.records.Solution`, in their order.

    A column has one type, so a prompt is in `prompt` if it is text and in `messages` if it is a list of messages, and
    `prompt_format` and `extra`, which may hold anything, are JSON. `scores` is a list of names with values and no map,
    which `datasets.load_dataset` refuses. `rlstep.steps.columns` reads them.
    """
    import pyarrow as pa

    number, text = pa.int64(), pa.string()
    return pa.schema(
        [
            pa.field("problem_id", text, nullable=False),
            pa.field("prompt", text),
            pa.field("messages", pa.list_(pa.struct([("role", text), ("content", text)]))),
            pa.field("completion", text, nullable=False),
            pa.field("reference", text, nullable=False),
            pa.field("sample", number, nullable=False),
            pa.field("finished", pa.bool_(), nullable=False),
            pa.field("steps", pa.list_(pa.list_(number))),
            pa.field("labels", pa.list_(pa.float64())),
            pa.field("answer", text),
            pa.field("correct", pa.bool_()),
            pa.field(
                "scores", pa.list_(pa.struct([("name", text), ("values", pa.list_(pa.float64()))])), nullable=False
            ),
            pa.field("neutral", pa.list_(number)),
            pa.field("tree", text),
            pa.field("prompt_format", text),
            pa.field("extra", text),
            pa.field("generated_tokens", number),
        ]
    )


def read_parquet(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yields (row number from 1, row) of a Parquet file, holding a few hundred rows at a time.

    Raises:
        UserError: the file is missing, is not Parquet, or has no rows.
        DataError: a map column holds a key twice, or a value is none that Python has.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Check the path, or run the stage that writes it first.")
    with path.open("rb") as file:
        refuse_other_kind(path, file, ".parquet")
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(READ_ROWS):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    yield number, row
    except KeyError as error:
        raise DataError(path, number + 1, None, f"in this row or soon after: {error.args[0]}.") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not readable as Parquet ({reason}). Write it again, or give another file.") from None
    except (OverflowError, ValueError) as error:
        # A date that Python's types have no room for.
        raise DataError(path, number + 1, None, f"in this row or soon after: {error}.") from None
    if not number:
        raise UserError(f"{path}: the file has no rows. Run the stage that writes it again, or give another file.")


def write_parquet(path: str | Path, rows: Iterable[dict]) -> int:
    """Writes rows of solutions (`Solution.to_row`) to a Parquet file, atomically; returns their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, rows, count = solution_schema(), iter(rows), 0
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
        while batch := list(islice(rows, WRITE_ROWS)):
            columns = [_in_columns(row) for row in batch]
            try:
                file.write_table(pa.Table.from_pylist(columns, schema))
            except UnicodeEncodeError:
                halves = next(row for row in batch if not encodable(json.dumps(row, ensure_ascii=False)))
                raise UserError(
                    f"{path}: problem {halves['problem_id']!a}, sample {halves['sample']}: half a surrogate pair is no "
                    "character, and Parquet has no place for it. Replace it in the data, or write NAME.jsonl."
                ) from None
            count += len(batch)
    return count


def _in_columns(row: dict) -> dict:
    is_text, written = isinstance(row["prompt"], str), row.get("prompt_format")
    return row | {
        "prompt": row["prompt"] if is_text else None,
        "messages": None if is_text else row["prompt"],
        "prompt_format": None if written is None else json.dumps(written, ensure_ascii=False),
        "extra": json.dumps(row["extra"], ensure_ascii=False) if row.get("extra") else None,
        "scores": [{"name": name, "values": values} for name, values in row["scores"].items()],
    }
