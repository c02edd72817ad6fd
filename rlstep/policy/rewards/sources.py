"""The verifiers behind the rewards: loaded, on the policy's base where they can share it, with cached scores."""

import logging
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.options import PPOOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.score_cache import ScoreCache
from rlstep.policy.rewards.task_rewards import GIVES, TaskRewards
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.tasks.base import Task
from rlstep.verifiers.adapters import find_adapter, save_adapter
from rlstep.verifiers.interface import Verifier
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.client import is_url
from rlstep.verifiers.shared_base import Base
from rlstep.verifiers.spec import Gives

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verifiers:
    """The verifiers of a run, by the name of the source that they are for.

    Attributes:
        models: the verifiers themselves.
        caches: the cached verifiers that the rewards use.
    """

    models: dict[str, Verifier]
    caches: dict[str, ScoreCache]


def wants_base(options: PPOOptions) -> bool:
    """Whether a verifier may share the policy's base, so that this has to be loaded before the trainer wraps it."""
    paths = [path for path in (options.prm, options.orm) if path]
    return options.share_base and any(not is_url(path) and find_adapter(path) is not None for path in paths)


def load_verifiers(
    options: PPOOptions,
    args: StepPPOConfig,
    base: PreTrainedModel | None = None,
    base_path: str = "",
    base_revision: str | None = None,
) -> Verifiers:
    """Loads the verifiers that the sources name.

    Args:
        options: the sources and their paths.
        args: device, trust_remote_code.
        base: the policy's model before an adapter is put on it, for verifiers that share it; None where none may.
        base_path, base_revision: where it comes from.
    """
    paths = {"prm": options.prm, "orm": options.orm, "implicit": options.implicit}
    models: dict[str, Verifier] = {}
    for name, path in paths.items():
        if path is not None:
            shared = None if base is None else Base(base, base_path, base_revision)
            models[name] = load_unsharded(path, args, GIVES[name], shared)
    caches = {name: ScoreCache(model, options.score_cache) for name, model in models.items()}
    return Verifiers(models, caches)


def check_fit(verifiers: Verifiers, prompts: list[str], new_tokens: int) -> None:
    """Reports where a verifier and the policy's completions may not match, before training starts.

    Raises:
        UserError: a prompt and a completion of `new_tokens`, in the verifier's tokens, are longer than the verifier.
    """
    for name, model in verifiers.models.items():
        limit = getattr(model, "max_positions", None)
        if limit is not None:
            longest = max(len(model.tokenizer(prompt)["input_ids"]) for prompt in prompts)
            if longest + new_tokens > limit:
                raise UserError(
                    f"the {name} has {limit} positions, and a prompt of {longest} of its tokens with a completion of "
                    f"{new_tokens} exceeds them. Lower max_completion_length, drop long problems, or take another one."
                )
        boundary = getattr(model, "boundary", None)
        if model.kind == "prm" and boundary is not None and boundary != Boundary():
            logger.warning("the %s was trained on steps by %s; here it scores lines, the task's steps", name, boundary)


def save_verifier(model: RewardModel, folder: Path) -> None:
    """Writes a refreshed verifier so that it loads like the one it came from."""
    if isinstance(getattr(model.model, "peft_config", None), dict):
        save_adapter(model.model, model.tokenizer, folder)
    else:
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)


def load_unsharded(path: str, args: StepPPOConfig, gives: Gives = "probability", base: Base | None = None) -> Verifier:
    """A verifier, whole on every rank: ZeRO-3 would shard whatever is loaded, and only its engine can run shards."""
    unset_hf_deepspeed_config()
    try:
        options = {"device": args.device, "trust_remote_code": args.trust_remote_code}
        return load_verifier(path, gives=gives, base=base, **options)
    finally:
        if getattr(args, "hf_deepspeed_config", None) is not None:
            set_hf_deepspeed_config(args.hf_deepspeed_config)


def task_rewards(options: PPOOptions, guards: Guards, task: Task, verifiers: Verifiers) -> TaskRewards:
    """The reward source that the options describe."""
    return TaskRewards(
        task,
        options.sources,
        verifiers.caches,
        credit=options.credit,
        credit_parameters=options.credit_parameters,
        process_weight=options.process_weight,
        outcome_weight=options.outcome_weight,
        first_error_threshold=options.first_error_threshold,
        guards=guards,
        missing_answer_reward=options.missing_answer_reward,
    )
