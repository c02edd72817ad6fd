"""Loads any verifier: whatever a path or an address names becomes a `Verifier`, which has `score`.

    load_verifier("runs/prm")                                  rlstep's own: a PRM, an ORM, an implicit PRM, an adapter
    load_verifier("Qwen/Qwen2.5-Math-PRM-7B")                  a published PRM
    load_verifier("http://gpu7:8000")                          one that `rlstep serve` runs
    load_verifier("vllm+http://gpu7:8000/me/my-prm")           one that `vllm serve me/my-prm --runner pooling` holds
    load_verifier("runs/prm", base=Base(policy, "runs/sft"))   an adapter on weights that are in memory already
    load_verifier("runs/implicit", gives="reward")             an implicit PRM whose `score` gives step rewards

`RewardModel.from_pretrained` is the part for folders and hub ids.
"""

import inspect
import logging

from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import find_adapter
from rlstep.verifiers.interface import Verifier
from rlstep.verifiers.scoring.reward_model import RewardModel, require_probability
from rlstep.verifiers.serving.addresses import is_pooling_address, is_url
from rlstep.verifiers.serving.client import RemoteRewardModel
from rlstep.verifiers.serving.vllm_pooling import PooledRewardModel
from rlstep.verifiers.shared_base import Base, model_on_base
from rlstep.verifiers.spec import Gives

logger = logging.getLogger(__name__)

LOCAL, REMOTE, POOLED = RewardModel.from_pretrained, RemoteRewardModel, PooledRewardModel
# They say how this process would load a model, and from a server it loads none.
OF_THIS_PROCESS = ("device", "trust_remote_code")
# What an option is for that the way of loading at hand has no use for.
FOR_ANOTHER = {
    LOCAL: "is for a server's address",
    REMOTE: "is for `rlstep serve`, which loads the verifier",
    POOLED: "is for a verifier that is loaded here, or for `rlstep serve`",
}


def load_verifier(path_or_url: str, *, gives: Gives = "probability", base: Base | None = None, **options) -> Verifier:
    """A verifier from a folder, a hub id or the address of a server.

    Args:
        path_or_url: what `RewardModel.from_pretrained` loads, http(s)://HOST:PORT of an `rlstep serve`, or
            vllm+http(s)://HOST:PORT/NAME of a `vllm serve` (`rlstep.verifiers.serving.vllm_pooling`).
        gives: what its `score` should return; "reward" only for an implicit PRM.
        base: a model in memory whose weights it is to share where it is an adapter on them; where it cannot, a warning
            says why, and it is loaded on weights of its own.
        **options: of `RewardModel.from_pretrained` for a path, of `RemoteRewardModel` or `PooledRewardModel` for an
            address. Those of the others may be there with their defaults; `device` and `trust_remote_code` are not
            needed for a server.

    Returns:
        A `RewardModel`, an `ImplicitRewardModel`, a `RemoteRewardModel` or a `PooledRewardModel`.

    Raises:
        UserError: it cannot be loaded or reached, it cannot return what was requested, or an option would do nothing.
    """
    if is_url(path_or_url):
        require_probability(gives, path_or_url)
        load = POOLED if is_pooling_address(path_or_url) else REMOTE
        return load(path_or_url, **_options_of(load, path_or_url, options))
    options = _options_of(LOCAL, path_or_url, options) | {"gives": gives}
    if base is not None and find_adapter(path_or_url) is not None:
        model, why_not = model_on_base(path_or_url, base, options.get("trust_remote_code", False))
        if model is None:
            logger.warning("%s does not share the policy's base: %s", path_or_url, why_not)
        options["model"] = model
    return RewardModel.from_pretrained(path_or_url, **options)


def _options_of(load, path_or_url: str, options: dict) -> dict:
    """The options that `load` takes; those of the other ways of loading must have their defaults."""
    known = inspect.signature(load).parameters
    foreign = {name: one for other in FOR_ANOTHER for name, one in inspect.signature(other).parameters.items()}
    for name, value in options.items():
        if name in known or (load != LOCAL and name in OF_THIS_PROCESS):
            continue
        if name not in foreign:
            raise TypeError(f"load_verifier() got an unexpected keyword argument '{name}'")
        if value != foreign[name].default:
            why = FOR_ANOTHER[load]
            raise UserError(f"{name} is {value!r}, but {path_or_url} makes no use of it: it {why}. Leave it out.")
    return {name: value for name, value in options.items() if name in known}
