"""The `sft` stage: the generator is first taught the format (and the habits) of the demonstrations."""

from dataclasses import dataclass, field

from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from rlstep.policy.demonstrations import check_lengths, tokenize
from rlstep.policy.models import load_tokenizer, max_positions, model_init_kwargs
from rlstep.runtime.checkpoints import newest_checkpoint
from rlstep.runtime.config import settings
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord
from rlstep.steps.records import read_solutions


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


def sft(options: SFTOptions, args: SFTArguments, model: ModelConfig) -> dict:
    """Trains a causal LM (or a LoRA adapter on it, `--use_peft`) on the completions of `options.data`."""
    if model.model_name_or_path is None:
        raise UserError("model_name_or_path is missing: a hub id or a folder with a causal LM.")
    solutions = read_solutions(options.data)
    with RunRecord("sft", settings(options) | settings(args) | settings(model), args.output_dir, args.seed) as record:
        args.model_init_kwargs = model_init_kwargs(model, args)
        tokenizer = load_tokenizer(model.model_name_or_path, args.trust_remote_code)
        rows = tokenize(tokenizer, solutions)
        trainer = SFTTrainer(
            model=model.model_name_or_path,
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=get_peft_config(model),
        )
        check_lengths(solutions, rows, args.max_length, max_positions(trainer.model))
        result = trainer.train(resume_from_checkpoint=newest_checkpoint(args.output_dir) if options.resume else None)
        trainer.save_model()
        tokenizer.save_pretrained(args.output_dir)
        record.metrics |= {"demonstrations": len(solutions), **result.metrics}
    return record.metrics
