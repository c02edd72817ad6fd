"""Checkpoint folders: which one can be continued, how one is written whole or not at all, and what is kept in its state
files.

A checkpoint is built below a hidden folder beside its place (`.checkpoint-8.partial/checkpoint-8`) and renamed when
every byte of it is on the disk. A kill at any moment leaves the checkpoints before it and, at worst, a hidden folder,
which the next save or start removes.
"""

import json
import logging
import math
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlstep.runtime.errors import UserError

logger = logging.getLogger(__name__)

# The Trainer writes its state last, so a folder without it was cut off by a kill.
COMPLETE_MARK = "trainer_state.json"
# One file per rank, beyond what the Trainer keeps: without them a PPO run would not continue exactly.
STATE_MARK = "state_*.json"


def newest_checkpoint(folder: str | Path, exact: bool = False) -> str | None:
    """Path of the newest complete `checkpoint-N` in `folder`, None where there is none; a warning names the others.

    Args:
        folder: a run's output folder; it need not exist.
        exact: pass over those without state files, too.
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
            logger.warning("%s is half-written (no %s) and is passed over", path, COMPLETE_MARK)
        else:
            logger.warning("%s cannot be continued exactly (no %s) and is passed over", path, STATE_MARK)
    return str(max(complete)[1]) if complete else None


def checkpoint_files(path: str | Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a local checkpoint's files, none for a hub id: a model trained again is another one."""
    folder = Path(path)
    if not folder.is_dir():
        return []
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".json")]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


# --- Written whole or not at all.


def partial_path(checkpoint: Path) -> Path:
    """Where `checkpoint` is built: a folder of the same name, on the same file system, that nobody takes for one."""
    return checkpoint.with_name(f".{checkpoint.name}.partial") / checkpoint.name


def commit(partial: Path, checkpoint: Path) -> None:
    """Moves a folder from `partial_path(checkpoint)` to `checkpoint` once the disk has all of it.

    A folder that is at `checkpoint` already, from a run that went another way, is replaced.
    """
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    if checkpoint.exists():
        checkpoint.rename(partial.with_name("replaced"))
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
    """Removes what killed saves left in a run's output folder, with one warning."""
    leftovers = sorted(Path(folder).glob(".checkpoint-*.partial"))
    for path in leftovers:
        shutil.rmtree(path)
    if leftovers:
        names = ", ".join(path.name for path in leftovers)
        logger.warning("removed from %s what saves that were cut off had left: %s", folder, names)


# --- State files: `NAME.json` holds the tree, `NAME.safetensors` its tensors under their places in it.
#
# Not `torch.save`: what `torch.load(weights_only=True)` refuses (defaultdicts, deques, numpy's floats, all of which
# trainers keep) would be noticed when a run is continued, not when it is saved; a view would bring all of its storage.


def write_state(folder: str | Path, name: str, tree) -> None:
    """Writes nested dicts, lists and tuples of JSON values and tensors so that `read_state` gives the same again.

    Floats keep every bit and may be NaN or infinite; tensors keep dtype and shape, not device, strides or graph.

    Raises:
        TypeError: something else is in it, or a dict has a key that is no string; the message says where.
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
            "from another one."
        ) from None


# What JSON lacks is written as an object with one key that begins with "$"; a dict with such a key is wrapped in one.


def _packed(value, place: str, tensors: dict[str, Tensor]):
    """The JSON document of a tree; its tensors are added to `tensors`."""
    match value:
        case Tensor():
            if value.is_quantized or value.layout is not torch.strided:
                raise TypeError(f"state {place or '/'}: a quantized or sparse tensor cannot be kept; make it dense.")
            # A copy has its own memory, which the file format asks for: a batch's slices share theirs.
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
                    raise TypeError(f"state {place or '/'}: the key {key!r} is no string; make it one.")
                packed[key] = _packed(item, f"{place}/{_escaped(key)}", tensors)
            return {"$dict": packed} if any(key.startswith("$") for key in packed) else packed
    raise TypeError(f"state {place or '/'}: {type(value).__name__} is neither a JSON value nor a tensor.")


def _escaped(key: str) -> str:
    """A key as a part of a place (RFC 6901), in ASCII: `a/b` is another place than `b` in `a`."""
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
