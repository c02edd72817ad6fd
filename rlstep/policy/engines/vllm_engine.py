"""Sampling by vLLM in this process: `vllm.LLM`, whole weights or a LoRA adapter on its base.

Written against vLLM 0.22 to 0.31, the versions that TRL 1.16 knows. Every solution has a seed of its own, so a batch's
order does not matter; vLLM promises equal samples for equal seeds on the same hardware and version up to its kernels'
rounding, which depends on what is computed at the same time, unless VLLM_BATCH_INVARIANT=1 is set.
"""

from collections.abc import Sequence
from types import SimpleNamespace

from transformers import PretrainedConfig
from trl.import_utils import suppress_experimental_warning

from rlstep.policy.engines.base import (
    Begun,
    Completion,
    Engine,
    Prompting,
    Sampling,
    check_reason,
    sample_name,
    sampling_parameters,
    step_parameters,
)
from rlstep.policy.engines.options import EngineOptions
from rlstep.policy.sampling import Batch
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Solution
from rlstep.verifiers.adapters import Adapter

with suppress_experimental_warning():
    from trl.experimental.async_grpo.async_grpo_trainer import round_lora_rank, validate_lora_for_vllm_sync


class VLLMEngine(Engine):
    """Samples with vLLM's offline engine.

    Args:
        path: folder or hub id of the policy.
        adapter: what is there, where it is one.
        config: the policy's configuration, that of its base where it is an adapter.
        prompting: how its prompts are written.
        sampling: how completions are drawn.
        options: the engine's settings.
        longest: tokens of the longest prompt and its completion.
        dtype: the weights' type; auto: that of the checkpoint.
        trust_remote_code: run model code from the hub.

    Raises:
        UserError: vLLM cannot load the model or serve the adapter.
    """

    def __init__(
        self,
        path: str,
        adapter: Adapter | None,
        config: PretrainedConfig,
        prompting: Prompting,
        sampling: Sampling,
        options: EngineOptions,
        longest: int,
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ):
        self.prompting, self.sampling = prompting, sampling
        arguments = {
            "model": path,
            "tokenizer": path,
            # vLLM's own auto makes 16 bits of float32.
            "dtype": str(config.dtype or "auto").removeprefix("torch.") if dtype == "auto" else dtype,
            "trust_remote_code": trust_remote_code,
            "tensor_parallel_size": options.tensor_parallel_size,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            # No more KV cache than the rows need: many a model's own limit fits on no GPU.
            "max_model_len": longest,
            "generation_config": "vllm",
            "seed": sampling.seed,
        }
        if adapter is not None:
            arguments |= {"model": adapter.base, "enable_lora": True, "max_lora_rank": lora_rank(adapter)}
            arguments |= {"revision": adapter.lora.revision} if adapter.lora.revision else {}
        self.lora = None
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest

            self.llm = LLM(**arguments)
            if adapter is not None:
                self.lora = LoRARequest("policy", 1, str(adapter.folder))
        except (ImportError, ValueError, RuntimeError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise UserError(f"vLLM cannot load {path}: {reason}. Its own output says more.") from error

    def generate(self, batch: Batch) -> list[Solution]:
        names = [sample_name(*one) for one in batch]
        seeds = [{"seed": self.sampling.seed_of(*one), "detokenize": False} for one in batch]
        return self.prompting.solutions(batch, self._complete(names, self.prompting.encode(batch), seeds))

    def go_on(self, begun: Sequence[Begun], boundary: Boundary | None) -> list[list[int]]:
        # It has to read its own text to find a step's end.
        changes = [step_parameters(one, boundary) | {"detokenize": boundary is not None} for one in begun]
        completions = self._complete([one.name for one in begun], [one.ids for one in begun], changes)
        return [list(completion.ids) for completion in completions]

    def _complete(self, names: list[str], prompts: list[list[int]], changes: list[dict]) -> list[Completion]:
        """One completion of each prompt.

        Args:
            names: for messages.
            prompts: tokens.
            changes: of the sampling's parameters, for each.
        """
        from vllm import SamplingParams

        common = sampling_parameters(self.sampling, self.prompting.stops)
        parameters = [SamplingParams(**(common | one)) for one in changes]
        inputs = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self.llm.generate(inputs, parameters, lora_request=self.lora, use_tqdm=False)
        completions = [Completion(one.token_ids, one.finish_reason) for output in outputs for one in output.outputs]
        if len(completions) != len(prompts):
            raise UserError(
                f"vLLM gave {counted(len(completions), 'completion')} for {counted(len(prompts), 'prompt')}."
            )
        for name, completion in zip(names, completions, strict=True):
            check_reason(name, completion.reason)
        return completions


def lora_rank(adapter: Adapter) -> int:
    """The capacity that vLLM needs for an adapter.

    Raises:
        UserError: vLLM would load a part of it, or nothing.
    """
    lora = adapter.lora
    try:
        # What TRL's check reads of a model with one adapter.
        validate_lora_for_vllm_sync(SimpleNamespace(active_adapters=["policy"], peft_config={"policy": lora}))
        return round_lora_rank(max([lora.r, *lora.rank_pattern.values()]))
    except ValueError as error:
        reason = str(error).split(". ")[0].rstrip(".")
        raise UserError(
            f"{adapter.path}: vLLM does not serve this adapter: {reason}. Merge it (`rlstep export {adapter.path} --to "
            "DIR --what merged`) and sample from DIR, or take engine: transformers."
        ) from error
