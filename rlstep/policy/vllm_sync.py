"""vLLM as TRL's trainer uses it, and what rlstep needs beyond that.

Three things: a critic is part of the policy and no business of vLLM's; rollouts from step starts differ in number from
rank to rank; and a server may be sent the adapter alone (`vllm_adapter.py`). Each is an override of one method of
TRL's `VLLMGeneration`; `tests/policy/test_trl_seam.py` holds the private names that are used here.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from torch import Tensor
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.value_function import ValueFunction

# In output_dir. What begins with an underscore is not uploaded to the hub.
ADAPTER_FOLDER = "_vllm_adapter"
# What of a sampling request VLLMGeneration and its client call by the same name.
_SAMPLING = (
    "repetition_penalty", "temperature", "top_p", "top_k", "logprobs", "structured_outputs_regex", "generation_kwargs",
)  # fmt: skip
# Requests of one rank that a server works on at the same time: as many as TRL's own client sends.
_CONCURRENT = 64


class PolicyGeneration(VLLMGeneration):
    """TRL's vLLM backend for a policy that may hold a critic.

    Args:
        *args, **kwargs: VLLMGeneration's.
        adapter_folder: where the policy's adapter is written for the server to read; None sends merged weights.
    """

    def __init__(self, *args, adapter_folder: Path | None = None, **kwargs):
        self.adapter_folder, self.each_rank_asks = adapter_folder, False
        super().__init__(*args, **kwargs)

    def _init_vllm(self):
        if self.adapter_folder is None:
            super()._init_vllm()
        # TRL gives a client to the first rank alone, and opens a channel for weights with it.
        if self.mode == "server" and not hasattr(self, "vllm_client"):
            url = self.server_base_url or f"http://{self.server_host}:{self.server_port}"
            self.vllm_client = VLLMClient(base_url=url, connection_timeout=self.server_timeout)
        if self.adapter_folder is not None:
            # Imported here, as TRL calls its asynchronous trainer experimental.
            from rlstep.policy.vllm_adapter import ServedAdapter

            self.adapter = ServedAdapter(self.model, self.accelerator, self.vllm_client, self.adapter_folder)

    def _iter_named_params(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in super()._iter_named_params():
            yield from ValueFunction.without_critic({name: tensor}).items()

    def sync_weights(self):
        if self.adapter_folder is None:
            super().sync_weights()
        else:
            with self._dist.gather_params(self.adapter.parameters()):
                self.adapter.write()
            self.vllm_client.model = self.adapter.serve()
        if self.mode == "server":
            # A rank that asks by itself must not do so before the first one has sent everything.
            self.accelerator.wait_for_everyone()

    @contextmanager
    def rollouts(self, new_tokens: int) -> Iterator[None]:
        """Completions have `new_tokens` at most for a while, and each rank asks a server for its own.

        The ranks may then ask for different numbers of completions, which TRL's one request for all of them does not
        allow.
        """
        before = self.max_completion_length
        self.max_completion_length, self.each_rank_asks = new_tokens, self.mode == "server"
        try:
            yield
        finally:
            self.max_completion_length, self.each_rank_asks = before, False

    def generate(self, prompts, images, num_generations, profiler=None):
        if not self.each_rank_asks:
            return super().generate(prompts, images, num_generations, profiler)
        with profiler or nullcontext():
            completions, logprobs, tokens = self._ask(prompts[::num_generations], num_generations)
        return prompts, completions, logprobs, tokens

    def _ask(self, prefixes: list[list[int]], n: int) -> tuple[list, list, list]:
        """n continuations of each prefix, one after the other: token ids, log-probabilities, and what those belong to.

        In one request, where the server's context has room for all new tokens after every prefix. A request has one
        limit, and vLLM refuses one that does not fit: prefixes with less room are asked for at the same time, but with
        limits of their own.
        """
        context = self.vllm_client.get_server_info()["model_config"]["max_model_len"]
        by_limit: dict[int, list[int]] = {}
        for index, ids in enumerate(prefixes):
            by_limit.setdefault(min(self.max_completion_length, context - len(ids)), []).append(index)
        options = {name: getattr(self, name) for name in _SAMPLING} | {"n": n, "min_p": self.min_p or 0.0}

        def ask(limit: int) -> dict[str, list]:
            same_limit = [prefixes[index] for index in by_limit[limit]]
            return self.vllm_client.generate(prompts=same_limit, max_tokens=limit, **options)

        with ThreadPoolExecutor(_CONCURRENT) as threads:
            answers = list(threads.map(ask, by_limit))
        parts = []
        for name in ("completion_ids", "logprobs", "logprob_token_ids"):
            rows: list[list] = [[] for _ in prefixes]
            for indices, answer in zip(by_limit.values(), answers, strict=True):
                for place, index in enumerate(indices):
                    rows[index] = answer[name][place * n : (place + 1) * n]
            parts.append([row for of_one in rows for row in of_one])
        return tuple(parts)


class PolicyOnVLLM:
    """A mixin for a subclass of TRL's GRPOTrainer, which comes before it: its vLLM backend is a `PolicyGeneration`.

    TRL's trainer makes its backend itself, by a name in its module. While it is being built, the name is ours.

    Args:
        args: the trainer's settings.
        **kwargs: GRPOTrainer's others.
    """

    def __init__(self, *, args: StepPPOConfig, **kwargs):
        before = grpo_trainer.VLLMGeneration
        folder = Path(args.output_dir).absolute() / ADAPTER_FOLDER if args.vllm_sync == "adapter" else None
        grpo_trainer.VLLMGeneration = partial(PolicyGeneration, adapter_folder=folder)
        try:
            super().__init__(args=args, **kwargs)
        finally:
            grpo_trainer.VLLMGeneration = before
