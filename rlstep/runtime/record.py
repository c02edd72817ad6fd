"""The record a run leaves next to its output: its resolved configuration, versions, seed, commit and metrics.

A stage that fills a folder leaves `run.json` in it; one that writes `x.jsonl` leaves `x.jsonl.run.json` next to it.
"""

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import rlstep
from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import announce, mark_resumable
from rlstep.runtime.ranks import is_first_process
from rlstep.runtime.rows import write_json

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "pyarrow",
    "deepspeed",
    "wandb",
    "math-verify",
    "vllm",
)
RECORD = "run.json"


def is_record(path: Path) -> bool:
    """Whether a file is a run's record (`run.json`, `NAME.run.json`) rather than its output."""
    return path.name == RECORD or path.name.endswith("." + RECORD)


def is_stage(record: Path, stage: str) -> bool:
    """Whether a file is the record of a run of this stage."""
    try:
        return json.loads(record.read_text(encoding="utf-8")).get("stage") == stage
    except (OSError, ValueError, AttributeError):
        return False


def versions() -> dict[str, str]:
    installed = {"rlstep": rlstep.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def git_commit() -> str | None:
    """The commit of the running code, with `-dirty` appended if files differ; None outside a checkout."""
    root = Path(rlstep.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() or None


def digest(*parts) -> str:
    """A short stable hash of JSON-like values and of the contents of paths (files, or folders file by file).

    Run records are skipped: they hold times, which would make equal outputs differ.
    """
    total = hashlib.sha256()
    for part in parts:
        if not isinstance(part, Path):
            total.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\n")
            continue
        if not part.exists():
            raise UserError(f"{part}: no such file or folder. Check the path, or run the stage that writes it first.")
        files = [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.is_file() and not is_record(p))
        for file in files:
            # The size separates the end of one file from the start of the next.
            total.update(f"{file.relative_to(part)} {file.stat().st_size}\n".encode())
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    total.update(block)
    return total.hexdigest()[:20]


class RunRecord:
    """Times a stage and writes its record when it ends without an error.

    >>> with RunRecord("prepare", {"task": "arithmetic"}, folder, seed=0) as record:  # doctest: +SKIP
    ...     record.metrics["problems"] = 12

    Args:
        stage: the command's name.
        config: its resolved configuration, plain values.
        folder: where the record goes.
        seed: the run's seed, None for a deterministic stage.
        name: the record's file name; for an output file `x.jsonl` it is `x.jsonl.run.json`.
    """

    def __init__(self, stage: str, config: dict, folder: str | Path, seed: int | None = None, name: str = RECORD):
        self.stage, self.config, self.seed = stage, config, seed
        self.path = Path(folder) / name
        if not is_record(self.path):
            raise ValueError(f"'{name}' is not a name for a run's record; it must end in {RECORD}")
        self.metrics: dict = {}
        # Whether there is by now something that the stage can go on from after an error.
        self.kept: Callable[[], bool] = lambda: False
        # Called after the record is written, or on an error in its place, with the metrics and whether it failed.
        self.at_end: list[Callable[[dict, bool], None]] = []

    def about(self) -> dict:
        """What is known of the run before it ends: stage, commit, versions and every setting, on one level."""
        return {"stage": self.stage, "commit": git_commit(), "versions": versions(), **self.config}

    def __enter__(self) -> "RunRecord":
        self._start, self._processor_start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, kind, error, _):
        # Only the first of several processes writes; the others would race it for the same file.
        if kind is None and is_first_process():
            write_json(
                self.path,
                {
                    "stage": self.stage,
                    "seed": self.seed,
                    "commit": git_commit(),
                    "versions": versions(),
                    "seconds": round(time.perf_counter() - self._start, 3),
                    "processor_seconds": round(time.process_time() - self._processor_start, 3),
                    "metrics": self.metrics,
                    "config": self.config,
                },
            )
        if error is not None:
            if self.kept():
                mark_resumable(error)
            if self.at_end:  # which may take long
                announce(error)
        for ended in self.at_end:
            ended(self.metrics, kind is not None)
