"""The stages `prm` and `orm`: from labelled solutions to a verifier's checkpoint."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, TrainerCallback, set_seed

from rlstep.runtime.checkpoints import newest_checkpoint
from rlstep.runtime.config import settings
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord
from rlstep.steps.boundaries import Boundary
from rlstep.steps.labels import LabelPolicy
from rlstep.steps.records import read_solutions
from rlstep.verifiers import adapters as adapter_files
from rlstep.verifiers.pretrained import (
    CLASS_HEADS,
    VerifierSpec,
    head_of,
    label_token_ids,
    load_tokenizer,
    new_verifier,
)
from rlstep.verifiers.scoring.implicit import ImplicitSpec
from rlstep.verifiers.training.implicit_trainer import ImplicitTrainer
from rlstep.verifiers.training.trainer import ORMTrainer, PRMTrainer, VerifierArguments, VerifierTrainer, start_devices

DEFAULT_LABEL_TOKENS = ["-", "+", "0"]


@dataclass
class VerifierConfig:
    model_name_or_path: str = field(metadata={"help": "Folder or hub id of the generator to start from."})
    data: str = field(metadata={"help": "Labelled solutions to train on (JSONL, Parquet or a folder of them)."})
    eval_data: str | None = field(default=None, metadata={"help": "Labelled solutions to evaluate on."})
    resume: bool = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir, where there is one."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "The weights' type; float32 suits training, also under --bf16 autocast."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})
    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter (and a new head whole)."})
    merge_adapter: bool = field(
        default=True,
        metadata={
            "help": "use_peft: merge the adapter into a plain checkpoint. false: save adapter and head alone, which "
            "need their base where it was; PPO from the same base then holds it once."
        },
    )
    lora_r: int | None = field(default=None, metadata={"help": "use_peft: LoRA rank; 16 by default."})
    lora_alpha: int | None = field(default=None, metadata={"help": "use_peft: LoRA alpha; 32 by default."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "use_peft: modules that get an adapter; all linear layers of the backbone by default."},
    )

    boundary: Literal["line", "blank_line", "tag", "heading", "sentence"] = field(
        default="line", metadata={"help": "What a step is; kept in the checkpoint for text that comes without spans."}
    )
    boundary_tag: str | None = field(default=None, metadata={"help": "boundary tag: the tag that ends a step."})

    def __post_init__(self):
        self.steps = Boundary(self.boundary, self.boundary_tag)
        for name in ("lora_r", "lora_alpha", "lora_target_modules"):
            if not self.use_peft and getattr(self, name) is not None:
                raise UserError(f"{name} is for use_peft: true; leave it out, or set it.")
        if not self.merge_adapter and not self.use_peft:
            raise UserError("merge_adapter: false is for use_peft: true; leave it out, or set it.")
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass
class PRMConfig(VerifierConfig):
    head: Literal["classification", "token"] = field(
        default="classification",
        metadata={"help": "classification: a new head on the hidden state; token: label tokens of the LM head."},
    )
    label_tokens: list[str] | None = field(
        default=None, metadata={"help": "head token: the texts for wrong, right (and neutral); default - + (0)."}
    )
    neutral: Literal["positive", "negative", "ignore", "class"] = field(
        default="positive", metadata={"help": "What steps rated neutral count as; class: a third class."}
    )
    after_first_error: Literal["mask", "keep"] = field(
        default="mask", metadata={"help": "mask: teach nothing behind the first wrong step; keep: teach all labels."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.label_tokens is not None and self.head != "token":
            raise UserError("label_tokens are for head: token; leave them out, or set it.")
        self.policy = LabelPolicy(self.neutral, self.after_first_error)

    def spec(self, tokenizer) -> VerifierSpec:
        spec = VerifierSpec("prm", self.head, None, self.policy, self.steps)
        if self.head == "classification":
            return spec
        texts = self.label_tokens or DEFAULT_LABEL_TOKENS[: spec.classes]
        return VerifierSpec("prm", "token", label_token_ids(tokenizer, texts, spec), self.policy, self.steps)


@dataclass
class ORMConfig(VerifierConfig):
    loss: Literal["token", "pairwise", "implicit"] = field(
        default="token",
        metadata={
            "help": "token: cross-entropy at every token; pairwise: right above wrong at the last one; implicit: an"
            " implicit PRM, the log-ratio to the starting model."
        },
    )
    beta: float | None = field(default=None, metadata={"help": "loss implicit: factor of the log-ratio; default 0.05."})

    def __post_init__(self):
        super().__post_init__()
        if self.beta is not None and self.loss != "implicit":
            raise UserError("beta is for loss: implicit; leave it out, or set it.")
        if not self.merge_adapter and self.loss == "implicit":
            raise UserError(
                "merge_adapter: false is not for loss: implicit, whose checkpoint is two whole models, the trained one "
                "and its reference. Leave it out."
            )

    def spec(self, tokenizer) -> VerifierSpec:
        if self.loss == "implicit":
            return ImplicitSpec(boundary=self.steps, **({} if self.beta is None else {"beta": self.beta}))
        return VerifierSpec("orm", boundary=self.steps)


def prm(config: PRMConfig, args: VerifierArguments) -> dict:
    """The stage `prm`: a process reward model in `args.output_dir`."""
    return _train(PRMTrainer, config, args, need=("steps", "labels"))


def orm(config: ORMConfig, args: VerifierArguments) -> dict:
    """The stage `orm`: an outcome reward model, or an implicit PRM, in `args.output_dir`."""
    if config.loss == "implicit":
        return _train(ImplicitTrainer, config, args, need=("correct",))
    return _train(ORMTrainer, config, args, need=("correct",), loss=config.loss)


def _train(trainer_class: type[VerifierTrainer], config, args: VerifierArguments, need, **options) -> dict:
    if args.eval_strategy != "no" and config.eval_data is None:
        raise UserError(f"eval_strategy is '{args.eval_strategy.value}', but there is no eval_data: give the file.")
    if not config.merge_adapter:
        _check_base(config.model_name_or_path, args.output_dir)
    train = read_solutions(config.data, need=need)
    evaluation = read_solutions(config.eval_data, need=need) if config.eval_data else None
    kind = trainer_class.kind
    with RunRecord(kind, settings(config) | settings(args), args.output_dir, args.seed) as record:
        start_devices(args)
        set_seed(args.seed)
        tokenizer = load_tokenizer(config.model_name_or_path, config.trust_remote_code)
        spec = config.spec(tokenizer)
        model = new_verifier(config.model_name_or_path, spec, config.dtype, config.trust_remote_code)
        if config.use_peft:
            model = _with_lora(model, spec, config, args)
        trainer = trainer_class(model, args, train, evaluation, tokenizer, spec, **options)
        if not config.merge_adapter:
            trainer.add_callback(_DescribeCheckpoints())
        start = newest_checkpoint(args.output_dir) if config.resume else args.resume_from_checkpoint
        record.metrics |= trainer.train_counts | {"packing": trainer.packing}
        record.metrics |= trainer.train(resume_from_checkpoint=start).metrics
        if evaluation:
            record.metrics |= {
                f"eval_{name}": count for name, count in trainer.eval_counts.items()
            } | trainer.evaluate()
        _save(trainer, config)
    return record.metrics


def _check_base(base: str, output_dir: str) -> None:
    if adapter_files.find(base):
        raise UserError(
            f"{base} is itself an adapter, which cannot be the base of another. Start from its base, or leave out "
            "merge_adapter."
        )
    if Path(base).resolve() == Path(output_dir).resolve():
        raise UserError(
            f"output_dir is the base itself, {base}, which the adapter needs as it is; give another folder, or leave "
            "out merge_adapter."
        )


def _save(trainer: VerifierTrainer, config: VerifierConfig) -> None:
    """Leaves a verifier in output_dir: a plain checkpoint, or an adapter."""
    if trainer.is_world_process_zero():
        _remove_weights(Path(trainer.args.output_dir))
    if not config.use_peft:
        trainer.save_model()
    elif trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not config.merge_adapter:
            adapter_files.save(model, trainer.processing_class, trainer.args.output_dir)
            return
        merged = model.merge_and_unload().to(getattr(torch, config.dtype))
        merged.save_pretrained(trainer.args.output_dir)
        trainer.processing_class.save_pretrained(trainer.args.output_dir)


def _remove_weights(folder: Path) -> None:
    """An earlier run's weights go: of an adapter and a whole model in one folder, one is out of date."""
    for file in folder.iterdir():
        if re.fullmatch(r"adapter_config\.json|(adapter_)?model.*\.safetensors(\.index\.json)?", file.name):
            file.unlink()


class _DescribeCheckpoints(TrainerCallback):
    """Makes the adapters of a run's checkpoints verifiers, which can be scored as whole checkpoints can."""

    def on_save(self, args, state, control, model=None, **_):
        if state.is_world_process_zero:
            adapter_files.describe(model, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _with_lora(model: PreTrainedModel, spec: VerifierSpec, config: VerifierConfig, args: VerifierArguments):
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        raise UserError("use_peft under ZeRO-3 is not supported for verifiers: take ZeRO-2, or train all weights.")
    new_head = spec.head == "classification"
    lora = LoraConfig(
        # PEFT trains a token classifier's head whole and saves it; a language model's label tokens are there already.
        task_type=TaskType.TOKEN_CLS if new_head else TaskType.CAUSAL_LM,
        exclude_modules=list(CLASS_HEADS) if new_head else None,
        r=config.lora_r or 16,
        lora_alpha=config.lora_alpha or 32,
        target_modules=config.lora_target_modules or "all-linear",
    )
    if args.activation_checkpointing:
        model.enable_input_require_grads()
    found = get_peft_model(model, lora)
    if new_head:
        # Small updates of a weight in bfloat16 are rounded away: a new head is trained in float32 on any backbone.
        for head in head_of(found).modules_to_save.values():
            adapter_files.in_own_type(head.float())
    return found
