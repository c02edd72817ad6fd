"""The folder that a training leaves its model in, which must not be one that it reads."""

from collections.abc import Mapping
from pathlib import Path

from rlstep.runtime.errors import UserError


def check_output_dir(output_dir: str, models: Mapping[str, str | None]) -> None:
    """Refuses to train into a file, or over a model that the run reads, or that its result stands on.

    Args:
        output_dir: the run's.
        models: folders or hub ids of models by the setting that names them; None where there is none.

    Raises:
        UserError: `output_dir` is a file, is one of the models, or has one of them among its checkpoints.
    """
    out = Path(output_dir)
    if out.exists() and not out.is_dir():
        raise UserError(f"output_dir is {output_dir}, which is a file; give a folder.")
    for name, path in models.items():
        if not path or not Path(path).exists() or not Path(path).resolve().is_relative_to(out.resolve()):
            continue
        inside = Path(path).resolve().relative_to(out.resolve()).parts
        if not inside or inside[0].startswith("checkpoint-"):
            how = "has among its checkpoints" if inside else "is"
            raise UserError(
                f"output_dir is {output_dir}, which {how} {name} ({path}) and would be written over; give a folder of "
                "its own."
            )
