"""Sampling by transformers, in this process."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlstep.policy.engines.base import Engine, Sampling
from rlstep.policy.sampling import Batch, generate
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution


class TransformersEngine(Engine):
    """Samples a batch at a time, from torch's generator as it stands: the caller seeds it.

    Args:
        model: the policy, on its device.
        tokenizer: pads on the left.
        prompt_format: how prompts are written.
        sampling: how completions are drawn.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
        sampling: Sampling,
    ):
        self.model, self.tokenizer, self.prompt_format = model, tokenizer, prompt_format
        self._drawn = {name: getattr(sampling, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}

    def generate(self, batch: Batch) -> list[Solution]:
        return generate(self.model, self.tokenizer, batch, self.prompt_format, **self._drawn)
