"""What a training reports to experiment trackers, beyond the metrics that the Trainer's own callbacks log."""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from rlstep.runtime.record import RunRecord
from rlstep.runtime.resume import ExactResume
from rlstep.runtime.tracking import TrackedRun, TrackingOptions, reported_to


def track_training(
    trainer: ExactResume,
    record: RunRecord,
    options: TrackingOptions,
    checkpoint: str | None = None,
    data: Sequence[str | None] = (),
) -> None:
    """Starts the tracked run of a training, if `report_to` names a tracker; it ends with the record.

    It is to be called right before training, when the settings and the data have been accepted: what is refused leaves
    no run behind.

    Args:
        trainer: what trains; its `report_to`, `project` and `run_name` count.
        record: the stage's record, whose configuration and results the run shows.
        options: group, tags, artifacts.
        checkpoint: what is resumed; its run goes on.
        data: the files or folders that are read.
    """
    if not trainer.is_world_process_zero():
        return
    if "tensorboard" in trainer.args.report_to:
        trainer.add_callback(ShowInTensorBoard(trainer, record))
    if reported_to(trainer.args):
        run = TrackedRun(record, options, trainer.args, checkpoint)
        # By which the Trainer's callback for trackio finds the run that is open.
        trainer.args.run_name = run.info.unique_name
        run.start()
        run.upload_data(data)
        trainer.checkpoint_writers.append(lambda checkpoint, _: run.keep(checkpoint))
        trainer.add_callback(ShowTracking(run))


class ShowTracking(TrainerCallback):
    """Shows a training's configuration, and uploads its checkpoints if asked to.

    It has to come after the Trainer's own callbacks, which show the model's configuration and their arguments under
    some of the same names.
    """

    def __init__(self, run: TrackedRun):
        self.run = run

    def on_train_begin(self, args, state, control, **_):
        self.run.show_config()

    def on_save(self, args, state, control, **_):
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if checkpoint.is_dir():
            self.run.upload_checkpoint(checkpoint)


class ShowInTensorBoard(TrainerCallback):
    """Shows the whole configuration, commit and versions in TensorBoard, as a text beside the Trainer's own.

    It has to come after the Trainer's own callback, which opens the writer.
    """

    def __init__(self, trainer: ExactResume, record: RunRecord):
        self.trainer, self.record = trainer, record

    def on_train_begin(self, args, state, control, **_):
        text = json.dumps(self.record.about(), indent=2, ensure_ascii=False)
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text("run", f"```json\n{text}\n```")
