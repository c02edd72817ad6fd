"""Checks a PPO run's configuration across its parts, for combinations that make no sense."""

from collections.abc import Iterator
from pathlib import Path

from trl import ModelConfig

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.estimators import OUTCOMES_ALONE
from rlstep.policy.model_options import PolicyModel, loading_faults
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import VERIFIERS, PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.task_rewards import NO_THRESHOLD, credit_settings
from rlstep.runtime.constraints import changed, faults_of, raise_faults
from rlstep.runtime.errors import UserError
from rlstep.runtime.packages import package_faults
from rlstep.verifiers.serving.addresses import is_url


def check_together(
    options: PPOOptions,
    guards: Guards,
    alarm: AlarmOptions,
    refresh: RefreshOptions,
    args: StepPPOConfig,
    model: ModelConfig,
) -> None:
    """Refuses combinations of settings that make no sense, all of them in one message, before anything is loaded.

    Raises:
        UserError: every combination that is wrong.
    """
    faults = [*faults_of(model, PolicyModel), *_missing(options, refresh, model)]
    faults += [*package_faults(args), *package_faults(model), *loading_faults(args.model_init_kwargs)]
    faults += _without_steps(options, alarm, args)
    faults += [*_sum_faults(options, args), *_outcome_faults(options, args)]
    if not options.own:  # what a user's own rewards pay for is known later
        faults += _paid_steps(options, args)
    if args.truncated == "bootstrap":
        faults += _bootstrap_faults(options, guards)
    if refresh.refresh_every and "prm" not in options.reward:
        faults.append(f"refresh_every trains the PRM, but reward is {options.reward}; add prm, or leave it out")
    if alarm.alarm == "stop" and not args.load_best_model_at_end:
        faults.append(
            "alarm 'stop' ends the run on its best checkpoint, which has to be known: set load_best_model_at_end: true "
            "and metric_for_best_model: accuracy, with eval_strategy and save_strategy, or take alarm: warn"
        )
    if model.use_peft:
        faults += _adapter_faults(args, model)
    if args.vllm_sync == "adapter":
        faults += _unserved(model)
    if args.resume_from_checkpoint is not None:
        faults.append("resume_from_checkpoint does nothing here: set resume, which takes the newest checkpoint")
    if {"prm", "checker"} & set(options.reward):
        faults += _credit_faults(options)
    raise_faults(faults)


def check_step_settings(options: PPOOptions, alarm: AlarmOptions, args: StepPPOConfig) -> None:
    """Refuses settings that do not fit whether steps are paid, once it is known what own rewards pay for.

    Raises:
        UserError: every such setting.
    """
    raise_faults([*_without_steps(options, alarm, args), *_paid_steps(options, args)])


def _bootstrap_faults(options: PPOOptions, guards: Guards) -> Iterator[str]:
    """Settings that judge a truncated completion by what it has not written yet."""
    if guards.guard_no_answer:
        yield (
            "truncated 'bootstrap' counts on what would have come, and guard_no_answer takes the step rewards of what "
            "has no answer yet; set guard_no_answer: false"
        )
    if options.missing_answer_reward:
        yield (
            "truncated 'bootstrap' counts on what would have come, and missing_answer_reward prices an answer that has "
            "not come yet; leave it out"
        )


def _adapter_faults(args: StepPPOConfig, model: ModelConfig) -> Iterator[str]:
    """Settings that would do nothing for a policy that trains an adapter."""
    if args.sync_ref_model:
        yield "sync_ref_model updates a separate reference, and an adapter's reference is its base; leave it out"
    if args.disable_dropout and model.lora_dropout and changed(model, ["lora_dropout"]):
        yield "disable_dropout is true, so lora_dropout would do nothing; leave it out, or set disable_dropout: false"


def _sum_faults(options: PPOOptions, args: StepPPOConfig) -> Iterator[str]:
    """Credit schemes whose rewards mean something only in sums, or only out of them."""
    of_own_steps = args.advantage == "group" and args.step_discount == 0
    if options.credit in ("delta", "clip_delta", "first_error") and of_own_steps:
        yield (
            f"credit '{options.credit}' is only meaningful in sums of rewards, and with step_discount 0 each step "
            "has only its own reward; set step_discount: 1, or use another advantage"
        )
    if options.credit == "coherence" and not of_own_steps:
        yield (
            "credit 'coherence' gives every step the solution's own score, whose sum would grow with the number of "
            "steps; take advantage 'group' with step_discount 0"
        )


def _outcome_faults(options: PPOOptions, args: StepPPOConfig) -> Iterator[str]:
    """What reads the verified outcome beside the step scores, where one of them is missing."""
    verified = options.sources.get("outcome", 0.0) * options.outcome_weight > 0
    if options.credit == "first_error":
        if options.first_error_threshold is None:
            yield NO_THRESHOLD
        if not verified:
            yield (
                "credit 'first_error' pays wrong solutions for their good prefix, and right ones by their outcome "
                "alone; add outcome to reward"
            )
    if args.centre_wrong and not (options.pays_steps and verified):
        yield (
            f"centre_wrong ranks wrong completions by their step rewards, and leaves it to the outcome that right ones "
            f"are better; reward {options.reward} needs both steps (prm) and outcome"
        )
    if args.keep_samples is not None and options.prm is None:
        yield "keep_samples chooses by a PRM's scores; set prm (reward may leave it out), or leave keep_samples out"
    if options.prm is not None and "prm" not in options.reward and args.keep_samples is None:
        yield f"prm is given, but reward is {options.reward}; add it there, set keep_samples, or leave it out"


def _paid_steps(options: PPOOptions, args: StepPPOConfig) -> Iterator[str]:
    if args.token_weights == "process_set" and options.pays_steps:
        yield OUTCOMES_ALONE.format(source=f"reward {options.reward} pays for steps, too")


def _credit_faults(options: PPOOptions) -> list[str]:
    try:
        credit_settings(options.credit, options.credit_parameters)
    except UserError as error:
        return [str(error)]
    return []


def _missing(options: PPOOptions, refresh: RefreshOptions, model: ModelConfig) -> list[str]:
    """Folders that are not there; a hub id has one slash at most, and is looked up when it is loaded."""
    paths = {name: getattr(options, name) for name in VERIFIERS}
    paths |= {"refresh_teacher": refresh.refresh_teacher, "model_name_or_path": model.model_name_or_path}
    return [
        f"{name} {path}: no such folder; run the stage that writes it, or correct the path"
        for name, path in paths.items()
        if path and not is_url(path) and path.count("/") > 1 and not Path(path).exists()
    ]


def _unserved(model: ModelConfig) -> list[str]:
    """What of a policy vLLM cannot serve as an adapter."""
    instead = "or set vllm_sync: merged"
    if not model.use_peft:
        return [f"vllm_sync is 'adapter', and without use_peft the policy has none; set use_peft: true, {instead}"]
    unserved = changed(model, ["use_dora", "lora_modules_to_save", "lora_target_parameters"])
    if not unserved:
        return []
    listed, them = ", ".join(unserved), "it" if len(unserved) == 1 else "them"
    return [f"vllm_sync is 'adapter', and vLLM serves no adapter with {listed}; leave {them} out, {instead}"]


def _without_steps(options: PPOOptions, alarm: AlarmOptions, args: StepPPOConfig) -> list[str]:
    """Settings of step rewards, where nothing pays for steps; none where something does.

    Guards are left out: which of them fit is a property of the task, and arms of a contrast share it in their base.
    """
    if options.pays_steps:
        return []
    idle = changed(args, ["step_discount", "step_baseline"]) if args.advantage == "group" else []
    idle += ["truncated"] if args.truncated == "no_process" else []
    if not options.pays_unverified_outcomes and alarm.alarm != "off":
        idle += changed(alarm)
    if not idle:
        return []
    return [f"reward {options.reward} has no step rewards, so {', '.join(idle)} would do nothing; leave them out"]
