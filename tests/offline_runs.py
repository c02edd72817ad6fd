"""Reads back what wandb wrote offline: its files are LevelDB logs of protocol buffers."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = range(1, 5)


@dataclass
class OfflineRun:
    """One run, as the server would get it."""

    id: str = ""
    project: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[tuple[str, str, list[str]]] = field(default_factory=list)  # name, type, files
    exit_code: int | None = None


def read_offline(folder: Path) -> list[OfflineRun]:
    """The runs in a wandb folder, oldest first; a run that was resumed is there once for each part."""
    import wandb

    wandb.teardown()  # waits until its service has written what it holds
    return [_run(file) for file in sorted(folder.glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)]


def _run(file: Path) -> OfflineRun:
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun()
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                about = record.run
                run.id, run.project, run.name = about.run_id, about.project, about.display_name
                run.group, run.job_type, run.tags = about.run_group, about.job_type, list(about.tags)
                run.config |= _values(about.config.update)
            case "config":
                run.config |= _values(record.config.update)
            case "history":
                run.history.append(_values(record.history.item))
            case "summary":
                run.summary |= _values(record.summary.update)
            case "artifact":
                names = [entry.path for entry in record.artifact.manifest.contents]
                run.artifacts.append((record.artifact.name, record.artifact.type, sorted(names)))
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def _values(items) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes):
    assert content[:4] == b":W&B"
    place, parts = HEADER, []
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        parts.append(content[place + HEADER : place + HEADER + size])
        place += HEADER + size
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []
