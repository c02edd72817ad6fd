"""The `sft` stage: trains the generator on the format (and the habits) of the demonstrations."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from rlstep.policy.demonstrations import check_lengths, tokenize
from rlstep.policy.end_tokens import keep_end, taught_end, write_generation_config
from rlstep.policy.model_options import PolicyModel, loading_faults
from rlstep.policy.models import load_policy_tokenizer
from rlstep.policy.prompt_files import read_prompt_format, write_prompt_format
from rlstep.policy.sft_trainer import ExactSFTTrainer
from rlstep.policy.start import policy_start
from rlstep.runtime.checkpoints import checkpoint_to_continue
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Constraint, Idle, Range, ReadBy, check, faults_of, library_faults, raise_faults
from rlstep.runtime.identity import check_checkpoint, identity_writer, run_identity
from rlstep.runtime.output_dir import check_output_dir
from rlstep.runtime.packages import check_packages
from rlstep.runtime.processes import start_processes
from rlstep.runtime.record import RunRecord
from rlstep.runtime.track_training import track_training
from rlstep.runtime.tracking import KINDS, PROJECT_HELP, UNTRACKED, TrackingOptions, check_tracking, default_project
from rlstep.runtime.trainer_settings import ASKED, LOADED, PLACED, SHARED, merged, trainer_faults
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution, read_solutions
from rlstep.verifiers.pretrained import load_config, max_positions, without_router_loss
from rlstep.verifiers.vocabulary import check_tokens, check_vocabulary


@dataclass
class SFTOptions:
    data: str = field(metadata={"help": "Solutions to imitate (JSONL)."})
    merge_base: bool = field(
        default=False,
        metadata={"help": "model_name_or_path is a LoRA adapter: merge it into its base first, and start from that."},
    )
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
            "chat_template_path": (Idle("set chat_template, a file"),),
            "truncation_mode": (ReadBy("max_length"),),
            "packing_strategy": (ReadBy("packing"),),
            **dict.fromkeys(
                (
                    "eval_strategy",
                    "eval_steps",
                    "eval_delay",
                    "eval_on_start",
                    "eval_packing",
                    "per_device_eval_batch_size",
                    "eval_accumulation_steps",
                    "eval_do_concat_batches",
                    "eval_use_gather_object",
                    "bf16_full_eval",
                    "fp16_full_eval",
                    "prediction_loss_only",
                    "batch_eval_metrics",
                    "include_for_metrics",
                    "load_best_model_at_end",
                    "metric_for_best_model",
                ),
                NO_EVALUATION,
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
    report_to: str = field(default="none", metadata={"help": "Where to log: none, wandb, trackio, tensorboard."})
    project: str = field(default_factory=default_project, metadata={"help": PROJECT_HELP})

    def __post_init__(self):
        check(self, [*library_faults(super().__post_init__), *trainer_faults(self)])


def _write_how_to_ask(model: PreTrainedModel, prompt_format: PromptFormat, folder: Path, writes: bool) -> None:
    """Writes how prompts are written, and beside an adapter where completions end."""
    if writes:
        write_prompt_format(folder, prompt_format)
        write_generation_config(model, folder)


def sft(
    options: SFTOptions,
    args: SFTArguments,
    model: PolicyModel,
    prompts: PromptOptions = BY_CHECKPOINT,
    tracking: TrackingOptions = UNTRACKED,
) -> dict:
    """Trains a causal LM (or a LoRA adapter on it, `--use_peft`) on the completions of `options.data`."""
    raise_faults([*faults_of(model, PolicyModel), *loading_faults(args.model_init_kwargs)])
    check_packages(args, model)
    check_tracking(tracking, args, KINDS)
    start = policy_start(model, options.merge_base, args.trust_remote_code)
    check_output_dir(args.output_dir, {"model_name_or_path": model.model_name_or_path, "its base": start.path})
    solutions = read_solutions(options.data)
    identity = run_identity(options, args, model, prompts)
    checkpoint = checkpoint_to_continue(args.output_dir) if options.resume else None
    check_checkpoint(checkpoint, identity)
    config = {
        name: value for part in (options, args, model, prompts, tracking) for name, value in settings(part).items()
    }
    with RunRecord("sft", config, args.output_dir, args.seed) as record:
        start_processes(args)
        tokenizer = load_policy_tokenizer(model.model_name_or_path, args.trust_remote_code)
        prompt_format = _prompt_format(prompts, tokenizer, solutions, model.model_name_or_path)
        end = taught_end(tokenizer, prompt_format, args.eos_token)
        policy_config = load_config(start.path, args.trust_remote_code)
        check_vocabulary(tokenizer, policy_config, generates=True)
        rows = tokenize(tokenizer, solutions, prompt_format, end)
        _check_tokens(options.data, solutions, rows, tokenizer, policy_config)
        start = start.prepare(model, args)
        trainer = ExactSFTTrainer(
            model=start.model(args), args=args, train_dataset=rows, processing_class=tokenizer, peft_config=start.lora
        )
        check_lengths(solutions, rows, args.max_length, max_positions(trainer.model.config))
        keep_end(trainer.accelerator.unwrap_model(trainer.model), tokenizer, end)
        write_how_to_ask = partial(_write_how_to_ask, trainer.accelerator.unwrap_model(trainer.model), prompt_format)
        trainer.checkpoint_writers += [write_how_to_ask, identity_writer(identity)]
        record.kept = trainer.can_go_on
        track_training(trainer, record, tracking, checkpoint, [options.data])
        result = trainer.train(resume_from_checkpoint=checkpoint)
        without_router_loss(trainer.model.config)
        trainer.save_model()
        tokenizer.save_pretrained(args.output_dir)
        write_how_to_ask(Path(args.output_dir), trainer.is_world_process_zero())
        start.finish(args)
        record.metrics |= {"demonstrations": len(solutions), **result.metrics}
    return record.metrics


def _check_tokens(
    path: str, solutions: list[Solution], rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> None:
    names = [f"{path}, problem '{solution.problem_id}'" for solution in solutions]
    check_tokens(rows["input_ids"], tokenizer, config, names)


def _prompt_format(
    prompts: PromptOptions, tokenizer: PreTrainedTokenizerBase, solutions: list[Solution], path: str
) -> PromptFormat:
    """How prompts will be written: as requested; where nothing is, as the model was taught before."""
    taught = read_prompt_format(path) if prompts.requested is None else None
    return prompts.for_model(tokenizer, [solution.prompt for solution in solutions], taught, path)
