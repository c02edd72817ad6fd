"""The `sft` stage: trains the generator on the format (and the habits) of the demonstrations."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from trl import SFTConfig, SFTTrainer, get_peft_config

from rlstep.policy.config import PolicyModel
from rlstep.policy.demonstrations import check_lengths, tokenize
from rlstep.policy.models import load_policy_tokenizer, model_init_kwargs
from rlstep.runtime.checkpoints import newest_checkpoint
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Constraint, Idle, Range, ReadBy, check, faults_of, library_faults, raise_faults
from rlstep.runtime.errors import UserError
from rlstep.runtime.identity import KeepIdentity, check_checkpoint, run_identity
from rlstep.runtime.record import RunRecord
from rlstep.runtime.trainer_settings import ASKED, LOADED, PLACED, SHARED, merged
from rlstep.steps.records import read_solutions
from rlstep.verifiers.pretrained import max_positions


@dataclass
class SFTOptions:
    data: str = field(metadata={"help": "Solutions to imitate (JSONL)."})
    resume: Annotated[bool, ASKED] = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir, if there is one."}
    )


TOKENIZED = (Idle("the demonstrations reach TRL as tokens"),)
NO_EVALUATION = (Idle("demonstrations are trained on, and nothing is evaluated"),)


@dataclass
class SFTArguments(SFTConfig):
    """TRL's SFTConfig with the paper's default of one epoch; nothing is truncated or reported unless requested.

    Raises:
        UserError: settings out of range or without effect, including what TRL itself rejects.
    """

    inherited: ClassVar[dict[str, tuple[Constraint, ...]]] = merged(
        SHARED,
        {
            **dict.fromkeys(("dataset_text_field", "assistant_only_loss"), TOKENIZED),
            "eos_token": (Idle("the demonstrations end with the tokenizer's own token"),),
            "truncation_mode": (ReadBy("max_length"),),
            "packing_strategy": (ReadBy("packing"),),
            **dict.fromkeys(
                ("eval_strategy", "eval_on_start", "eval_packing", "load_best_model_at_end"), NO_EVALUATION
            ),
            "resume_from_checkpoint": (Idle("set resume"),),
            "dataset_num_proc": (LOADED,),
            "activation_offloading": (PLACED,),
        },
    )

    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the demonstrations."})
    # TRL's default, None, means False for rows that come as tokens.
    completion_only_loss: bool = field(default=True, metadata={"help": "No loss on the prompt's tokens."})
    max_length: Annotated[int | None, Range(at_least=1)] = field(
        default=None, metadata={"help": "Truncate longer rows to this many tokens; by default none is truncated."}
    )
    report_to: str = field(default="none", metadata={"help": "Where to log: none, wandb, tensorboard."})

    def __post_init__(self):
        check(self, library_faults(super().__post_init__))


def sft(options: SFTOptions, args: SFTArguments, model: PolicyModel) -> dict:
    """Trains a causal LM (or a LoRA adapter on it, `--use_peft`) on the completions of `options.data`."""
    raise_faults(faults_of(model, PolicyModel))
    if model.model_name_or_path is None:
        raise UserError("model_name_or_path is missing: a hub id or a folder with a causal LM.")
    solutions = read_solutions(options.data)
    identity = run_identity(options, args, model)
    start = newest_checkpoint(args.output_dir) if options.resume else None
    check_checkpoint(start, identity)
    with RunRecord("sft", settings(options) | settings(args) | settings(model), args.output_dir, args.seed) as record:
        args.model_init_kwargs = model_init_kwargs(model, args)
        tokenizer = load_policy_tokenizer(model.model_name_or_path, args.trust_remote_code)
        rows = tokenize(tokenizer, solutions)
        trainer = SFTTrainer(
            model=model.model_name_or_path,
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=get_peft_config(model),
        )
        check_lengths(solutions, rows, args.max_length, max_positions(trainer.model.config))
        trainer.add_callback(KeepIdentity(identity))
        result = trainer.train(resume_from_checkpoint=start)
        trainer.save_model()
        tokenizer.save_pretrained(args.output_dir)
        record.metrics |= {"demonstrations": len(solutions), **result.metrics}
    return record.metrics
