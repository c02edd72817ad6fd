"""Which engine samples, and the settings of each."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlstep.runtime.addresses import checked_address
from rlstep.runtime.constraints import MayChange, Range, ReadBy
from rlstep.runtime.errors import UserError
from rlstep.runtime.json_client import API_KEY_VARIABLE

ON_SERVER, OFFLINE = ReadBy("engine", "server"), ReadBy("engine", "vllm")
SAME_ROWS = MayChange("the same is asked for, each solution with its own seed")


@dataclass(kw_only=True)
class EngineOptions:
    """What samples (`rlstep.policy.engines`)."""

    engine: Literal["transformers", "vllm", "server"] = field(
        default="transformers",
        metadata={
            "help": "What samples: transformers or vllm, in this process; or a server by its URL that speaks OpenAI's "
            "protocol, such as `vllm serve`."
        },
    )
    url: Annotated[str | None, ON_SERVER, SAME_ROWS] = field(
        default=None,
        metadata={"help": f"server: its address, http://HOST:PORT; {API_KEY_VARIABLE} in the environment is its key."},
    )
    served_model: Annotated[str | None, ON_SERVER] = field(
        default=None,
        metadata={
            "help": "server: what it calls the model, or the adapter; `model` by default, which is needed all the same "
            "for its tokenizer, its prompt format and its end tokens."
        },
    )
    prompts_as: Annotated[Literal["tokens", "text"], ON_SERVER] = field(
        default="tokens",
        metadata={
            "help": "server: what it is sent and asked for. tokens: the same as by transformers, which vLLM takes; "
            "text: for servers that take nothing else, which add special tokens and stop by rules of their own."
        },
    )
    concurrency: Annotated[int, Range(at_least=1), ON_SERVER, SAME_ROWS] = field(
        default=64, metadata={"help": "server: requests at a time, one for each solution."}
    )
    request_timeout: Annotated[float, Range(above=0), ON_SERVER, SAME_ROWS] = field(
        default=600.0, metadata={"help": "server: seconds to wait for one solution."}
    )
    retry_for: Annotated[float, Range(at_least=0), ON_SERVER, SAME_ROWS] = field(
        default=300.0,
        metadata={
            "help": "server: seconds in which a request is sent again while the server is down or overloaded; 0 is not "
            "at all."
        },
    )
    tensor_parallel_size: Annotated[int, Range(at_least=1), OFFLINE] = field(
        default=1, metadata={"help": "vllm: GPUs that share the weights."}
    )
    gpu_memory_utilization: Annotated[float, Range(above=0, at_most=1), OFFLINE, SAME_ROWS] = field(
        default=0.9, metadata={"help": "vllm: share of each GPU that it may fill with weights and KV cache."}
    )

    def engine_faults(self, top_k: int) -> Iterator[str]:
        """What is wrong with the settings together.

        Args:
            top_k: of the sampling.
        """
        if self.engine == "vllm" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            yield (
                "engine is 'vllm', which starts processes of its own: start one process, with tensor_parallel_size for "
                "several GPUs, or one `vllm serve` for all processes, with engine: server"
            )
        if self.engine != "server":
            return
        if self.url is None:
            yield "engine is 'server', so url must be set: http://HOST:PORT"
        else:
            try:
                checked_address(self.url, "server")
            except UserError as error:
                yield f"url: {error}"
        if self.prompts_as == "text" and top_k:
            yield f"top_k is {top_k}, which OpenAI's protocol lacks; leave it at 0, or set prompts_as: tokens"
