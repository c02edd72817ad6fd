"""The `ppo` stage: PPO with rewards for steps, for outcomes, or for both, evaluated as it goes."""

from pathlib import Path
from typing import Any

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.model_options import PolicyModel
from rlstep.policy.models import check_prompt_lengths, load_base, load_policy_tokenizer, prompt_lengths
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.monitoring.curve import CURVE, LearningCurve
from rlstep.policy.monitoring.setup import set_up_monitoring
from rlstep.policy.options import VERIFIERS, PPOOptions
from rlstep.policy.problems import as_dataset, check_readable, evaluation_problems, training_problems
from rlstep.policy.prompt_files import read_prompt_format
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.sources import (
    Verifiers,
    check_fit,
    load_own_rewards,
    load_verifiers,
    save_verifier,
    steps_of,
    task_rewards,
    wants_base,
)
from rlstep.policy.start import PolicyStart, check_head, check_tied, policy_start
from rlstep.policy.step_tags import check_tag
from rlstep.policy.token_budget import check_budget
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.policy.validation import check_step_settings, check_together
from rlstep.runtime.checkpoints import checkpoint_to_continue
from rlstep.runtime.config import settings
from rlstep.runtime.identity import run_identity
from rlstep.runtime.output_dir import check_output_dir
from rlstep.runtime.processes import start_processes
from rlstep.runtime.record import RunRecord
from rlstep.runtime.track_training import track_training
from rlstep.runtime.tracking import KINDS, UNTRACKED, TrackingOptions, check_tracking
from rlstep.steps.answers import failed_gradings
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.records import Problem
from rlstep.tasks import get
from rlstep.verifiers.pretrained import load_config, max_positions
from rlstep.verifiers.vocabulary import check_vocabulary


def ppo(
    options: PPOOptions,
    guards: Guards,
    alarm: AlarmOptions,
    refresh: RefreshOptions,
    args: StepPPOConfig,
    model: PolicyModel,
    prompts: PromptOptions = BY_CHECKPOINT,
    tracking: TrackingOptions = UNTRACKED,
) -> dict:
    """Trains a policy (with `--use_peft`, a LoRA adapter on it) and writes it to `args.output_dir`."""
    check_together(options, guards, alarm, refresh, args, model)
    check_tracking(tracking, args, KINDS)
    start = policy_start(model, options.merge_base, args.trust_remote_code)
    read = {name: getattr(options, name) for name in VERIFIERS} | {"refresh_teacher": refresh.refresh_teacher}
    check_output_dir(args.output_dir, {"model_name_or_path": model.model_name_or_path, "its base": start.path, **read})
    check_head(start, args)
    if args.use_vllm:
        check_tied(start, args.trust_remote_code)
    problems, eval_problems = training_problems(options, args), evaluation_problems(options, args)
    parts = (options, guards, alarm, refresh, args, model, prompts)
    identity = run_identity(*parts)
    config = {name: value for part in (*parts, tracking) for name, value in settings(part).items()}
    out, curve = Path(args.output_dir), LearningCurve(Path(args.output_dir) / CURVE)
    with RunRecord("ppo", config, args.output_dir, args.seed) as record:
        start_processes(args)
        trainer, verifiers = _trainer(*parts, start, problems, eval_problems, identity)
        trainer.add_callback(curve)
        checkpoint = checkpoint_to_continue(args.output_dir) if options.resume else None
        record.kept = trainer.can_go_on
        track_training(trainer, record, tracking, checkpoint, [options.problems, options.eval_problems])
        with failed_gradings() as failed:
            result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        start.finish(args)
        if refresh.refresh_every and trainer.is_world_process_zero():
            save_verifier(verifiers.models["prm"], out / "prm")
        samples = args.samples_at(trainer.state.global_step)
        record.metrics |= {"samples": samples, **result.metrics, **curve.last(), **failed}
    return record.metrics


def _trainer(
    options: PPOOptions,
    guards: Guards,
    alarm: AlarmOptions,
    refresh: RefreshOptions,
    args: StepPPOConfig,
    model: PolicyModel,
    prompts: PromptOptions,
    start: PolicyStart,
    problems: list[Problem],
    eval_problems: list[Problem],
    identity: dict[str, Any],
) -> tuple[StepPPOTrainer, Verifiers]:
    """The trainer with all that watches it, and the verifiers that pay."""
    check_readable(get(options.task, **options.grading), [*problems, *eval_problems])
    own = load_own_rewards(options, [*problems, *eval_problems])
    check_step_settings(options, alarm, args)
    path, policy_config = model.model_name_or_path, load_config(start.path, args.trust_remote_code)
    tokenizer = load_policy_tokenizer(path, args.trust_remote_code)
    check_vocabulary(tokenizer, policy_config, generates=True)
    everyone = [*problems, *eval_problems]
    texts = [problem.prompt for problem in everyone]
    prompt_format = prompts.for_model(tokenizer, texts, read_prompt_format(path), path)
    lengths = prompt_lengths(everyone, tokenizer, prompt_format, policy_config)
    if args.tokens_per_device is not None:
        check_budget(lengths, args.max_completion_length, args.tokens_per_device)
    start = start.prepare(model, args)
    base = None
    if model.use_peft and wants_base(options):
        base = load_base(start.path, args).to(args.device)
    verifiers = load_verifiers(options, args, base, start.path, start.revision)
    check_fit(verifiers.models, texts, prompt_format, args.max_completion_length)
    steps = steps_of(options, verifiers)
    check_tag(options.prm or "the reward", steps, tokenizer)
    task = get(options.task, boundary=steps, **options.grading)
    trainer = StepPPOTrainer(
        model=start.path if base is None else base,
        reward_source=task_rewards(options, guards, task, verifiers, own),
        args=args,
        train_dataset=as_dataset(problems, prompt_format),
        eval_dataset=as_dataset(eval_problems, prompt_format) if eval_problems else None,
        processing_class=tokenizer,
        peft_config=start.lora,
        adapter=start.adapter,
        run_identity=identity,
        prompt_format=prompt_format,
    )
    check_prompt_lengths(lengths, args.max_completion_length, max_positions(trainer.model.config))
    set_up_monitoring(trainer, options, alarm, refresh, task, verifiers)
    return trainer, verifiers
