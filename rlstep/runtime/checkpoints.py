"""Which checkpoint of a training run can be continued."""

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
