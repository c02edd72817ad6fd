"""Whether a resumed run is the one that wrote the checkpoint.

Every setting is part of a run's identity unless it is marked `MayChange`, so a setting that nobody classified, ours or
one from a new version of a library, is compared. Checkpoints written before a setting existed, or before it was
compared, do not hold it and are not refused for it. Access tokens are neither stored nor compared.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlstep.runtime.config import settings
from rlstep.runtime.constraints import MayChange, constraints_of
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json

IDENTITY = "run_identity.json"


def run_identity(*configs) -> dict[str, Any]:
    """The settings, as plain values, that a resumed run must share with the original run."""
    return {
        name: value
        for config in configs
        for name, value in settings(config).items()
        if not any(isinstance(constraint, MayChange) for constraint in constraints_of(type(config))[name][1])
    }


def check_same_run(checkpoint: str | Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to resume a run with settings that differ from those it started with.

    Args:
        checkpoint: for the message.
        before: the identity stored in the checkpoint; what it lacks is not compared.
        now: the identity of the run that resumes.

    Raises:
        UserError: every setting that differs, with both values.
    """
    other = [name for name in now if name in before and not _same(before[name], now[name])]
    if other:
        differences = ", ".join(f"{name} {before[name]!r} (now {now[name]!r})" for name in other)
        raise UserError(
            f"{checkpoint} is from a run with {differences}. Resume with the same settings, or give this run an "
            "output_dir of its own."
        )


def _same(before, now) -> bool:
    """Whether two values are equal or name the same file: a folder may be given as a relative or an absolute path."""
    if before == now:
        return True
    if not (isinstance(before, str) and isinstance(now, str) and before and now):
        return False
    first, second = Path(before), Path(now)
    return first.exists() and second.exists() and first.samefile(second)


def identity_writer(identity: dict[str, Any]) -> Callable[[Path, bool], None]:
    """Writes a run's identity into each of its checkpoints (`WholeCheckpoints.checkpoint_writers`)."""

    def write(checkpoint: Path, writes: bool) -> None:
        if writes:
            write_json(checkpoint / IDENTITY, identity)

    return write


def check_checkpoint(checkpoint: str | Path | None, identity: dict[str, Any]) -> None:
    """`check_same_run` with what `identity_writer` wrote; a checkpoint of an older version, without it, is accepted."""
    file = Path(checkpoint) / IDENTITY if checkpoint else None
    if file is not None and file.is_file():
        check_same_run(checkpoint, json.loads(file.read_text(encoding="utf-8")), identity)
