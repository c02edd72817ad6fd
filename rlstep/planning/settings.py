"""A recipe's settings as a plan reads them: with the defaults that depend on others resolved."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlstep.core.memory import Precision, Zero
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import read_rows
from rlstep.steps.sources import shards

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Numbers that an optimizer keeps for each trained one, by the beginning of its name; 8 bits are a quarter of a number.
_STATES = {
    "adamw_8bit": 0.5, "adamw_bnb": 0.5, "paged_adamw_8bit": 0.5, "adamw": 2.0, "paged_adamw": 2.0, "lion": 1.0,
    "adafactor": 0.0, "sgd": 0.0, "adagrad": 1.0, "rmsprop": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What a run would have.

    Attributes:
        gpus: their number.
        memory: of one of them, in GiB.
        tflops: 10^12 operations per second that one of them can do.
        utilisation, sampling_utilisation: the share of these that training and sampling reach.
        headroom: the share of a GPU's memory that a plan leaves free.
    """

    gpus: int
    memory: float
    tflops: float
    utilisation: float
    sampling_utilisation: float
    headroom: float


@dataclass(frozen=True)
class Lengths:
    """How long rows are, in tokens.

    Attributes:
        prompt: the longest.
        completion: the longest where a recipe has no limit of its own.
        filled: how long rows are on average, as a share of the longest.
        rows: number of rows of the data, where the file is not there; None if it was not given.
    """

    prompt: int
    completion: int
    filled: float
    rows: int | None = None

    def average(self, tokens: int) -> int:
        return max(1, round(tokens * self.filled))


def zero_of(path: str | None) -> Zero:
    """What a DeepSpeed configuration shards and moves away.

    Raises:
        UserError: it cannot be read.
    """
    if path is None:
        return Zero()
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8")).get("zero_optimization", {})
        away = [settings.get(f"offload_{part}", {}).get("device", "none") != "none" for part in ("optimizer", "param")]
        return Zero(int(settings.get("stage", 0)), *away, engine=True)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"deepspeed {path}: no DeepSpeed configuration can be read from here ({error}).") from None


def precision_of(stage: str, values: Mapping, config_dtype: str | None, zero: Zero) -> Precision:
    """Bytes of a weight, and where matrices are multiplied.

    TRL trains in bfloat16 where neither `bf16` nor `fp16` is set, transformers' Trainer only if told to. DeepSpeed
    casts the weights themselves.
    """
    weights = bytes_of(values.get("dtype"), config_dtype)
    bf16 = values.get("bf16")
    mixed = bool(values.get("fp16")) or (stage in ("sft", "ppo") if bf16 is None else bool(bf16))
    if mixed and zero.engine:
        weights = 2
    return Precision(weights, 2 if mixed else weights)


def bytes_of(dtype: str | None, config_dtype: str | None = None) -> int:
    """Bytes of a number of this type (`dtype_of`)."""
    return BYTES.get(dtype_of(dtype, config_dtype), 4)


def dtype_of(dtype: str | None, config_dtype: str | None = None) -> str:
    """The type that weights are loaded in: of "auto" the checkpoint's, of None float32, as in TRL."""
    return (config_dtype if dtype == "auto" else dtype) or "float32"


def checkpointing_of(values: Mapping) -> bool:
    """Whether activations are computed again; the setting has an old name and a new one."""
    new = values.get("activation_checkpointing")
    return bool(values.get("gradient_checkpointing") if new is None else new)


def optimizer_states(optim: str) -> float:
    """Numbers that the optimizer keeps for each trained one.

    Raises:
        UserError: it is not known.
    """
    for name in sorted(_STATES, key=len, reverse=True):
        if optim.startswith(name):
            return _STATES[name]
    raise UserError(f"optim '{optim}': a plan does not know its states; it knows {', '.join(_STATES)}.")


def updates_of(values: Mapping, rows: int | None, rows_per_update: int, steps_per_update: float = 1.0) -> float | None:
    """Updates of a run; None where it is as long as data that is not there.

    Args:
        values: with `max_steps`, optimizer steps, or `num_train_epochs`.
        rows: of the data.
        rows_per_update: of them, in one update.
        steps_per_update: optimizer steps that an update has.
    """
    if (steps := values.get("max_steps") or -1) > 0:
        return steps / steps_per_update
    return None if rows is None else values["num_train_epochs"] * rows / rows_per_update


def rows_in(path: str, otherwise: int | None) -> int | None:
    """Rows of a file or of a folder of shards; `otherwise` where there is neither.

    Raises:
        UserError: a folder without shards, or a file that cannot be read.
    """
    return sum(map(_rows_of_file, shards(path))) if Path(path).exists() else otherwise


def _rows_of_file(file: Path) -> int:
    if file.suffix == ".jsonl":
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    if file.suffix == ".parquet":
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(file) as table:
                return table.metadata.num_rows
        except ArrowException as error:
            raise UserError(f"{file}: not readable as Parquet ({str(error).splitlines()[0]}).") from None
    return sum(1 for _ in read_rows(file))
