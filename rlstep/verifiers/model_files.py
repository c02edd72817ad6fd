"""What the files at a folder or hub id tell before libraries read them, which pass over some faults in silence."""

import json
from pathlib import Path

from transformers.utils import cached_file, find_adapter_config_file

from rlstep.runtime.file_kinds import HEAD, refuse_pointer
from rlstep.runtime.weights import weight_names

ADAPTER_CONFIG = "adapter_config.json"
# Endings of the files that a model or a tokenizer is read from.
ENDINGS = (".json", ".safetensors", ".model", ".jinja", ".txt")
# One of them is there where a tokenizer is.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def check_files(path: str) -> None:
    """Refuses a folder with files that libraries would stumble over, or pass over in silence.

    Args:
        path: folder or hub id; of the second nothing is checked.

    Raises:
        UserError: as `refuse_pointers`; or a file of weights is damaged or cut off.
    """
    refuse_pointers(path)
    if Path(path).is_dir():
        weight_names(Path(path))  # which opens every file of weights


def refuse_pointers(path: str) -> None:
    """Refuses a folder that is a clone without its large files.

    Raises:
        UserError: a file stands for one that was not downloaded.
    """
    folder = Path(path)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_file() and file.suffix in ENDINGS and file.stat().st_size < HEAD:
            refuse_pointer(file)


def tokenizer_folder(path: str) -> str:
    """The folder or hub id that the tokenizer of a model is in: its own, or its base's for an adapter without one.

    PEFT alone writes none beside an adapter, whose tokenizer is then that of the base.
    """
    if _has_any(path, TOKENIZER_FILES):
        return path
    try:
        file = find_adapter_config_file(path)
        base = json.loads(Path(file).read_text(encoding="utf-8")).get("base_model_name_or_path") if file else None
    except (OSError, ValueError, AttributeError):
        return path  # what is wrong, reading the model says
    return base or path


def _has_any(path: str, names: tuple[str, ...]) -> bool:
    if Path(path).is_dir():
        return any((Path(path) / name).is_file() for name in names)
    missing = ("gated_repo", "missing_entries", "connection_errors")
    options = dict.fromkeys((f"_raise_exceptions_for_{name}" for name in missing), False)
    return any(cached_file(path, name, **options) for name in names)
