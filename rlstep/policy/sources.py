"""The verifiers that pay in RL: loaded, where they can share the policy's base on it, and their scores kept."""

import logging
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.guards import Guards
from rlstep.policy.options import VERIFIERS, PPOOptions
from rlstep.policy.rewards import TaskRewards
from rlstep.policy.score_cache import ScoreCache
from rlstep.tasks.base import Task
from rlstep.verifiers.adapter_files import find
from rlstep.verifiers.adapters import on_base
from rlstep.verifiers.remote import is_url, load_reward_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verifiers:
    """What was loaded.

    Attributes:
        models: by source, the reward models.
        caches: by source, what the rewards ask in their place.
    """

    models: dict[str, object]
    caches: dict[str, ScoreCache]


def wants_base(options: PPOOptions) -> bool:
    """Whether a verifier may share the policy's base, so that this has to be loaded before the trainer wraps it."""
    paths = [getattr(options, name) for name in ("prm", "orm")]
    return options.share_base and any(path and not is_url(path) and find(path) is not None for path in paths)


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
    models = {}
    for name in VERIFIERS:
        path = getattr(options, name)
        if path is not None:
            models[name] = _shared(path, args, base, base_path, base_revision) or load_whole(path, args)
    methods = {"implicit": "step_log_ratios"}
    caches = {n: ScoreCache(model, options.score_cache, methods.get(n, "score")) for n, model in models.items()}
    return Verifiers(models, caches)


def load_whole(path: str, args: StepPPOConfig):
    """A verifier, whole on every rank: ZeRO-3 would shard whatever is loaded, and only its engine can run shards."""
    unset_hf_deepspeed_config()
    try:
        return load_reward_model(path, device=args.device, trust_remote_code=args.trust_remote_code)
    finally:
        if getattr(args, "hf_deepspeed_config", None) is not None:
            set_hf_deepspeed_config(args.hf_deepspeed_config)


def _shared(path: str, args: StepPPOConfig, base: PreTrainedModel | None, base_path: str, revision: str | None):
    if base is None or is_url(path) or find(path) is None:
        return None
    found, why_not = on_base(path, base, base_path, revision, args.trust_remote_code)
    if found is None:
        logger.warning("%s does not share the policy's base: %s", path, why_not)
    return found


def task_rewards(options: PPOOptions, guards: Guards, task: Task, verifiers: Verifiers) -> TaskRewards:
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
