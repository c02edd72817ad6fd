"""The `ppo` stage: PPO with process or outcome rewards, evaluated as it goes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datasets import Dataset
from transformers import TrainerCallback
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
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
from rlstep.tasks.base import Task
from rlstep.verifiers.scoring import RewardModel

CURVE = "eval.jsonl"
PROCESS_ONLY = ("process_weight", "credit", "credit_parameters", "first_error_threshold")


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
        for name in PROCESS_ONLY:
            if self.reward == "outcome" and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(f"reward 'outcome' pays nothing for steps, so {name} would do nothing; leave it out.")
        if isinstance(self.credit_parameters, str):
            try:
                self.credit_parameters = json.loads(self.credit_parameters)
            except ValueError:
                self.credit_parameters = [self.credit_parameters]
        if not isinstance(self.credit_parameters, dict | None):
            raise UserError(
                f"credit_parameters is {self.credit_parameters}; give a mapping, on the command line as JSON: "
                """'{"eta": 0.7}'."""
            )


def ppo(options: PPOOptions, args: StepPPOConfig, model: ModelConfig) -> dict:
    """Trains a policy (with `--use_peft`, a LoRA adapter on it) and writes it to `args.output_dir`."""
    if model.model_name_or_path is None:
        raise UserError("model_name_or_path is missing: a hub id or a folder with a causal LM.")
    problems = read_problems(options.problems)
    eval_problems = read_problems(options.eval_problems) if options.eval_problems else []
    if args.eval_strategy != "no" and not eval_problems:
        raise UserError(f"eval_strategy is '{args.eval_strategy.value}' but eval_problems is not given.")
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
    task = get(options.task, options.task_path)
    _check_prompts(task, [*problems, *eval_problems])
    args.model_init_kwargs = model_init_kwargs(model, args)
    tokenizer = load_tokenizer(model.model_name_or_path, args.trust_remote_code)
    reward_model = None
    if options.reward == "process":
        reward_model = _reward_model(options.reward_model, args)
    rewards = TaskRewards(
        task,
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


def _check_prompts(task: Task, problems: list[Problem]) -> None:
    """Refuses problems that the task's checker cannot read, before a model is loaded."""
    for problem in problems:
        try:
            task.check(problem.prompt, "", problem.reference)
        except ValueError as error:
            raise UserError(f"problem '{problem.id}': {error}. Give the task that the problems are of.") from None


def _reward_model(path: str, args: StepPPOConfig) -> RewardModel:
    """The verifier, whole on every rank: ZeRO-3 would shard whatever is loaded, and only its engine can run shards."""
    unset_hf_deepspeed_config()
    try:
        return RewardModel.from_pretrained(path, device=args.device, trust_remote_code=args.trust_remote_code)
    finally:
        if getattr(args, "hf_deepspeed_config", None) is not None:
            set_hf_deepspeed_config(args.hf_deepspeed_config)


def _dataset(problems: list[Problem]) -> Dataset:
    return Dataset.from_list([{"prompt": p.prompt, "reference": p.reference} for p in problems])


class _WriteCurve(TrainerCallback):
    """After each evaluation writes the whole learning curve out of the Trainer's history, which checkpoints hold: a run
    that was killed and continued repeats no row (with eval_on_start it evaluates once more where it continues)."""

    def __init__(self, trainer: StepPPOTrainer, path: Path):
        self.trainer, self.path = trainer, path

    def on_evaluate(self, args, state, control, **_):
        rows: dict[int, dict] = {}
        for entry in state.log_history:
            if "eval_accuracy" in entry:
                row = {
                    "update": args.batches_at(entry["step"]),
                    "samples": args.samples_at(entry["step"]),
                    "accuracy": entry["eval_accuracy"],
                    "clean_accuracy": entry["eval_clean_accuracy"],
                }
                rows.setdefault(entry["step"], row)
        self.trainer.curve = list(rows.values())
        if state.is_world_process_zero:
            write_rows(self.path, self.trainer.curve)
