"""The `ppo` stage: PPO with process or outcome rewards, evaluated as it goes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets import Dataset
from transformers import TrainerCallback
from trl import ModelConfig, get_peft_config

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.models import check_prompt_lengths, load_tokenizer, max_positions
from rlstep.policy.rewards import TaskRewards
from rlstep.policy.sft import model_init_kwargs
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.runtime.checkpoints import newest_checkpoint
from rlstep.runtime.config import settings
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_rows
from rlstep.steps.records import Problem, read_problems
from rlstep.tasks import get
from rlstep.verifiers.scoring import RewardModel

CURVE = "eval.jsonl"


@dataclass
class PPOOptions:
    problems: str = field(metadata={"help": "Problems to train on (JSONL)."})
    eval_problems: str | None = field(default=None, metadata={"help": "Problems to evaluate on (JSONL)."})
    task: Literal["arithmetic", "increasing", "gsm8k"] = field(
        default="arithmetic", metadata={"help": "Whose checker verifies answers and steps."}
    )
    task_path: str | None = field(default=None, metadata={"help": "gsm8k: a folder, a JSONL file or a hub id."})
    reward: Literal["process", "outcome"] = field(
        default="outcome", metadata={"help": "process: a PRM's step rewards (plus the outcome's); outcome: that alone."}
    )
    reward_model: str | None = field(default=None, metadata={"help": "process: folder or hub id of the PRM."})
    process_weight: float = field(default=1.0, metadata={"help": "process: factor of the step rewards."})
    outcome_weight: float = field(default=1.0, metadata={"help": "Factor of the verified outcome; 0 leaves it out."})
    credit: Literal["sum", "log", "clip", "delta", "clip_delta", "progress", "min_form"] = field(
        default="sum", metadata={"help": "process: how step rewards follow from step scores (sum: 2p - 1)."}
    )
    credit_parameters: dict | str | None = field(
        default=None, metadata={"help": "process: the credit scheme's parameters, as a mapping."}
    )
    first_error_threshold: float | None = field(
        default=None, metadata={"help": "process: pay nothing after the first step scored below this."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir, where there is one."}
    )

    def __post_init__(self):
        if self.reward == "process" and self.reward_model is None:
            raise UserError("reward 'process' needs reward_model: a PRM's folder or hub id.")
        if self.reward == "outcome" and self.reward_model is not None:
            raise UserError("reward 'outcome' uses no reward_model; leave it out, or set reward: process.")
        if self.reward == "outcome" and self.outcome_weight == 0:
            raise UserError("reward 'outcome' with outcome_weight 0 leaves nothing to learn from.")


def ppo(options: PPOOptions, args: StepPPOConfig, model: ModelConfig) -> dict:
    """Trains a policy (with `--use_peft`, a LoRA adapter on it) and writes it to `args.output_dir`."""
    if model.model_name_or_path is None:
        raise UserError("model_name_or_path is missing: a hub id or a folder with a causal LM.")
    problems = read_problems(options.problems)
    eval_problems = read_problems(options.eval_problems) if options.eval_problems else []
    if args.eval_strategy != "no" and not eval_problems:
        raise UserError(f"eval_strategy is '{args.eval_strategy}' but eval_problems is not given.")
    record = RunRecord("ppo", settings(options) | settings(args) | settings(model), args.output_dir, args.seed)
    with record:
        trainer = _trainer(options, args, model, problems, eval_problems)
        result = trainer.train(resume_from_checkpoint=newest_checkpoint(args.output_dir) if options.resume else None)
        trainer.save_model()
        record.metrics |= {"samples": args.samples_at(trainer.state.global_step), **result.metrics}
        if trainer.curve:
            record.metrics |= {key: trainer.curve[-1][key] for key in ("accuracy", "clean_accuracy")}
    return record.metrics


def _trainer(options, args, model, problems: list[Problem], eval_problems: list[Problem]) -> StepPPOTrainer:
    args.model_init_kwargs = model_init_kwargs(model, args)
    tokenizer = load_tokenizer(model.model_name_or_path, args.trust_remote_code)
    reward_model = None
    if options.reward == "process":
        reward_model = RewardModel.from_pretrained(
            options.reward_model, device=args.device, trust_remote_code=args.trust_remote_code
        )
    rewards = TaskRewards(
        get(options.task, options.task_path),
        reward_model,
        options.credit,
        options.credit_parameters,
        options.process_weight,
        options.outcome_weight,
        options.first_error_threshold,
    )
    trainer = StepPPOTrainer(
        model=model.model_name_or_path,
        reward_source=rewards,
        args=args,
        train_dataset=_dataset(problems),
        eval_dataset=_dataset(eval_problems) if eval_problems else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
    )
    lengths = {p.id: len(tokenizer(p.prompt)["input_ids"]) for p in [*problems, *eval_problems]}
    check_prompt_lengths(lengths, args.max_completion_length, max_positions(trainer.model))
    trainer.curve = []
    trainer.add_callback(_WriteCurve(trainer, Path(args.output_dir) / CURVE))
    return trainer


def _dataset(problems: list[Problem]) -> Dataset:
    return Dataset.from_list([{"prompt": p.prompt, "reference": p.reference} for p in problems])


class _WriteCurve(TrainerCallback):
    """After each evaluation writes the whole learning curve out of the Trainer's history, which checkpoints hold: a run
    that was killed and continued repeats no row."""

    def __init__(self, trainer: StepPPOTrainer, path: Path):
        self.trainer, self.path = trainer, path

    def on_evaluate(self, args, state, control, **_):
        rows = [
            {
                "update": entry["step"] // args.optimizer_steps_per_batch,
                "samples": args.samples_at(entry["step"]),
                "accuracy": entry["eval_accuracy"],
                "clean_accuracy": entry["eval_clean_accuracy"],
            }
            for entry in state.log_history
            if "eval_accuracy" in entry
        ]
        self.trainer.curve = rows
        if state.is_world_process_zero:
            write_rows(self.path, rows)
