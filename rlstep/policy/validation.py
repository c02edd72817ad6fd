"""What the parts of a PPO run's configuration mean for one another: combinations that make no sense, and what decides
how a run goes."""

from dataclasses import fields
from pathlib import Path

from trl import ModelConfig

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import VERIFIERS, PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.task_rewards import credit_settings
from rlstep.runtime.config import settings
from rlstep.runtime.errors import UserError
from rlstep.verifiers.serving.client import is_url

# Settings of the trainer that decide how a run goes; a run that is resumed with others would be another one.
DECIDING = (
    "advantage", "step_discount", "step_baseline", "gamma", "lam", "vine_rollouts", "whiten_rewards",
    "whiten_advantages", "vf_coef", "value_clip", "scale_rewards", "kl", "kl_estimator", "truncated", "beta", "epsilon",
    "epsilon_high", "delta", "loss_type", "learning_rate", "lr_scheduler_type", "weight_decay", "adam_beta1",
    "adam_beta2", "optim", "max_grad_norm", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
    "max_completion_length", "mask_truncated_completions", "entropy_coef", "top_entropy_quantile", "bf16", "fp16",
)  # fmt: skip
MODEL = ("model_name_or_path", "dtype", "use_peft", "lora_r", "lora_alpha", "lora_target_modules")
# Options that change what is written or how fast it goes, and nothing else.
FREE = ("eval_problems", "score_cache", "completion_table_every", "resume")


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
        UserError: there are some.
    """
    faults = _missing(options, refresh, model)
    faults += [] if options.pays_steps else _without_steps(options, alarm, args)
    if options.credit in ("delta", "clip_delta") and args.advantage == "group" and args.step_discount == 0:
        faults.append(
            f"credit '{options.credit}' means something in sums of rewards alone, and with step_discount 0 each step "
            "has its own reward; set step_discount: 1, or take another advantage"
        )
    if args.truncated == "bootstrap" and guards.guard_no_answer:
        faults.append(
            "truncated 'bootstrap' counts on what would have come, and guard_no_answer takes the step rewards of what "
            "has no answer yet; set guard_no_answer: false"
        )
    if args.truncated == "bootstrap" and options.missing_answer_reward:
        faults.append(
            "truncated 'bootstrap' counts on what would have come, and missing_answer_reward prices an answer that has "
            "not come yet; leave it out"
        )
    if refresh.refresh_every and "prm" not in options.reward:
        faults.append(f"refresh_every trains the PRM, but reward is {options.reward}; add prm, or leave it out")
    if alarm.alarm == "stop" and not args.load_best_model_at_end:
        faults.append(
            "alarm 'stop' ends the run on its best checkpoint, which has to be known: set load_best_model_at_end: true "
            "and metric_for_best_model: accuracy, with eval_strategy and save_strategy, or take alarm: warn"
        )
    if model.use_peft and args.sync_ref_model:
        faults.append(
            "sync_ref_model moves a reference of its own, and an adapter's reference is its base; leave it out"
        )
    if faults:
        raise UserError("; ".join(faults) + ".")
    if {"prm", "checker"} & set(options.reward):
        credit_settings(options.credit, options.credit_parameters)


def _missing(options: PPOOptions, refresh: RefreshOptions, model: ModelConfig) -> list[str]:
    """Folders that are not there; a hub id has one slash at most, and is looked up when it is loaded."""
    paths = {name: getattr(options, name) for name in VERIFIERS}
    paths |= {"refresh_teacher": refresh.refresh_teacher, "model_name_or_path": model.model_name_or_path}
    return [
        f"{name} {path}: no such folder; run the stage that writes it, or correct the path"
        for name, path in paths.items()
        if path and not is_url(path) and path.count("/") > 1 and not Path(path).exists()
    ]


def _without_steps(options: PPOOptions, alarm: AlarmOptions, args: StepPPOConfig) -> list[str]:
    """Settings of step rewards, where nothing pays for steps.

    Guards are left out: which of them fit is a property of the task, and arms of a contrast share it in their base.
    """
    changed = _changed(args, ["step_discount", "step_baseline"]) if args.advantage == "group" else []
    changed += ["truncated"] if args.truncated == "no_process" else []
    if "orm" not in options.reward:
        changed += _changed(alarm, [field.name for field in fields(alarm)]) if alarm.alarm != "off" else []
    if not changed:
        return []
    return [f"reward {options.reward} pays nothing for steps, so {', '.join(changed)} would do nothing; leave them out"]


def _changed(config, names: list[str]) -> list[str]:
    return [name for name in names if getattr(config, name) != config.__dataclass_fields__[name].default]


def deciding_settings(
    options: PPOOptions, guards: Guards, refresh: RefreshOptions, args: StepPPOConfig, model: ModelConfig
) -> dict:
    """What a run that is resumed must have in common with the one that wrote the checkpoint."""
    found = settings(options) | settings(guards) | settings(refresh)
    found |= {name: value for name, value in settings(args).items() if name in DECIDING}
    found |= {name: value for name, value in settings(model).items() if name in MODEL}
    return {name: value for name, value in found.items() if name not in FREE}
