"""The `ppo` stage: PPO with rewards for steps, for outcomes, or for both, evaluated as it goes."""

from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback
from trl import get_peft_config

from rlstep.policy.config import PolicyModel, StepPPOConfig
from rlstep.policy.models import check_prompt_lengths, load_base, load_tokenizer, max_positions, model_init_kwargs
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.monitoring.setup import watch
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.sources import check_fit, load_verifiers, save_verifier, task_rewards, wants_base
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.policy.validation import check_together
from rlstep.runtime.checkpoints import newest_checkpoint
from rlstep.runtime.config import settings
from rlstep.runtime.errors import UserError
from rlstep.runtime.identity import run_identity
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_rows
from rlstep.steps.records import Problem, read_problems
from rlstep.tasks import get
from rlstep.tasks.base import Task

CURVE = "eval.jsonl"


def ppo(
    options: PPOOptions,
    guards: Guards,
    alarm: AlarmOptions,
    refresh: RefreshOptions,
    args: StepPPOConfig,
    model: PolicyModel,
) -> dict:
    """Trains a policy (with `--use_peft`, a LoRA adapter on it) and writes it to `args.output_dir`."""
    check_together(options, guards, alarm, refresh, args, model)
    if model.model_name_or_path is None:
        raise UserError("model_name_or_path is missing: a hub id or a folder with a causal LM.")
    problems = read_problems(options.problems)
    eval_problems = read_problems(options.eval_problems) if options.eval_problems else []
    if args.eval_strategy != "no" and not eval_problems:
        raise UserError(f"eval_strategy is '{args.eval_strategy.value}' but eval_problems is not given.")
    needed = args.generation_batch_size // args.num_generations
    if len(problems) < needed:
        raise UserError(
            f"{options.problems} has {len(problems)} problems, and an update takes {needed} of them with "
            f"{args.num_generations} samples each: nothing would be trained. Give more problems, or lower "
            "per_device_train_batch_size or steps_per_generation."
        )
    parts = (options, guards, alarm, refresh, args, model)
    identity = run_identity(*parts)
    config = {name: value for part in parts for name, value in settings(part).items()}
    with RunRecord("ppo", config, args.output_dir, args.seed) as record:
        trainer = _trainer(*parts, problems, eval_problems)
        trainer.identity = identity
        start = newest_checkpoint(args.output_dir, exact=True) if options.resume else None
        result = trainer.train(resume_from_checkpoint=start)
        trainer.save_model()
        if refresh.refresh_every and trainer.is_world_process_zero():
            save_verifier(trainer.verifiers.models["prm"], Path(args.output_dir) / "prm")
        record.metrics |= {"samples": args.samples_at(trainer.state.global_step), **result.metrics}
        if trainer.curve:
            last = trainer.curve[-1]
            record.metrics |= {key: last[key] for key in ("accuracy", "clean_accuracy") if key in last}
    return record.metrics


def _trainer(
    options, guards, alarm, refresh, args, model, problems: list[Problem], eval_problems: list[Problem]
) -> StepPPOTrainer:
    task = get(options.task, options.task_path)
    _check_prompts(task, [*problems, *eval_problems])
    args.model_init_kwargs = model_init_kwargs(model, args)
    path, peft_config = model.model_name_or_path, get_peft_config(model)
    tokenizer = load_tokenizer(path, args.trust_remote_code)
    base = None
    if peft_config is not None and wants_base(options):
        base = load_base(path, args).to(args.device)
    verifiers = load_verifiers(options, args, base, path, model.model_revision)
    trainer = StepPPOTrainer(
        model=path if base is None else base,
        reward_source=task_rewards(options, guards, task, verifiers),
        args=args,
        train_dataset=_dataset(problems),
        eval_dataset=_dataset(eval_problems) if eval_problems else None,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    lengths = {p.id: len(tokenizer(p.prompt)["input_ids"]) for p in [*problems, *eval_problems]}
    check_prompt_lengths(lengths, args.max_completion_length, max_positions(trainer.model))
    check_fit(verifiers, [p.prompt for p in problems], args.max_completion_length)
    trainer.verifiers = verifiers
    watch(trainer, options, alarm, refresh, task, verifiers)
    trainer.add_callback(_WriteCurve(trainer, Path(args.output_dir) / CURVE))
    return trainer


def _check_prompts(task: Task, problems: list[Problem]) -> None:
    """Refuses problems that the task's checker cannot read, before a model is loaded."""
    for problem in problems:
        try:
            task.check(problem.prompt, "", problem.reference)
        except ValueError as error:
            raise UserError(f"problem '{problem.id}': {error}. Give the task that the problems are of.") from None


def _dataset(problems: list[Problem]) -> Dataset:
    return Dataset.from_list([{"prompt": p.prompt, "reference": p.reference} for p in problems])


class _WriteCurve(TrainerCallback):
    """Keeps the whole learning curve in `trainer.curve` and, after each evaluation, in a file.

    It is made of the Trainer's history, which checkpoints hold: a run that was killed and continued repeats no row, and
    has its accuracy even where it evaluates nothing more.
    """

    def __init__(self, trainer: StepPPOTrainer, path: Path):
        self.trainer, self.path = trainer, path
        trainer.curve = []

    def on_train_begin(self, args, state, control, **_):
        self.trainer.curve = _curve(args, state.log_history)

    def on_evaluate(self, args, state, control, **_):
        self.trainer.curve = _curve(args, state.log_history)
        if state.is_world_process_zero:
            write_rows(self.path, self.trainer.curve)


def _curve(args: StepPPOConfig, history: list[dict]) -> list[dict]:
    """A row for each step that was evaluated."""
    rows: dict[int, dict] = {}
    for entry in history:
        if "eval_accuracy" in entry:
            row = {
                "update": args.batches_at(entry["step"]),
                "samples": args.samples_at(entry["step"]),
                "accuracy": entry["eval_accuracy"],
            }
            # Not measured where the checker cannot tell of all steps; and no solution is clean where none is right.
            clean = entry.get("eval_clean_accuracy", 0.0 if row["accuracy"] == 0 else None)
            row |= {} if clean is None else {"clean_accuracy": clean}
            rows.setdefault(entry["step"], row)
    return list(rows.values())
