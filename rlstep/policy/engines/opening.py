"""Opens the engine that the options name, after all that can be refused without loading weights has been."""

from collections.abc import Sequence

from rlstep.policy.end_tokens import stop_tokens_of
from rlstep.policy.engines.base import Engine, Prompting, Sampling
from rlstep.policy.engines.options import EngineOptions
from rlstep.policy.engines.server_engine import ServerEngine
from rlstep.policy.engines.transformers_engine import TransformersEngine
from rlstep.policy.models import (
    check_prompt_lengths,
    device,
    load_generation_config,
    load_policy,
    load_policy_config,
    load_policy_tokenizer,
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


def open_engine(
    options: EngineOptions,
    path: str,
    sampling: Sampling,
    problems: Sequence[Problem],
    prompts: PromptOptions,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> Engine:
    """An engine that samples solutions of these problems.

    Args:
        options: which one, and its settings.
        path: folder or hub id of the policy; for a server, of its tokenizer, prompt format and end tokens.
        sampling: how completions are drawn.
        problems: all that will be sampled.
        prompts: how they are to be written.
        dtype: the weights' type; auto: that of the checkpoint. A server has loaded them already.
        trust_remote_code: run model code from the hub.

    Raises:
        UserError: there is no policy, the engine cannot be opened, or a prompt leaves too little room.
    """
    tokenizer = load_policy_tokenizer(path, trust_remote_code)
    config = load_policy_config(path, trust_remote_code)
    check_vocabulary(tokenizer, config, generates=True)
    written = prompts.for_model(tokenizer, [p.prompt for p in problems], read_prompt_format(path), path)
    lengths = prompt_lengths(problems, tokenizer, written, config)
    limit, whose = max_positions(config), "the model's"
    if options.engine == "server":
        name = options.served_model or path
        server = ModelServer(options.url, name, options.request_timeout, options.retry_for, options.concurrency)
        if server.max_length is not None:
            limit, whose = server.max_length, f"the served model's (max_model_len of {server.url})"
    check_prompt_lengths(lengths, sampling.max_new_tokens, limit, whose)
    if options.engine == "transformers":
        model = load_policy(path, dtype, trust_remote_code).to(device()).eval()
        return TransformersEngine(model, tokenizer, written, sampling)
    refuse_verifier(path, trust_remote_code)
    prompting = Prompting(tokenizer, written, tuple(stop_tokens_of(load_generation_config(path, config), tokenizer)))
    if options.engine == "server":
        return ServerEngine(server, prompting, sampling, as_text=options.prompts_as == "text")
    # TRL's checks of adapters come with it, which take a second to import.
    from rlstep.policy.engines.vllm_engine import VLLMEngine

    longest = max(lengths.values()) + sampling.max_new_tokens
    adapter = find_adapter(path)
    return VLLMEngine(path, adapter, config, prompting, sampling, options, longest, dtype, trust_remote_code)
