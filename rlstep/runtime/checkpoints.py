"""Which checkpoint of a training run can be continued, and whether one is still the same."""

import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

# The Trainer writes its state last, so a folder without it was cut off by a kill.
COMPLETE_MARK = "trainer_state.json"


def newest_checkpoint(folder: str | Path) -> str | None:
    """Path of the newest complete `checkpoint-N` in `folder`, None where there is none; half-written ones are named."""
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        step = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if not step:
            continue
        if (path / COMPLETE_MARK).is_file():
            found.append((int(step[1]), path))
        else:
            logger.warning("%s is half-written (no %s) and is passed over", path, COMPLETE_MARK)
    return str(max(found)[1]) if found else None


def checkpoint_files(path: str | Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a local checkpoint's files, none for a hub id: a model trained again is another one."""
    folder = Path(path)
    if not folder.is_dir():
        return []
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".json")]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
