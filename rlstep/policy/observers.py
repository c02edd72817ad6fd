"""Who watches a PPO run: the alarm, the refresh of the PRM, the logs. Each sees every batch drawn for training."""

from transformers import TrainerCallback

from rlstep.policy.alarms import AlarmOptions, HackingAlarm
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh import Refresher
from rlstep.policy.refresh_labels import RefreshOptions, make_labeler
from rlstep.policy.runlog import CompletionTable, JsonLog, SamplesAxis
from rlstep.policy.sources import Verifiers, load_whole
from rlstep.policy.trainer import Batch, StepPPOTrainer
from rlstep.runtime.errors import UserError
from rlstep.tasks.base import Task


def watch(
    trainer: StepPPOTrainer,
    options: PPOOptions,
    alarm: AlarmOptions,
    refresh: RefreshOptions,
    task: Task,
    verifiers: Verifiers,
) -> None:
    """Sets up all that watches, and what of it checkpoints have to keep."""
    for name, cache in verifiers.caches.items():
        trainer.register_state(f"scores_{name}", cache)
    if alarm.alarm != "off":
        watcher = AlarmWatch(trainer, alarm)
        trainer.observers.append(watcher)
        trainer.add_callback(watcher)
        trainer.register_state("alarm", watcher.alarm)
    if refresh.refresh_every:
        refresher = _refresher(trainer, options, refresh, task, verifiers)
        trainer.observers.append(refresher)
        trainer.register_state("prm_refresh", refresher.refresher)
    trainer.add_callback(JsonLog())
    trainer.add_callback(SamplesAxis())
    table = CompletionTable(trainer.args, options.completion_table_every)
    trainer.observers.append(
        lambda batch: table.observe(batch.update, batch.prompts, batch.completions, batch.judged, batch.finished)
    )


class AlarmWatch(TrainerCallback):
    """Shows the process return and the verified accuracy of each batch to the alarm, and does what it is set to do."""

    def __init__(self, trainer: StepPPOTrainer, options: AlarmOptions):
        if options.alarm == "stop" and not trainer.args.load_best_model_at_end:
            raise UserError(
                "alarm 'stop' ends the run on its best checkpoint, which has to be known: set load_best_model_at_end:"
                " true and metric_for_best_model: accuracy, with eval_strategy and save_strategy, or take alarm: warn."
            )
        self.trainer, self.options, self.alarm = trainer, options, HackingAlarm(options)
        self.stop = False

    def __call__(self, batch: Batch) -> None:
        rows = len(batch.judged)
        process = sum(sum(row.step_rewards) for row in batch.judged) / rows
        accuracy = sum(row.correct for row in batch.judged) / rows
        found = self.alarm.observe(batch.update, process, accuracy)
        self.trainer.log_metric("alarm", float(self.alarm.raised))
        if found is None:
            return
        self.stop = self.options.alarm == "stop"
        if self.trainer.accelerator.is_main_process:
            found.tell(self.trainer.args)

    def on_step_end(self, args, state, control, **_):
        if self.stop:
            control.should_training_stop = True
        return control


class RefreshWatch:
    """Feeds the refresher with samples, and has it train when it is due; scores of the PRM before are forgotten."""

    def __init__(self, trainer: StepPPOTrainer, refresher: Refresher, verifiers: Verifiers):
        self.trainer, self.refresher, self.cache = trainer, refresher, verifiers.caches["prm"]

    def __call__(self, batch: Batch) -> None:
        self.refresher.observe(batch.prompts, batch.completions, batch.references, batch.judged, batch.finished)
        if self.refresher.due(batch.update):
            for name, value in self.refresher.refresh(batch.update).items():
                self.trainer.log_metric(f"prm_refresh/{name}", float(value))
            self.cache.clear()


def _refresher(
    trainer: StepPPOTrainer, options: PPOOptions, refresh: RefreshOptions, task: Task, verifiers: Verifiers
) -> RefreshWatch:
    if "prm" not in options.reward:
        raise UserError(f"refresh_every trains the PRM, but reward is {options.reward}; add prm, or leave it out.")
    teacher = load_whole(refresh.refresh_teacher, trainer.args) if refresh.refresh_teacher else None
    labeler = make_labeler(refresh, task, teacher, trainer.sample_texts)
    refresher = Refresher(refresh, verifiers.models["prm"], labeler, trainer.args.seed)
    return RefreshWatch(trainer, refresher, verifiers)
