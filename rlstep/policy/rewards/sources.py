"""The verifiers that pay in RL: loaded, on the policy's base where they can share it, with their scores kept."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.options import PPOOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.own import OwnReward, columns_of, load_own_reward
from rlstep.policy.rewards.score_cache import ScoreCache
from rlstep.policy.rewards.scored import Verifier
from rlstep.policy.rewards.task_rewards import GIVES, TaskRewards
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Problem
from rlstep.tasks.base import Task
from rlstep.verifiers.adapters import find_adapter, save_adapter
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
        caches: what the rewards ask in their place.
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
    """Says where a verifier and the policy's completions may not fit each other, before training finds out.

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
            logger.warning("the %s was taught steps by %s; it is asked at the task's steps, lines", name, boundary)


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


def load_own_rewards(options: PPOOptions, problems: Sequence[Problem]) -> dict[str, OwnReward]:
    """The user's own rewards among the sources, each tried on a problem; the options are told what they pay for.

    Raises:
        UserError: one cannot be used, or settings would do nothing with what they pay for.
    """
    first = next((problem for problem in problems if problem.extra), problems[0])
    columns = {name: values[:1] for name, values in columns_of([first.extra, *(p.extra for p in problems)]).items()}
    own = {name: load_own_reward(name, first.prompt, first.reference, columns) for name in options.own}
    options.resolve_own({name: reward.pays for name, reward in own.items()})
    return own


def task_rewards(
    options: PPOOptions, guards: Guards, task: Task, verifiers: Verifiers, own: dict[str, OwnReward] | None = None
) -> TaskRewards:
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
        own=own,
    )
