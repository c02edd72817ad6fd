"""A verifier's training run: from labelled solutions to a checkpoint and its record."""

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.runtime.checkpoints import checkpoint_to_continue
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import raise_faults
from rlstep.runtime.identity import check_checkpoint, identity_writer, run_identity
from rlstep.runtime.output_dir import check_output_dir
from rlstep.runtime.packages import check_packages
from rlstep.runtime.processes import start_processes
from rlstep.runtime.record import RunRecord
from rlstep.runtime.track_training import track_training
from rlstep.runtime.tracking import KINDS, TrackingOptions, check_tracking
from rlstep.runtime.trainer_settings import evaluation_faults
from rlstep.steps.boundaries import Boundary, Rule
from rlstep.steps.prompt_options import PromptOptions
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution, read_solutions
from rlstep.verifiers.adapters import find_adapter, load_adapter, save_adapter
from rlstep.verifiers.attention import choose_attention
from rlstep.verifiers.lora_targets import no_sharding
from rlstep.verifiers.pretrained import load_config, load_tokenizer
from rlstep.verifiers.spec import IMPLICIT, VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.lora import VerifierStart, describe_checkpoint, verifier_start
from rlstep.verifiers.training.options import VerifierConfig
from rlstep.verifiers.training.trainer import VerifierTrainer
from rlstep.verifiers.vocabulary import check_texts, check_vocabulary

logger = logging.getLogger(__name__)

# How many rows' steps are compared with the boundary's.
COMPARED_ROWS = 1000
# Weights of a whole model or an adapter, by the names that transformers and PEFT give their files.
WEIGHTS = re.compile(r"adapter_config\.json|(adapter_)?model.*\.safetensors(\.index\.json)?")

# Settings of the Trainer that are read where there is something to evaluate on.
HOW_EVALUATED = (
    "per_device_eval_batch_size", "eval_accumulation_steps", "eval_use_gather_object", "bf16_full_eval",
    "fp16_full_eval",
)  # fmt: skip

# Where an adapter is kept until it is merged into a base that was sharded.
UNMERGED = "unmerged"


def train_verifier(
    trainer_class: type[VerifierTrainer],
    config: VerifierConfig,
    args: VerifierArguments,
    spec_of: Callable[..., VerifierSpec],
    need: Sequence[str],
    prompts: PromptOptions,
    taught_of: Callable[[str], PromptFormat | None],
    tracking: TrackingOptions,
    callbacks: Sequence[Callable[[VerifierTrainer], TrainerCallback]] = (),
    **options,
) -> dict:
    """Trains a verifier and leaves it in `args.output_dir`: a plain checkpoint, or an adapter.

    Args:
        trainer_class: what is trained.
        config: the generator, the data and the adapter.
        args: the Trainer's arguments.
        spec_of: from the tokenizer to what the outputs will mean.
        need: what every solution must have, for example steps and labels.
        prompts: how prompts are to be written; by default as they were for the policy that sampled the solutions.
        taught_of: from the generator's path to how it was taught that they are written, for solutions that do not say.
        tracking: what trackers show of the run, if it is reported to any.
        callbacks: each makes one, for the trainer.
        **options: passed to the trainer.

    Returns:
        The run's metrics.

    Raises:
        UserError: the data, the generator or the settings cannot be used.
    """
    start, checkpoint, identity = _checked(trainer_class, config, args, prompts, tracking)
    train, evaluation = _read(config, need)
    chosen = settings(config) | settings(args) | settings(prompts) | settings(tracking)
    with RunRecord(trainer_class.kind, chosen, args.output_dir, args.seed) as record:
        start_processes(args)
        set_seed(args.seed)
        tokenizer = load_tokenizer(config.model_name_or_path, config.trust_remote_code)
        check_vocabulary(tokenizer, start.described)
        prompt_format = prompts.for_rows(tokenizer, train, taught_of(config.model_name_or_path))
        spec = replace(spec_of(tokenizer), prompts=prompt_format)
        for path, solutions in ((config.data, train), (config.eval_data, evaluation or [])):
            _check_tokens(path, solutions, spec.prompts, tokenizer, start.described)
        model = start.prepare(config, args).model(spec, config, args)
        choose_attention(model, config.attn_implementation, args)
        trainer = trainer_class(model, args, train, evaluation, tokenizer, spec, **options)
        for make_callback in callbacks:
            trainer.add_callback(make_callback(trainer))
        describes = [] if config.merge_adapter else [partial(describe_checkpoint, trainer.model)]
        trainer.checkpoint_writers += [*describes, identity_writer(identity)]
        record.metrics |= trainer.train_counts | {"packing": trainer.packing}
        record.kept = trainer.can_go_on
        track_training(trainer, record, tracking, checkpoint, [config.data, config.eval_data])
        record.metrics |= trainer.train(resume_from_checkpoint=checkpoint).metrics
        if evaluation:
            record.metrics |= {f"eval_{name}": count for name, count in trainer.eval_counts.items()}
            record.metrics |= trainer.evaluate()
        _save(trainer, config)
        start.finish(config, args)
    return record.metrics


def _checked(
    trainer_class: type[VerifierTrainer],
    config: VerifierConfig,
    args: VerifierArguments,
    prompts: PromptOptions,
    tracking: TrackingOptions,
) -> tuple[VerifierStart, str | None, dict[str, Any]]:
    """What training starts from, the checkpoint that it goes on from, and the run's identity, before data are read."""
    check_packages(config, args)
    check_tracking(tracking, args, KINDS)
    raise_faults(evaluation_faults(args, "eval_data", config.eval_data is not None, True, HOW_EVALUATED))
    start = verifier_start(config, trainer_class.kind == IMPLICIT, args.output_dir)
    adapter = find_adapter(config.model_name_or_path)
    read = {"model_name_or_path": config.model_name_or_path, "its base": adapter and adapter.base}
    check_output_dir(args.output_dir, read)
    identity = run_identity(config, args, prompts)
    checkpoint = checkpoint_to_continue(args.output_dir) if config.resume else args.resume_from_checkpoint
    check_checkpoint(checkpoint, identity)
    return start, checkpoint, identity


def _read(config: VerifierConfig, need: Sequence[str]) -> tuple[list[Solution], list[Solution] | None]:
    """The solutions to train on, and those to evaluate on, if there are any."""
    train = read_solutions(config.data, need=need)
    evaluation = read_solutions(config.eval_data, need=need) if config.eval_data else None
    if "steps" in need:
        _warn_of_other_steps(config.data, train[:COMPARED_ROWS], config.steps)
    return train, evaluation


def _check_tokens(
    path: str,
    solutions: Sequence[Solution],
    prompt_format: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
) -> None:
    """Refuses solutions with tokens that the model has no embedding for, before its weights are loaded."""
    texts = (prompt_format.render(tokenizer, solution.prompt) + solution.completion for solution in solutions)
    names = [f"{path}, problem '{solution.problem_id}', sample {solution.sample}" for solution in solutions]
    check_texts(texts, tokenizer, config, names)


def _warn_of_other_steps(path: str, solutions: Sequence[Solution], boundary: Boundary) -> None:
    """Says in one line if most solutions were cut into other steps than those that the verifier will be asked at."""

    def share(rule: Boundary) -> float:
        same = [rule.split(solution.completion) == [tuple(step) for step in solution.steps] for solution in solutions]
        return sum(same) / max(len(same), 1)

    if not solutions or share(boundary) >= 0.5:
        return
    fitting = [rule for rule in get_args(Rule) if rule != "tag" and share(Boundary(rule)) >= 0.5]
    logger.warning(
        "%s: most solutions have other steps than boundary %s gives, by which the verifier will cut text that comes "
        "without steps, as in ppo; %s",
        path,
        boundary,
        f"set boundary: {fitting[0]}, which gives theirs" if fitting else "no other boundary gives theirs",
    )


def _save(trainer: VerifierTrainer, config: VerifierConfig) -> None:
    folder = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        # An earlier run's adapter beside this one's whole model, or the other way round, would be out of date.
        for file in folder.iterdir():
            if WEIGHTS.fullmatch(file.name):
                file.unlink()
    if not config.use_peft:
        trainer.save_model()
        return
    model, tokenizer = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
    writes, sharded = trainer.is_world_process_zero(), is_deepspeed_zero3_enabled()
    if not config.merge_adapter:
        save_adapter(model, tokenizer, folder, writes)
        return
    if sharded:
        save_adapter(model, tokenizer, folder / UNMERGED, writes)
    if writes:
        # No rank has all weights of a base that is sharded: the first reads it again.
        merged = _load_adapter(folder / UNMERGED, trainer.spec, config) if sharded else model
        merged = merged.merge_and_unload().to(getattr(torch, config.dtype))
        merged.config.rlstep_verifier.pop("base_weights", None)
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.rmtree(folder / UNMERGED, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _load_adapter(folder: Path, spec: VerifierSpec, config: VerifierConfig) -> PeftModel:
    """A verifier's adapter on its base, whole in this process."""
    options = (spec.head, config.dtype, config.trust_remote_code)
    with no_sharding():
        return load_adapter(find_adapter(str(folder)), load_config(str(folder)), *options)
