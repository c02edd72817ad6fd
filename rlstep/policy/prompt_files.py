"""How a policy's prompts are written, in the file `prompt_format.json` beside its weights or its adapter."""

import json
from pathlib import Path

from transformers.utils import cached_file

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json
from rlstep.steps.prompts import PromptFormat

PROMPT_FORMAT = "prompt_format.json"


def read_prompt_format(path: str) -> PromptFormat | None:
    """What the checkpoint at a folder or hub id was taught; None where it does not say, as those of others do not.

    Raises:
        UserError: the file is damaged.
    """
    file = Path(path) / PROMPT_FORMAT
    if not Path(path).is_dir():
        missing = ("gated_repo", "missing_entries", "connection_errors")
        options = dict.fromkeys((f"_raise_exceptions_for_{name}" for name in missing), False)
        cached = cached_file(path, PROMPT_FORMAT, **options)
        file = Path(cached) if cached else file
    if not file.is_file():
        return None
    try:
        return PromptFormat.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}). Copy it from the run that wrote it, or remove it.") from None


def write_prompt_format(folder: str | Path, prompt_format: PromptFormat) -> None:
    write_json(Path(folder) / PROMPT_FORMAT, prompt_format.to_dict())
