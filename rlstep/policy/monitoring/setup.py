"""Who watches a PPO run: the alarm, the refresh of the PRM, the logs. Each sees every batch drawn for training."""

import logging
from collections import Counter
from collections.abc import Mapping

from transformers import TrainerCallback

from rlstep.policy.first_batch import Look, warn_of_first_batch
from rlstep.policy.monitoring.alarms import AlarmOptions, HackingAlarm
from rlstep.policy.monitoring.completion_log import CompletionLog
from rlstep.policy.monitoring.pages import CompletionTable
from rlstep.policy.monitoring.run_log import JsonLog, SamplesAxis
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions, make_labeler
from rlstep.policy.refresh.training import Refresher
from rlstep.policy.rewards.scored import ScoredBatch
from rlstep.policy.rewards.sources import Verifiers, check_fit, check_teacher, load_unsharded
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.tasks.base import Task
from rlstep.verifiers.interface import Verifier

logger = logging.getLogger(__name__)


def set_up_monitoring(
    trainer: StepPPOTrainer,
    options: PPOOptions,
    alarm: AlarmOptions,
    refresh: RefreshOptions,
    task: Task,
    verifiers: Verifiers,
) -> None:
    """Adds the observers to the trainer, and their state to its checkpoints."""
    for name, cache in verifiers.caches.items():
        trainer.register_state(f"scores_{name}", cache)
    if alarm.alarm != "off" and (options.pays_steps or options.pays_unverified_outcomes):
        watcher = AlarmWatch(trainer, alarm, of_outcome=not options.pays_steps)
        trainer.observers.append(watcher)
        trainer.add_callback(watcher)
        trainer.register_state("alarm", watcher.alarm)
    if refresh.refresh_every:
        refresher = _refresher(trainer, refresh, task, verifiers)
        trainer.observers.append(refresher)
        trainer.register_state("prm_refresh", refresher.refresher)
    if trainer.accelerator.is_main_process:
        trainer.observers += [look_at_first_batch, CutWatch(verifiers.models)]
    trainer.add_callback(JsonLog())
    trainer.add_callback(SamplesAxis())
    table = CompletionTable(trainer.args, options.completion_table_every)
    trainer.observers.append(
        lambda batch: table.observe(batch.update, batch.prompts, batch.completions, batch.scored, batch.finished)
    )
    completion_log = CompletionLog(table, trainer.prompt_format)
    trainer.observers.append(completion_log)
    trainer.add_callback(completion_log)


def look_at_first_batch(batch: ScoredBatch) -> None:
    """Warns of completions that can hardly be paid; of a run that is continued it has been said."""
    if batch.update == 1:
        rows = zip(batch.completions, batch.scored, batch.finished, strict=True)
        looks = [Look(text, worth.answered, len(worth.steps), done) for text, worth, done in rows]
        warn_of_first_batch(looks, "max_completion_length")


class CutWatch:
    """Warns once, at the first batch in which completions are too long for a verifier.

    Args:
        verifiers: by the name of their source.
    """

    def __init__(self, verifiers: Mapping[str, Verifier]):
        self.verifiers, self.warned = verifiers, False

    def __call__(self, batch: ScoredBatch) -> None:
        counts = Counter(name for row in batch.scored for name in row.cut_by or [])
        if self.warned or not counts:
            return
        self.warned = True
        limits = {name: getattr(self.verifiers[name], "max_positions", None) for name in counts}
        cut = ", ".join(
            f"{count} for the {name}" + (f" ({limits[name]} positions)" if limits[name] else "")
            for name, count in counts.items()
        )
        logger.warning(
            "update %d: of %d completions some are too long, in the verifier's own tokens: %s. Their last steps, which "
            "do not fit, have no process reward, and no ORM's value is paid for them. Lower max_completion_length, or "
            "take a verifier with a longer context; completions/cut in the log is the share.",
            batch.update, len(batch.scored), cut,
        )  # fmt: skip


class AlarmWatch(TrainerCallback):
    """Shows the process return and the verified accuracy of each batch to the alarm, and does what it is set to do.

    With `of_outcome`, when the only reward is an ORM's, that reward may be gamed and replaces the process return.
    """

    def __init__(self, trainer: StepPPOTrainer, options: AlarmOptions, of_outcome: bool = False):
        self.trainer, self.options, self.alarm = trainer, options, HackingAlarm(options)
        self.of_outcome, self.stop = of_outcome, False

    def __call__(self, batch: ScoredBatch) -> None:
        rows = len(batch.scored)
        paid = [row.outcome if self.of_outcome else sum(row.step_rewards) for row in batch.scored]
        process = sum(paid) / rows
        accuracy = sum(row.correct for row in batch.scored) / rows
        raised = self.alarm.observe(batch.update, process, accuracy)
        self.trainer.log_metric("alarm", float(self.alarm.raised))
        if raised is None:
            return
        self.stop = self.options.alarm == "stop"
        if self.trainer.accelerator.is_main_process:
            raised.tell(self.trainer.args)

    def on_step_end(self, args, state, control, **_):
        if self.stop:
            control.should_training_stop = True
        return control


class RefreshWatch:
    """Gives samples to the refresher and runs it when it is due, which clears the older PRM's cached scores."""

    def __init__(self, trainer: StepPPOTrainer, refresher: Refresher, verifiers: Verifiers):
        self.trainer, self.refresher, self.cache = trainer, refresher, verifiers.caches["prm"]

    def __call__(self, batch: ScoredBatch) -> None:
        self.refresher.observe(batch.prompts, batch.completions, batch.references, batch.scored, batch.finished)
        if self.refresher.due(batch.update):
            for name, value in self.refresher.refresh(batch.update).items():
                self.trainer.log_metric(f"prm_refresh/{name}", float(value))
            self.cache.clear()


def _refresher(trainer: StepPPOTrainer, refresh: RefreshOptions, task: Task, verifiers: Verifiers) -> RefreshWatch:
    teacher = None
    if refresh.refresh_teacher:
        teacher = load_unsharded(refresh.refresh_teacher, trainer.args)
        check_teacher(teacher, task.boundary)
        prompts = list(trainer.train_dataset["prompt"])
        check_fit({"refresh_teacher": teacher}, prompts, trainer.prompt_format, trainer.args.max_completion_length)
    labeler = make_labeler(refresh, task, teacher, trainer.rollouts.sample_texts)
    refresher = Refresher(refresh, verifiers.models["prm"], labeler, trainer.args.seed)
    return RefreshWatch(trainer, refresher, verifiers)
