"""The `ppo` stage: PPO with rewards for steps, for outcomes, or for both, evaluated as it goes."""

from pathlib import Path
from typing import Any

from trl import get_peft_config

from rlstep.policy.config import PolicyModel, StepPPOConfig
from rlstep.policy.models import check_prompt_lengths, load_base, load_policy_tokenizer, model_init_kwargs
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.monitoring.curve import CURVE, LearningCurve
from rlstep.policy.monitoring.setup import set_up_monitoring
from rlstep.policy.options import PPOOptions
from rlstep.policy.problems import as_dataset, check_readable, evaluation_problems, training_problems
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.sources import (
    Verifiers,
    check_fit,
    load_verifiers,
    save_verifier,
    task_rewards,
    wants_base,
)
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.policy.validation import check_together
from rlstep.runtime.checkpoints import newest_checkpoint
from rlstep.runtime.config import settings
from rlstep.runtime.errors import UserError
from rlstep.runtime.identity import run_identity
from rlstep.runtime.record import RunRecord
from rlstep.steps.records import Problem
from rlstep.tasks import get
from rlstep.verifiers.pretrained import max_positions


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
    problems, eval_problems = training_problems(options, args), evaluation_problems(options, args)
    parts = (options, guards, alarm, refresh, args, model)
    identity = run_identity(*parts)
    config = {name: value for part in parts for name, value in settings(part).items()}
    out, curve = Path(args.output_dir), LearningCurve(Path(args.output_dir) / CURVE)
    with RunRecord("ppo", config, args.output_dir, args.seed) as record:
        trainer, verifiers = _trainer(*parts, problems, eval_problems, identity)
        trainer.add_callback(curve)
        start = newest_checkpoint(args.output_dir, exact=True) if options.resume else None
        result = trainer.train(resume_from_checkpoint=start)
        trainer.save_model()
        if refresh.refresh_every and trainer.is_world_process_zero():
            save_verifier(verifiers.models["prm"], out / "prm")
        samples = args.samples_at(trainer.state.global_step)
        record.metrics |= {"samples": samples, **result.metrics, **curve.last()}
    return record.metrics


def _trainer(
    options: PPOOptions,
    guards: Guards,
    alarm: AlarmOptions,
    refresh: RefreshOptions,
    args: StepPPOConfig,
    model: PolicyModel,
    problems: list[Problem],
    eval_problems: list[Problem],
    identity: dict[str, Any],
) -> tuple[StepPPOTrainer, Verifiers]:
    """The trainer with its monitoring and the verifiers of its rewards."""
    task = get(options.task, options.task_path)
    check_readable(task, [*problems, *eval_problems])
    args.model_init_kwargs = model_init_kwargs(model, args)
    path, peft_config = model.model_name_or_path, get_peft_config(model)
    tokenizer = load_policy_tokenizer(path, args.trust_remote_code)
    base = None
    if peft_config is not None and wants_base(options):
        base = load_base(path, args).to(args.device)
    verifiers = load_verifiers(options, args, base, path, model.model_revision)
    trainer = StepPPOTrainer(
        model=path if base is None else base,
        reward_source=task_rewards(options, guards, task, verifiers),
        args=args,
        train_dataset=as_dataset(problems),
        eval_dataset=as_dataset(eval_problems) if eval_problems else None,
        processing_class=tokenizer,
        peft_config=peft_config,
        run_identity=identity,
    )
    lengths = {p.id: len(tokenizer(p.prompt)["input_ids"]) for p in [*problems, *eval_problems]}
    check_prompt_lengths(lengths, args.max_completion_length, max_positions(trainer.model.config))
    check_fit(verifiers, [p.prompt for p in problems], args.max_completion_length)
    set_up_monitoring(trainer, options, alarm, refresh, task, verifiers)
    return trainer, verifiers
