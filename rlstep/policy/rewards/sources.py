"""The verifiers behind the rewards: loaded, on the policy's base where they can share it, with cached scores."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path

from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.options import PPOOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.own import OwnReward, columns_of, load_own_reward
from rlstep.policy.rewards.score_cache import ScoreCache
from rlstep.policy.rewards.task_rewards import GIVES, TaskRewards
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompts import Prompt, PromptFormat, problem_text
from rlstep.steps.records import Problem, shown
from rlstep.tasks.base import Task
from rlstep.verifiers.adapters import find_adapter, save_adapter
from rlstep.verifiers.interface import Verifier
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.scoring.scorer import StepScorer
from rlstep.verifiers.serving.addresses import is_url
from rlstep.verifiers.serving.client import RemoteRewardModel
from rlstep.verifiers.shared_base import Base
from rlstep.verifiers.spec import Gives

logger = logging.getLogger(__name__)

LONGEST_ASKED = 8  # prompts, the longest by their characters, that a verifier on another machine is asked to read


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
    wanted = options.share_base and any(not is_url(path) and find_adapter(path) is not None for path in paths)
    if wanted and is_deepspeed_zero3_enabled():
        logger.warning(
            "verifiers are on bases of their own, whole on every rank: ZeRO-3 shards the policy's weights, and its "
            "engine alone gathers them"
        )
        return False
    return wanted


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
            boundary = options.steps if name == "prm" else None
            models[name] = load_unsharded(path, args, GIVES[name], shared, boundary)
    caches = {name: ScoreCache(model, options.score_cache) for name, model in models.items()}
    return Verifiers(models, caches)


def steps_of(options: PPOOptions, verifiers: Verifiers) -> Boundary:
    """What a step is in a run: what its PRM was taught, or a published one is asked at; lines without a PRM."""
    return verifiers.models["prm"].boundary if "prm" in verifiers.models else options.steps or Boundary()


def check_fit(
    verifiers: Mapping[str, Verifier],
    prompts: list[Prompt],
    prompt_format: PromptFormat,
    new_tokens: int,
    setting: str = "max_completion_length",
) -> None:
    """Refuses verifiers that do not fit the policy's prompts and completions, before training finds out.

    A verifier on another machine, whose tokenizer is not here, is asked whether it can read the longest prompts. A
    completion that is too long for it, or for a verifier with another tokenizer than the policy's, shows later.

    Args:
        verifiers: by name.
        prompts: the problems' prompts.
        prompt_format: how the policy reads them.
        new_tokens: the most tokens of a completion.
        setting: the name of the setting that limits them, for messages.

    Raises:
        UserError: a verifier was taught to read prompts otherwise; or a prompt and a completion of `new_tokens`, in the
            verifier's tokens, are longer than the verifier.
    """
    for name, model in verifiers.items():
        taught = model.prompt_format
        if taught is not None and (difference := taught.difference(prompt_format)):
            raise UserError(
                f"the {name} was taught {difference}, as the policy reads its prompts. Train it on samples of this "
                "policy, or give the policy the setting."
            )
        limit = getattr(model, "max_positions", None)
        if limit is not None:
            longest = max(map(len, _prompt_ids(model, prompts)), default=0)
            if longest + new_tokens > limit:
                raise UserError(
                    f"the {name} has {limit} positions, and a prompt of {longest} of its tokens with a completion of "
                    f"{new_tokens} exceeds them. Lower {setting}, drop long problems, or take another one."
                )
        elif isinstance(model, RemoteRewardModel):
            _check_reads(name, model, nlargest(LONGEST_ASKED, prompts, key=lambda prompt: len(problem_text(prompt))))


def _check_reads(name: str, model: RemoteRewardModel, prompts: list[Prompt]) -> None:
    """Refuses a verifier on another machine that has no room for a step after one of these prompts."""
    scores = model.score(prompts, ["."] * len(prompts), [[(0, 1)]] * len(prompts), cut=True)
    for prompt, of_steps in zip(prompts, scores, strict=True):
        if not of_steps:
            raise UserError(
                f"the {name} cannot read the problem {shown(prompt)}: the prompt alone is longer than it. Drop long "
                "problems, or take another one."
            )


def check_teacher(teacher: Verifier, boundary: Boundary) -> None:
    """Refuses a teacher that was taught other steps than those it is to label.

    Raises:
        UserError: the two boundaries differ.
    """
    if teacher.boundary != boundary:
        raise UserError(
            f"refresh_teacher was taught steps by {teacher.boundary}, and the PRM's are by {boundary}. Take one that "
            "was taught the same."
        )


def _prompt_ids(model: StepScorer, prompts: list[Prompt]) -> list[list[int]]:
    if model.prompt_format is not None:
        return model.prompt_format.encode(model.tokenizer, prompts)
    texts = [problem_text(prompt) for prompt in prompts]
    return model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def save_verifier(model: RewardModel, folder: Path) -> None:
    """Writes a refreshed verifier so that it loads like the one it came from."""
    if isinstance(getattr(model.model, "peft_config", None), dict):
        save_adapter(model.model, model.tokenizer, folder)
    else:
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)


def load_unsharded(
    path: str,
    args: StepPPOConfig,
    gives: Gives = "probability",
    base: Base | None = None,
    boundary: Boundary | None = None,
) -> Verifier:
    """A verifier, whole on every rank: ZeRO-3 would shard whatever is loaded, and only its engine can run shards.

    Args:
        path, gives, base: as in `load_verifier`.
        args: device, trust_remote_code.
        boundary: what a step is to be for it; None for what it was taught.

    Raises:
        UserError: it was taught something else, or is asked at something else by its server.
    """
    unset_hf_deepspeed_config()
    try:
        options = {"device": args.device, "trust_remote_code": args.trust_remote_code}
        if not is_url(path):
            options["boundary"] = boundary
        verifier = load_verifier(path, gives=gives, base=base, **options)
        if boundary not in (None, verifier.boundary):
            raise UserError(
                f"{path} asks for steps by {verifier.boundary}, not {boundary}. Leave the boundary out, or start its "
                "server with it."
            )
        return verifier
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
