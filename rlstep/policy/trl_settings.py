"""What of TRL's own settings does not go together, which TRL would say after minutes of loading, or never."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from transformers import GenerationConfig
from trl import GRPOConfig

from rlstep.policy.inherited import CLIPPED_LOSSES
from rlstep.runtime.constraints import library_faults

# Of a generation's settings those that rlstep has by a name of its own: beside them, a completion would be sampled
# otherwise than its log-probabilities are computed, or have another length than memory and rewards count on.
OWN_NAMES = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "cache_implementation")},
    **dict.fromkeys(("max_new_tokens", "max_length", "max_tokens"), "max_completion_length"),
    **dict.fromkeys(("num_return_sequences", "n"), "num_generations"),
}
# What the trainer relies on: the samples' number and form, and where they end.
RELIED_ON = (
    "do_sample", "num_beams", "pad_token_id", "bos_token_id", "eos_token_id", "disable_compile", "logprobs",
    "return_dict_in_generate",
)  # fmt: skip
# What an evaluation measures, as it is logged without "eval_"; the rest of the log is of training.
EVALUATED = (
    "accuracy", "clean_accuracy", "reward", "reward_std", "frac_reward_zero_std", "reward/*", "rewards/*", "prm/*",
    "group/*", "steps/*", "completions/*", "num_tokens", "runtime",
)  # fmt: skip
MAPPINGS = ("generation_kwargs", "model_init_kwargs", "transformers_continuous_batching_config", "lr_scheduler_kwargs")


def trl_faults(args: GRPOConfig) -> Iterator[str]:
    """The faults of a configuration, each by the setting that is to be changed.

    Args:
        args: initialised, though TRL may have refused it.
    """
    unreadable = [name for name in MAPPINGS if not isinstance(getattr(args, name), (dict, type(None)))]
    yield from (f"{name} is {getattr(args, name)!r}; give a mapping" for name in unreadable)
    if "generation_kwargs" not in unreadable:
        yield from _generation_faults(args)
    yield from _sampling_faults(args)
    yield from _loss_faults(args)
    best = (args.metric_for_best_model or "accuracy").removeprefix("eval_")
    if best != "loss" and not any(fnmatchcase(best, pattern) for pattern in EVALUATED):
        yield f"metric_for_best_model is '{best}', which no evaluation measures; it has {', '.join(EVALUATED)}"
    batching = args.accelerator_config
    for name in ("dispatch_batches", "split_batches"):
        if getattr(batching, name, None):
            yield f"accelerator_config has {name}, and every process takes whole problems for itself; leave it out"
    if args.log_unique_prompts and not {"wandb", "trackio"} & set(args.report_to or ()):
        yield "log_unique_prompts is for the tables of wandb and trackio, which report_to does not name; leave it out"


def _generation_faults(args: GRPOConfig) -> Iterator[str]:
    """What `generation_kwargs` must not have, and what transformers would not generate with."""
    given = args.generation_kwargs or {}
    for name in given:
        if name in OWN_NAMES:
            yield f"generation_kwargs has {name}, which would override {OWN_NAMES[name]}; set that instead"
        elif name in RELIED_ON:
            yield f"generation_kwargs has {name}, which the trainer sets itself; leave it out"
        elif not args.use_vllm and not hasattr(GenerationConfig(), name):
            yield f"generation_kwargs has {name}, which transformers does not know; correct it, or leave it out"
    if not args.use_vllm and not given.keys() & {*OWN_NAMES, *RELIED_ON}:
        settings = {"do_sample": True, "cache_implementation": args.cache_implementation, **given}
        yield from library_faults(lambda: GenerationConfig(**settings))


def _sampling_faults(args: GRPOConfig) -> Iterator[str]:
    if args.max_completion_length is None:
        yield "max_completion_length is null; give the most tokens of a completion"
    if isinstance(args.pad_to_multiple_of, int) and args.pad_to_multiple_of < 1:
        yield f"pad_to_multiple_of is {args.pad_to_multiple_of}; it must be at least 1, auto or null"
    if args.use_transformers_continuous_batching:
        if args.use_vllm:
            yield "use_vllm and use_transformers_continuous_batching both say what samples; leave one of them out"
        if args.bf16 or args.fp16:
            yield (
                "use_transformers_continuous_batching turns the policy's own weights to half precision under bf16 or "
                "fp16, and they would be trained so; set bf16: false"
            )


def _loss_faults(args: GRPOConfig) -> Iterator[str]:
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    if args.delta is not None and args.loss_type in CLIPPED_LOSSES and args.delta <= 1 + high:
        yield (
            f"delta is {args.delta}, within the clip at {1 + high:g}; it bounds the ratios that the clip lets through, "
            "so it must be above that"
        )
    if args.use_adaptive_entropy and args.entropy_coef_min > args.entropy_coef_max:
        yield f"entropy_coef_min {args.entropy_coef_min} is above entropy_coef_max {args.entropy_coef_max}"
