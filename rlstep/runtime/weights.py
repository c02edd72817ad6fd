"""Whether a folder holds whole weights, as far as their files tell without being read."""

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from rlstep.runtime.checkpoints import COMPLETE_MARK, newest_checkpoint
from rlstep.runtime.errors import UserError

ADAPTER = "adapter_model.safetensors"


def check_whole(folder: Path) -> None:
    """Refuses a folder whose weights are missing, cut off or half-written.

    Args:
        folder: a run's output folder, or one of its checkpoints.

    Raises:
        UserError: says what is missing, and what to take instead.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the folder that a run wrote.")
    if re.fullmatch(r"checkpoint-\d+", folder.name) and not (folder / COMPLETE_MARK).is_file():
        raise UserError(f"{folder} is half-written (no {COMPLETE_MARK}). Take an earlier checkpoint.")
    files = _weight_files(folder)
    if not files:
        newest = newest_checkpoint(folder)
        advice = (
            f"Its training has not ended: continue it with resume, or take {newest}."
            if newest
            else "Give the folder that a run wrote."
        )
        raise UserError(f"{folder} holds no weights (neither {ADAPTER} nor {SAFE_WEIGHTS_NAME}). {advice}")
    for file, names in files.items():
        held = _names_in(file)
        if lacking := sorted(names - held):
            raise UserError(f"{file} lacks {len(lacking)} of its weights, {lacking[0]} first: copy it again.")


def weight_names(folder: Path) -> set[str]:
    """The names of all weights in a folder."""
    return {name for file in _weight_files(folder) for name in _names_in(file)}


def _weight_files(folder: Path) -> dict[Path, set[str]]:
    """The files of weights, each with the names that an index expects in it."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        files: dict[Path, set[str]] = {}
        for name, shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            files.setdefault(folder / shard, set()).add(name)
        return files
    return {folder / name: set() for name in (ADAPTER, SAFE_WEIGHTS_NAME) if (folder / name).is_file()}


def _names_in(file: Path) -> set[str]:
    """The weights in a file, by its header, which also says how long the file has to be."""
    try:
        with safe_open(file, framework="pt") as weights:
            return set(weights.keys())
    except FileNotFoundError:
        raise UserError(f"{file} is missing, and the index of the weights names it: copy it again.") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or cut off ({error}): copy it again.") from None
