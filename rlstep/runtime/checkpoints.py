"""Checkpoint folders: which one a run can continue from, how one is written atomically, and its state files.

A checkpoint is built in a hidden folder next to its destination (`.checkpoint-8.partial/checkpoint-8`) and renamed once
every byte of it is on disk. A kill at any moment leaves the earlier checkpoints intact and, at worst, a hidden folder,
which the next save or start removes. One that takes the place of another of the same step is on disk under one name or
another at any moment: `checkpoint_to_continue` gives it its own if a kill came in between.
"""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from rlstep.runtime.errors import UserError

logger = logging.getLogger(__name__)

# The Trainer writes its state last, so a folder without it was interrupted by a kill.
COMPLETE_MARK = "trainer_state.json"
# One file per rank, in addition to what the Trainer saves: without them a PPO run would not continue exactly.
STATE_MARK = "state_*.json"
# Errors of `torch.save` have no class of their own.
OF_A_FILE = ("PytorchStreamWriter failed", "iostream error")
# Beside a checkpoint that is whole and takes the place of this one.
REPLACED = "replaced"


def checkpoint_to_continue(folder: str | Path) -> str | None:
    """Path of the newest checkpoint that a run can continue from exactly, or None; as `newest_checkpoint`.

    It first ends what a kill cut short when a checkpoint took the place of another. Every process may call it.
    """
    for replaced in Path(folder).glob(f".checkpoint-*.partial/{REPLACED}"):
        name = replaced.parent.name.removeprefix(".").removesuffix(".partial")
        if not (checkpoint := Path(folder) / name).exists():
            with suppress(FileNotFoundError):  # another process has just done so
                (replaced.parent / name).rename(checkpoint)
    return newest_checkpoint(folder, exact=True)


def newest_checkpoint(folder: str | Path, exact: bool = False) -> str | None:
    """Path of the newest complete `checkpoint-N` in `folder`, or None; a warning names the incomplete ones.

    Args:
        folder: a run's output folder; it need not exist.
        exact: also skip those without state files.
    """
    marks = [COMPLETE_MARK, STATE_MARK] if exact else [COMPLETE_MARK]
    complete = []
    for path in Path(folder).glob("checkpoint-*"):
        step = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if not step:
            continue
        missing = [mark for mark in marks if not any(path.glob(mark))]
        if not missing:
            complete.append((int(step[1]), path))
        elif missing[0] == COMPLETE_MARK:
            logger.warning("%s is half-written (no %s) and is skipped", path, COMPLETE_MARK)
        else:
            logger.warning("%s cannot be continued exactly (no %s) and is skipped", path, STATE_MARK)
    return str(max(complete)[1]) if complete else None


def checkpoint_files(path: str | Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a local checkpoint's files, which change when it is retrained; empty for a hub id."""
    folder = Path(path)
    if not folder.is_dir():
        return []
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".json")]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


# --- Atomic writing.


def partial_path(checkpoint: Path) -> Path:
    """Where `checkpoint` is built: a folder of the same name, on the same file system, that no reader picks up."""
    return checkpoint.with_name(f".{checkpoint.name}.partial") / checkpoint.name


@contextmanager
def being_written(checkpoint: Path) -> Iterator[None]:
    """Names the checkpoint in errors of the disk, which each library raises in a class and in words of its own.

    Raises:
        OSError: it cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(mark in str(error) for mark in OF_A_FILE):
            raise
        raise OSError(f"{checkpoint} cannot be written: {error}") from error


def commit(partial: Path, checkpoint: Path) -> None:
    """Moves a folder from `partial_path(checkpoint)` to `checkpoint` once all of it is on disk.

    A folder that is already at `checkpoint`, from an abandoned continuation of the run, is replaced.
    """
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    if checkpoint.exists():
        checkpoint.rename(partial.with_name(REPLACED))
    partial.rename(checkpoint)
    _sync(checkpoint.parent)
    shutil.rmtree(partial.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: str | Path) -> None:
    """Removes what interrupted saves and removals left in a run's output folder, with one warning."""
    leftovers = sorted(Path(folder).glob(".checkpoint-*.partial"))
    for path in leftovers:
        shutil.rmtree(path)
    if leftovers:
        names = ", ".join(path.name for path in leftovers)
        logger.warning("removed from %s what was written or removed when a run was interrupted: %s", folder, names)


def remove_old(folder: str | Path, limit: int | None, keep: Iterable[str | None] = ()) -> None:
    """Removes the oldest checkpoints down to a number; the newest one and those to keep stay, also beyond it.

    A checkpoint that is removed is gone by its name before its files are: what a kill leaves of it is a hidden folder.
    """
    if not limit or limit < 0:
        return
    oldest_first = sort_checkpoints(str(folder), PREFIX_CHECKPOINT_DIR, use_mtime=True)
    stay = {Path(path).resolve() for path in [*oldest_first[-1:], *filter(None, keep)]}
    old = [Path(path) for path in oldest_first if Path(path).resolve() not in stay]
    for checkpoint in old[: max(0, len(oldest_first) - max(limit, len(stay)))]:
        _remove(checkpoint)


def keep_only(checkpoint: str | Path) -> None:
    """Removes all other checkpoints of its folder, as `remove_old` does."""
    for other in sort_checkpoints(str(Path(checkpoint).parent), PREFIX_CHECKPOINT_DIR):
        if Path(other).name != Path(checkpoint).name:
            _remove(Path(other))


def _remove(checkpoint: Path) -> None:
    partial = partial_path(checkpoint)
    partial.parent.mkdir(exist_ok=True)
    checkpoint.rename(partial)
    shutil.rmtree(partial.parent)


# --- State files: `NAME.json` holds the tree, `NAME.safetensors` its tensors, keyed by their path in the tree.
#
# Not `torch.save`: what `torch.load(weights_only=True)` refuses (defaultdicts, deques, numpy's floats, all of which
# trainers keep) would be noticed only when a run is continued, not when it is saved; a view saves its whole storage.


def write_state(folder: str | Path, name: str, tree) -> None:
    """Writes nested dicts, lists and tuples of JSON values and tensors so that `read_state` returns them unchanged.

    Floats keep every bit and may be NaN or infinite; tensors keep dtype and shape, not device, strides or graph.

    Raises:
        TypeError: it holds anything else, or a dict key that is not a string; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    document = _packed(tree, "", tensors)
    save_file(tensors, Path(folder) / f"{name}.safetensors")
    (Path(folder) / f"{name}.json").write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")


def read_state(folder: str | Path, name: str):
    """What `write_state` wrote; tensors are on the CPU.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        document = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))
        # Copies: the tensors of `load_file` are pages of the file, which may be deleted while they are in use.
        tensors = {place: t.clone() for place, t in load_file(Path(folder) / f"{name}.safetensors").items()}
        return _unpacked(document, tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{folder}: {name} is not readable ({type(error).__name__}: {error}). The checkpoint is damaged; continue "
            "from a different one."
        ) from None


# What JSON lacks is written as an object with a single key that begins with "$"; a dict with such a key is wrapped.


def _packed(value, place: str, tensors: dict[str, Tensor]):
    """The JSON document of a tree; its tensors are added to `tensors`."""
    match value:
        case Tensor():
            if value.is_quantized or value.layout is not torch.strided:
                raise TypeError(f"state {place or '/'}: a quantized or sparse tensor cannot be kept; make it dense.")
            # A copy has its own memory, which the file format requires: slices of one batch share theirs.
            copy = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
            tensors[place] = torch.view_as_real(copy) if copy.is_complex() else copy
            return {"$complex" if copy.is_complex() else "$tensor": place}
        case float() if not math.isfinite(value):
            return {"$float": repr(float(value))}
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            items = [_packed(item, f"{place}/{index}", tensors) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        case dict():
            packed = {}
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"state {place or '/'}: the key {key!r} is not a string; make it one.")
                packed[key] = _packed(item, f"{place}/{_escaped(key)}", tensors)
            return {"$dict": packed} if any(key.startswith("$") for key in packed) else packed
    raise TypeError(f"state {place or '/'}: {type(value).__name__} is neither a JSON value nor a tensor.")


def _escaped(key: str) -> str:
    """A key as one part of a path (RFC 6901), in ASCII: the key `a/b` is distinct from `b` inside `a`."""
    return json.dumps(key)[1:-1].replace("~", "~0").replace("/", "~1")


def _unpacked(document, tensors: dict[str, Tensor]):
    match document:
        case {"$tensor": place}:
            return tensors[place]
        case {"$complex": place}:
            return torch.view_as_complex(tensors[place])
        case {"$float": text}:
            return float(text)
        case {"$tuple": items}:
            return tuple(_unpacked(item, tensors) for item in items)
        case {"$dict": content} | dict(content):
            return {key: _unpacked(item, tensors) for key, item in content.items()}
        case list():
            return [_unpacked(item, tensors) for item in document]
    return document
