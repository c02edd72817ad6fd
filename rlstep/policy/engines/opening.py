"""Opening the engine that the options name: first what can be refused without weights, then the weights."""

from collections.abc import Sequence

from rlstep.policy.end_tokens import stop_tokens_of
from rlstep.policy.engines.base import Engine, Prompting, Sampling
from rlstep.policy.engines.options import EngineOptions
from rlstep.policy.engines.server_engine import ServerEngine
from rlstep.policy.engines.transformers_engine import TransformersEngine
from rlstep.policy.models import (
    device,
    load_generation_config,
    load_policy,
    load_policy_config,
    load_policy_tokenizer,
    long_prompts,
    prompt_lengths,
)
from rlstep.policy.prompt_files import read_prompt_format
from rlstep.runtime.model_server import ModelServer
from rlstep.steps.prompt_options import PromptOptions
from rlstep.steps.records import Problem
from rlstep.verifiers.adapters import find_adapter
from rlstep.verifiers.merging import refuse_verifier
from rlstep.verifiers.pretrained import max_positions
from rlstep.verifiers.vocabulary import check_vocabulary


class EngineOpening:
    """An engine for certain problems, before and after its weights are loaded.

    Args:
        options: which engine, and its settings.
        path: folder or hub id of the policy; for a server, of its tokenizer, prompt format and end tokens.
        sampling: how completions are drawn.
        problems: all that will be sampled.
        prompts: how they are to be written.
        dtype: the weights' type; auto: that of the checkpoint. A server has loaded them already.
        trust_remote_code: run model code from the hub.

    Attributes:
        lengths: tokens of each problem's prompt, by its id.
        limit: tokens of a prompt and a completion together; None without a limit.
        whose: that limit is, in words.
        long: the ids of the problems that leave too little room for a completion.

    Raises:
        UserError: there is no policy, but perhaps a verifier; or there is no such server.
    """

    def __init__(
        self,
        options: EngineOptions,
        path: str,
        sampling: Sampling,
        problems: Sequence[Problem],
        prompts: PromptOptions,
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ):
        self.options, self.path, self.sampling, self.dtype = options, path, sampling, dtype
        self.trust_remote_code = trust_remote_code
        refuse_verifier(path, trust_remote_code)
        self.tokenizer = load_policy_tokenizer(path, trust_remote_code)
        self.config = load_policy_config(path, trust_remote_code)
        check_vocabulary(self.tokenizer, self.config, generates=True)
        texts = [problem.prompt for problem in problems]
        self.prompt_format = prompts.for_model(self.tokenizer, texts, read_prompt_format(path), path)
        self.lengths = prompt_lengths(problems, self.tokenizer, self.prompt_format, self.config)
        self.limit, self.whose = max_positions(self.config), "the model's"
        self.server = None
        if options.engine == "server":
            name = options.served_model or path
            timing = options.request_timeout, options.retry_for, options.concurrency
            self.server = ModelServer(options.url, name, *timing)
            if self.server.max_length is not None:
                self.limit = self.server.max_length
                self.whose = f"the served model's (max_model_len of {self.server.url})"
        self.long = long_prompts(self.lengths, sampling.max_new_tokens, self.limit)

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens that end a completion."""
        return tuple(stop_tokens_of(load_generation_config(self.path, self.config), self.tokenizer))

    def open(self) -> Engine:
        """Loads what is left to load; the engine samples the problems that are not too long.

        Raises:
            UserError: the engine cannot be opened.
        """
        path, trust = self.path, self.trust_remote_code
        if self.options.engine == "transformers":
            model = load_policy(path, self.dtype, trust).to(device()).eval()
            return TransformersEngine(model, self.tokenizer, self.prompt_format, self.sampling)
        prompting = Prompting(self.tokenizer, self.prompt_format, self.stops)
        if self.server is not None:
            return ServerEngine(self.server, prompting, self.sampling, as_text=self.options.prompts_as == "text")
        # TRL's checks of adapters come with it, which take a second to import.
        from rlstep.policy.engines.vllm_engine import VLLMEngine

        long = set(self.long)
        longest = max((length for name, length in self.lengths.items() if name not in long), default=0)
        return VLLMEngine(
            path, find_adapter(path), self.config, prompting, self.sampling, self.options,
            longest + self.sampling.max_new_tokens, self.dtype, trust,
        )  # fmt: skip
