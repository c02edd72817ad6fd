"""What rlstep uses of vLLM's offline engine, by transformers: arguments by vLLM's names, and no others.

Strict where vLLM is: an unknown argument, a rank above `max_lora_rank`, a prompt that does not fit, an adapter without
`enable_lora`. As in vLLM, float32 becomes 16 bits under dtype "auto", and defaults come from the model's
generation_config.json unless `generation_config` is "vllm" or the parameters say otherwise.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.model_server import draw, ends_with_stop, stops_of

LOADED: list["LLM"] = []
GPUS = 2


@dataclass
class SamplingParams:
    seed: int | None = None
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    detokenize: bool = True
    stop: list[str] | None = None

    def __post_init__(self):
        if self.stop and not self.detokenize:
            raise ValueError(
                "stop strings are only supported when detokenize is True. Set `detokenize=True` to use stop."
            )


@dataclass
class LLM:
    model: str
    tokenizer: str
    dtype: str = "auto"
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    generation_config: str = "auto"
    seed: int = 0
    enable_lora: bool = False
    max_lora_rank: int = 16
    revision: str | None = None
    asked: list = field(default_factory=list)

    def __post_init__(self):
        if self.tensor_parallel_size > GPUS:
            raise ValueError(f"World size ({self.tensor_parallel_size}) is larger than the number of GPUs ({GPUS}).")
        dtype = torch.bfloat16 if self.dtype == "auto" else getattr(torch, self.dtype)
        self.base = AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype).eval()
        self.reader = AutoTokenizer.from_pretrained(self.tokenizer)
        LOADED.append(self)

    def generate(self, prompts, sampling_params, *, lora_request=None, use_tqdm=True):
        model = self.base
        if lora_request is not None:
            assert self.enable_lora
            base = AutoModelForCausalLM.from_pretrained(self.model, dtype=self.base.dtype)
            model = PeftModel.from_pretrained(base, lora_request.lora_path).eval()
            assert model.peft_config["default"].r <= self.max_lora_rank
        outputs = []
        for prompt, parameters in zip(prompts, sampling_params, strict=True):
            ids, body = prompt["prompt_token_ids"], vars(parameters)
            assert len(ids) + body["max_tokens"] <= self.max_model_len
            self.asked.append(parameters)
            drawn = draw(model, ids, body, self.reader)
            stopped = drawn[-1] in stops_of(model, body) or ends_with_stop(drawn, body, self.reader)
            reason = "stop" if stopped else "length"
            one = SimpleNamespace(index=0, token_ids=tuple(drawn), finish_reason=reason)
            outputs.append(SimpleNamespace(prompt_token_ids=ids, outputs=[one]))
        return outputs
