"""ReasonFlux-PRM-7B (Zou et al., 2506.18896): Qwen2.5-Math-PRM's weights and marks, in another conversation.

The model card leaves the system turn to the chat template; the steps of a response are its blocks, as there.
"""

from rlstep.verifiers.published import qwen
from rlstep.verifiers.published.weights import published_name


def recognises(config: dict, path: str) -> bool:
    # ReasonFlux-PRM-1.5B has one value for a whole text, and ReasonFlux-PRM-Qwen-2.5-7B is a generator.
    return qwen.has_architecture(config) and published_name(path, r"ReasonFlux-PRM-7B")


def load(path: str, tokenizer, dtype: str, trust_remote_code: bool):
    return qwen.load(path, tokenizer, dtype, trust_remote_code, system=None)
