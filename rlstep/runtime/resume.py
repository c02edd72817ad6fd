"""Exact resume: a run that was killed and resumed ends bit for bit like the uninterrupted one.

The Trainer keeps weights, optimizer, schedule, random states and its counters, and finds its place in the data again.
This keeps the rest: losses that are not logged yet, how far the loop had come when it saved, and whatever is
registered. Reinforcement learning adds its own (`rlstep.policy.resume`). Checkpoints appear whole or not at all
(`rlstep.runtime.whole_checkpoints`). `tests/policy/test_trl_seam.py` holds the private names used here.

A GPU adds in no fixed order unless it is told to: there a run continues from the same state, but is not the same to
the last bit.
"""

import logging
import time
from pathlib import Path
from typing import Any, ClassVar, Protocol

from accelerate.utils import gather_object

from rlstep.runtime import checkpoints
from rlstep.runtime.errors import UserError
from rlstep.runtime.identity import check_same_run
from rlstep.runtime.whole_checkpoints import WholeCheckpoints

logger = logging.getLogger(__name__)

# Suffixes of logged values that come from a clock: only those differ in a resumed run.
WALL_CLOCK = ("step_time", "_runtime", "_per_second", "/seconds")

NO_UPDATE = {"step": 0, "grad_norm": None, "learning_rate": None, "epoch_over": False}


class Stateful(Protocol):
    """What can be registered: its state is nested dicts and lists of JSON values and tensors."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class ExactResume(WholeCheckpoints):
    """A mixin for a subclass of the Trainer; it comes before the Trainer's class in the list of bases.

    A mixin, and no component, because it is the Trainer's own loop that has to be entered in the middle: each override
    adds to what its parent does. From the subclass it needs nothing; what is to be kept is given to `register_state`.

    Args:
        *args, **kwargs: the Trainer's.
        run_identity: settings that a checkpoint must have been written with to be continued by this run, beside
            `layout_settings`.

    Attributes:
        layout_settings: the arguments under which the place in the data is valid.
    """

    layout_settings: ClassVar[tuple[str, ...]] = (
        "world_size", "per_device_train_batch_size", "gradient_accumulation_steps", "seed",
    )  # fmt: skip

    def __init__(self, *args, run_identity: dict[str, Any] | None = None, **kwargs):
        self._registered: dict[str, Stateful] = {}
        self._run_identity = run_identity or {}
        self._continued: str | None = None
        self._kept: dict[str, Any] | None = None  # a checkpoint's state, until the loop takes it over
        self._seconds_before = self._began = 0.0  # of training before the checkpoint; when it would have begun
        self._finished = self._only_epoch_end = False
        self._last_update: dict[str, Any] = NO_UPDATE
        self._can_go_on = False
        super().__init__(*args, **kwargs)

    def register_state(self, name: str, source: Stateful) -> None:
        """Keeps `source` in checkpoints: anything that training changes and that has a bearing on what comes after.

        It is read at each save, after the log and the evaluation of its step and before the `on_save` of callbacks,
        and loaded after every callback's `on_train_begin`, before the first batch.
        """
        if name in self._registered:
            raise ValueError(f"a state '{name}' is registered already; give this one another name")
        self._registered[name] = source

    # --- Where a run resumes.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As the Trainer's.

        Raises:
            UserError: the checkpoint has no state files, was written with other batches, lacks the state of something
                registered, or is not the one that the other processes see. Nothing has been loaded then.
        """
        newest = resume_from_checkpoint is True
        if newest:
            resume_from_checkpoint = checkpoints.checkpoint_to_continue(self.args.output_dir)
        self._require_same(resume_from_checkpoint or None)
        if newest and resume_from_checkpoint is None:
            raise UserError(f"{self.args.output_dir} has no checkpoint to continue; start without resume.")
        if self.args.should_save:
            checkpoints.remove_leftovers(self.args.output_dir)
        self._continued, self._kept, self._seconds_before = resume_from_checkpoint or None, None, 0.0
        self._can_go_on = self._continued is not None
        if self._continued is not None:
            self._check_arguments()
            self._kept = self._read_kept(Path(self._continued))
        return super().train(self._continued, *args, **kwargs)

    def can_go_on(self) -> bool:
        """Whether there is by now a checkpoint of this run to continue from."""
        return self._can_go_on

    def _require_same(self, checkpoint: str | None) -> None:
        """Refuses to go on from here in one process, and from elsewhere, or from the beginning, in another."""
        seen = gather_object([checkpoint and Path(checkpoint).name])
        if len(set(seen)) > 1:
            told = ", ".join(f"rank {rank} {name or 'none'}" for rank, name in enumerate(seen))
            raise UserError(
                f"{self.args.output_dir}: processes see different checkpoints to continue ({told}). output_dir must be "
                "on a file system that all machines share, or, with save_on_each_node, hold the same on each of them."
            )

    def _check_arguments(self) -> None:
        if self.args.ignore_data_skip:
            raise UserError("ignore_data_skip would begin an epoch's data anew: an exact resume cannot; leave it out.")

    def _read_kept(self, checkpoint: Path) -> dict[str, Any]:
        if not any(checkpoint.glob(checkpoints.STATE_MARK)):
            raise UserError(
                f"{checkpoint} has no {checkpoints.STATE_MARK}: an older version wrote it, or save_only_model was set. "
                "A run cannot be continued exactly from it; give its weights as the model of a new run."
            )
        # A rank that was not there then learns from the first one's how many there were.
        own = (checkpoint / f"{self._state_name}.json").is_file()
        kept = checkpoints.read_state(checkpoint, self._state_name if own else "state_0")
        layout = self._layout()
        if other := [name for name in layout if layout[name] != kept["layout"].get(name)]:
            differences = ", ".join(f"{name} {kept['layout'].get(name)}, not {layout[name]}" for name in other)
            raise UserError(f"{checkpoint} was written with {differences}. Resume with the settings it was made with.")
        # Older checkpoints hold fewer settings, under another name.
        check_same_run(checkpoint, kept.get("identity", kept.get("deciding", {})), self._run_identity)
        if missing := sorted(self._registered.keys() - kept["registered"].keys()):
            raise UserError(f"{checkpoint} has no state of {', '.join(missing)}; leave that off, or start a new run.")
        if dropped := sorted(kept["registered"].keys() - self._registered.keys()):
            logger.warning("%s has a state of %s, which this run does not use", checkpoint, ", ".join(dropped))
        return kept

    def _layout(self) -> dict[str, Any]:
        return {name: getattr(self.args, name) for name in self.layout_settings} | {"rows": len(self.train_dataset)}

    @property
    def _state_name(self) -> str:
        return f"state_{self.args.process_index}"

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, *args):
        """Where the loop goes on: (epochs done, micro-batches done of the next).

        The Trainer takes a checkpoint for one of the middle of an epoch, or of its end with all that belongs to it.
        But the last update of an epoch, and of a run, saves before the epoch's own evaluation and log; and from a run's
        last checkpoint the Trainer would train on.
        """
        epochs, batches = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, *args)
        self._finished = self._only_epoch_end = False
        self._last_update = NO_UPDATE
        if self._kept is None:
            return epochs, batches
        done, stopped = self.state.global_step, self._kept["loop"]["stopped"]
        if stopped:
            logger.warning("%s: a callback ended the run here, so nothing is trained", self._continued)
        if self.args.should_save:
            # A kill may have come between a save and the removal of the checkpoints before it.
            self._remove_old(Path(self.args.output_dir), keep=[self._continued])
        self._finished = stopped or done >= max_steps
        if not self._kept["update"]["epoch_over"] and (self._finished or done % num_update_steps_per_epoch == 0):
            self._only_epoch_end = True
            return (done - 1) // num_update_steps_per_epoch, batches
        return (num_train_epochs if self._finished else epochs), batches

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler: bool = False):
        # The loop leaves out the scheduler for eval_on_start alone, which a continued run has done before.
        if skip_scheduler and self._kept is not None:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _run_epoch(self, **loop):
        self._take_over(epochs=loop["epoch"] + self._only_epoch_end)
        self._began = loop["start_time"] = loop["start_time"] - self._seconds_before
        if not self._only_epoch_end:
            return super()._run_epoch(**loop)
        self._only_epoch_end = False
        self._load_rng_state(self._continued)
        self.control.should_log = self.control.should_evaluate = self.control.should_save = False
        self.control.should_training_stop = self._finished
        self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        last = self._last_update
        names = ("model", "trial", "epoch", "ignore_keys_for_eval", "start_time")
        arguments = {name: loop[name] for name in names} | {"learning_rate": last["learning_rate"]}
        self._maybe_log_save_evaluate(self._tr_loss, last["grad_norm"], **arguments)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, learning_rate=None, **kwargs):
        # The loop comes here after each update, and once more at the same step when the epoch is over.
        step = self.state.global_step
        over = step == self._last_update["step"]
        update = {"step": step, "grad_norm": grad_norm, "learning_rate": learning_rate, "epoch_over": over}
        self._last_update = update
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, learning_rate=learning_rate, **kwargs)

    def _finalize_training(self, trial, num_train_samples, start_time):
        if self._kept is not None:  # no epoch was left to run
            self._take_over(epochs=0)
            self._load_rng_state(self._continued)
        if self.args.should_save and self.state.best_model_checkpoint is not None and self.args.save_total_limit == 1:
            # The Trainer keeps the best one alone, too, but is interrupted with half a checkpoint under its full name.
            checkpoints.keep_only(self.state.best_model_checkpoint)
        return super()._finalize_training(trial, num_train_samples, start_time - self._seconds_before)

    # --- What is kept.

    def _state(self) -> dict[str, Any]:
        return {
            "layout": self._layout(),
            "identity": self._run_identity,
            "loop": {
                "loss": self._tr_loss,
                "logged_loss": self._total_loss_scalar,
                "logged_step": self._globalstep_last_logged,
                "first_step": self._initial_global_step,
                "first_tokens": self._initial_num_input_tokens_seen,
                "seconds": time.time() - self._began,
                "training": self.model.training,
                "stopped": self.control.should_training_stop and self.state.global_step < self.state.max_steps,
            },
            "update": self._last_update,
            "registered": {name: source.state_dict() for name, source in self._registered.items()},
        }

    def _take_over(self, epochs: int) -> None:
        """Restores what a checkpoint kept, once.

        Args:
            epochs: how many epochs of the data have been begun before, and are not begun again.

        Every callback has begun its run by now, and no batch has been taken. The random states come after this, so
        nothing that is loaded here can move them.
        """
        if self._kept is None:
            return
        kept, self._kept = self._kept, None
        loop = kept["loop"]
        self._tr_loss = loop["loss"].to(self.args.device)
        self._total_loss_scalar = loop["logged_loss"]
        self._globalstep_last_logged = loop["logged_step"]
        self._initial_global_step = loop["first_step"]
        self._initial_num_input_tokens_seen = loop["first_tokens"]
        self._seconds_before = loop["seconds"]
        self._last_update = kept["update"]
        # The mode of the model decides whose metrics the next log shows.
        self.model.train(loop["training"])
        self._restore(kept, epochs)
        for name, source in self._registered.items():
            source.load_state_dict(kept["registered"][name])

    def _restore(self, kept: dict[str, Any], epochs: int) -> None:
        """Restores what a subclass adds to `_state`; the arguments are those of `_take_over`."""

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        self._can_go_on |= not self.args.save_only_model

    def _write_state(self, partial: Path) -> None:
        if not self.args.save_only_model:
            checkpoints.write_state(partial, self._state_name, self._state())


def refill(metrics: dict[str, dict[str, list]], kept: dict[str, dict[str, list]]) -> None:
    """Restores what TRL's trainers have measured since the last log, in training and in evaluation."""
    for mode, values in kept.items():
        metrics[mode].clear()
        metrics[mode].update(values)
