"""The `sft` stage: the generator is first taught the format (and the habits) of the demonstrations."""

from dataclasses import dataclass, field

from datasets import Dataset
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from rlstep.policy.models import load_policy_tokenizer
from rlstep.runtime.checkpoints import newest_checkpoint
from rlstep.runtime.config import settings
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord
from rlstep.steps.records import Solution, read_solutions
from rlstep.verifiers.model import max_positions


@dataclass
class SFTOptions:
    data: str = field(metadata={"help": "Solutions to imitate (JSONL)."})
    resume: bool = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir, where there is one."}
    )


@dataclass
class SFTArguments(SFTConfig):
    """TRL's SFTConfig with the paper's default of one epoch; nothing is cut or reported unless it is asked for."""

    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the demonstrations."})
    # TRL's default, None, means False for rows that come as tokens.
    completion_only_loss: bool = field(default=True, metadata={"help": "No loss on the prompt's tokens."})
    max_length: int | None = field(
        default=None, metadata={"help": "Cut longer rows to so many tokens; by default none is cut."}
    )
    report_to: str = field(default="none", metadata={"help": "Where to log: none, wandb, tensorboard."})


def model_init_kwargs(model: ModelConfig, args) -> dict:
    """What TRL's trainers pass to from_pretrained, out of the model options (as TRL's own scripts do)."""
    return {
        "revision": model.model_revision,
        "trust_remote_code": args.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(args.model_init_kwargs or {}),
    }


def sft(options: SFTOptions, args: SFTArguments, model: ModelConfig) -> dict:
    """Trains a causal LM (or a LoRA adapter on it, `--use_peft`) on the completions of `options.data`."""
    if model.model_name_or_path is None:
        raise UserError("model_name_or_path is missing: a hub id or a folder with a causal LM.")
    solutions = read_solutions(options.data)
    with RunRecord("sft", settings(options) | settings(args) | settings(model), args.output_dir, args.seed) as record:
        args.model_init_kwargs = model_init_kwargs(model, args)
        tokenizer = load_policy_tokenizer(model.model_name_or_path, args.trust_remote_code)
        rows = _tokenised(tokenizer, solutions)
        trainer = SFTTrainer(
            model=model.model_name_or_path,
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=get_peft_config(model),
        )
        _check_lengths(solutions, rows, args.max_length, max_positions(trainer.model.config))
        result = trainer.train(resume_from_checkpoint=newest_checkpoint(args.output_dir) if options.resume else None)
        trainer.save_model()
        tokenizer.save_pretrained(args.output_dir)
        record.metrics |= {"demonstrations": len(solutions), **result.metrics}
    return record.metrics


def _tokenised(tokenizer, solutions: list[Solution]) -> Dataset:
    """Prompts and completions as tokens, in whole batches: TRL's own preparation does it row by row.

    The completion is tokenised apart from the prompt, as it will be when it is sampled, and ends with <eos>.
    """
    prompts = tokenizer([s.prompt for s in solutions])["input_ids"]
    completions = tokenizer([s.completion for s in solutions], add_special_tokens=False)["input_ids"]
    rows = {"input_ids": [], "completion_mask": []}
    for prompt_ids, completion_ids in zip(prompts, completions, strict=True):
        completion_ids = [*completion_ids, tokenizer.eos_token_id]
        rows["input_ids"].append(prompt_ids + completion_ids)
        rows["completion_mask"].append([0] * len(prompt_ids) + [1] * len(completion_ids))
    return Dataset.from_dict(rows)


def _check_lengths(solutions: list[Solution], rows: Dataset, cut: int | None, limit: int | None) -> None:
    """Refuses demonstrations that the model cannot read whole, where they are not to be cut."""
    for solution, ids in zip(solutions, rows["input_ids"], strict=True):
        tokens = min(len(ids), cut or len(ids))
        if limit is not None and tokens > limit:
            raise UserError(
                f"the demonstration of '{solution.problem_id}' has {tokens} tokens, more than the model's {limit}"
                " positions. Drop it, set max_length to cut it, or take a model with a longer context."
            )
