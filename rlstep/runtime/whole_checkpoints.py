"""Checkpoints of the Trainer that appear whole or not at all (`rlstep.runtime.checkpoints`), on one machine or several.

`tests/policy/test_trl_seam.py` holds the private names of the Trainer that are used here.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rlstep.runtime import checkpoints
from rlstep.runtime.errors import UserError

SEEN_S = 60.0  # until a folder that another machine has made must be seen here


class WholeCheckpoints:
    """A mixin for a subclass of the Trainer; it comes before the Trainer's class in the list of bases.

    Every checkpoint is built in a hidden folder, and gets its name once every process has written its part.

    Attributes:
        checkpoint_writers: called on every process with the folder in which a checkpoint is built, before it gets its
            name, and whether this one is to write; what a callback writes in `on_save` may be missing after a kill.
    """

    def __init__(self, *args, **kwargs):
        self.checkpoint_writers: list[Callable[[Path, bool], None]] = []
        self._building: Path | None = None  # the folder in which a checkpoint is written at the moment
        self._push = False
        super().__init__(*args, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial))
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with checkpoints.being_written(checkpoint):
            self._write_checkpoint(checkpoint, model, trial)
        if self._push:
            self._push = False
            super()._push_from_checkpoint(str(checkpoint))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        if _internal_call:  # a checkpoint is being written
            super().save_model(output_dir, _internal_call)
            return
        with checkpoints.being_written(Path(output_dir or self.args.output_dir)):
            super().save_model(output_dir, _internal_call)

    def _write_checkpoint(self, checkpoint: Path, model, trial) -> None:
        folder, partial = checkpoint.parent, checkpoints.partial_path(checkpoint)
        if self.args.should_save:
            checkpoints.remove_leftovers(folder)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._require_shared(partial)
        self._building = partial.parent
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._building = None
        self._write_state(partial)
        for write in self.checkpoint_writers:
            write(partial, self.args.should_save)
        self._name_best(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(partial / checkpoints.COMPLETE_MARK))
            checkpoints.commit(partial, checkpoint)
            self._remove_old(folder)
        self.accelerator.wait_for_everyone()

    def _write_state(self, partial: Path) -> None:
        """Writes what a subclass adds to a checkpoint, on every process."""

    def _require_shared(self, partial: Path) -> None:
        """Refuses folders that another machine has made and this one does not see; a network's may take a moment."""
        deadline = time.monotonic() + SEEN_S
        while not partial.is_dir():
            if time.monotonic() > deadline:
                raise UserError(
                    f"{partial.parent.parent}, where checkpoints go, is not the folder that the first process has: "
                    "output_dir must be on a file system that all machines share, or save_on_each_node be set."
                )
            time.sleep(0.1)

    def _remove_old(self, folder: Path, keep: Sequence[str | None] = ()) -> None:
        checkpoints.remove_old(folder, self.args.save_total_limit, [self.state.best_model_checkpoint, *keep])

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._building is None else str(self._building)

    def _name_best(self, folder: Path) -> None:
        """The Trainer looked for the best checkpoint in the folder where this one was built."""
        if step := self.state.best_global_step:
            best = folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
            if best.exists() or step == self.state.global_step:
                self.state.best_model_checkpoint = str(best)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The upload runs in the background, and the folder is about to move.
        self._push = True
