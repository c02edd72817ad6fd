"""Training of verifiers: `PRMTrainer`, `ORMTrainer` and the stages `prm` and `orm`.

The two differ only in which tokens are labelled (`rlstep.verifiers.collate`). Both are the Trainer with three changes:
solutions are tokenised once, before training; logits are computed at labelled tokens alone; batches hold rows of
similar lengths in random order.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from rlstep.core.losses import step_label_loss
from rlstep.runtime.checkpoints import newest_checkpoint
from rlstep.runtime.config import settings
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord
from rlstep.steps.records import Solution, read_solutions
from rlstep.verifiers.collate import Feature, pad, pad_id_of, train_features
from rlstep.verifiers.metrics import binary_metrics
from rlstep.verifiers.model import FORMAT, HEADS, Kind, classify_at, load_tokenizer, max_positions, new_verifier

logger = logging.getLogger(__name__)

UNUSED = -100  # the Trainer pads what it gathers with this


@dataclass
class VerifierConfig:
    model_name_or_path: str = field(metadata={"help": "Folder or hub id of the generator to start from."})
    data: str = field(metadata={"help": "Labelled solutions to train on (JSONL)."})
    eval_data: str | None = field(default=None, metadata={"help": "Labelled solutions to evaluate on (JSONL)."})
    resume: bool = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir, where there is one."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "The weights' type; float32 suits training, also under --bf16 autocast."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})
    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter, merged into the saved verifier."})
    lora_r: int = field(default=16, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA alpha."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules that get an adapter; all linear layers of the backbone by default."}
    )


@dataclass
class VerifierArguments(TrainingArguments):
    """The Trainer's arguments with defaults for verifiers."""

    max_length: int | None = field(
        default=None, metadata={"help": "Longest row in tokens; the model's own limit by default."}
    )
    learning_rate: float = field(
        default=1e-5, metadata={"help": "Initial learning rate; a low one mattered in the paper."}
    )
    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the data."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows a device and forward pass."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rows a device, in evaluation."})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "group_by_length: batches of similar lengths, in random order.",
            "choices": ["random", "sequential", "group_by_length"],
        },
    )
    logging_steps: float = field(default=10, metadata={"help": "Updates between log lines (below 1: a share of all)."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide NaN losses from the log; each step then waits for the device."}
    )
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch or best."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave it off: rows hold no model arguments."})
    report_to: str = field(default="none", metadata={"help": "Where to log: none, wandb, tensorboard."})


class VerifierTrainer(Trainer):
    """What `PRMTrainer` and `ORMTrainer` share.

    Args:
        model: a generator's folder or hub id, or a token classifier with two labels, wrapped by PEFT or not.
        args: VerifierArguments.
        train_dataset, eval_dataset: labelled solutions.
        processing_class: the verifier's tokenizer, a fast one; the model's own by default.
        **options: passed to the Trainer (callbacks, optimizers).
    """

    kind: ClassVar[Kind]
    # `compute_loss` divides by the labels of the whole global batch, whose number the Trainer counts from "labels".
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: VerifierArguments,
        train_dataset: Sequence[Solution] | None = None,
        eval_dataset: Sequence[Solution] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **options,
    ):
        _start_devices(args)
        if isinstance(model, str):
            set_seed(args.seed)  # the head's first weights
            model = new_verifier(model, self.kind)
        if model.config.num_labels != 2:
            raise UserError(f"the model has {model.config.num_labels} labels; a verifier has two: wrong and right.")
        model.config.rlstep_verifier = {"kind": self.kind, "format": FORMAT}
        tokenizer = processing_class or load_tokenizer(model.config._name_or_path)
        limit = min((n for n in (args.max_length, max_positions(model.config)) if n), default=None)
        features_of = partial(train_features, self.kind, tokenizer=tokenizer, max_length=limit)
        train_rows = eval_rows = None
        if train_dataset is not None:
            train_rows, self.train_counts = _checked("training", features_of(train_dataset))
            _require_both_classes(train_rows)
        if eval_dataset is not None:
            eval_rows, self.eval_counts = _checked("evaluation", features_of(eval_dataset))
            eval_rows.sort(key=lambda feature: len(feature.ids), reverse=True)
        super().__init__(
            model,
            args,
            data_collator=partial(pad, pad_id=pad_id_of(tokenizer)),
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            compute_metrics=self._metrics,
            **options,
        )
        self.model_accepts_loss_kwargs = True

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy with the (possibly soft) labels, a mean over the labelled tokens of the global batch."""
        logits_N2, targets_N = _logits(model, inputs), inputs["labels"]
        loss = step_label_loss(logits_N2, targets_N)
        if num_items_in_batch is not None:
            # DDP averages gradients over the ranks; the count is that of all ranks together.
            ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss * (len(targets_N) * ranks / num_items_in_batch)
        return (loss, {"logits": logits_N2}) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(None, margins, targets), each (B, N) with a row's labelled tokens, so that ranks can gather them."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits_N2 = _logits(model, inputs).float()
        margins_N = logits_N2[:, 1] - logits_N2[:, 0]
        rows_N, batch = inputs["rows"], len(inputs["input_ids"])
        counts_B = torch.bincount(rows_N, minlength=batch)
        place_N = torch.arange(len(rows_N), device=rows_N.device) - (counts_B.cumsum(0) - counts_B)[rows_N]
        margins_BN = margins_N.new_full((batch, int(counts_B.max())), UNUSED)
        targets_BN = margins_BN.clone()
        margins_BN[rows_N, place_N] = margins_N
        targets_BN[rows_N, place_N] = inputs["labels"]
        return None, margins_BN, targets_BN

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        margins_BN, targets_BN = prediction.predictions, prediction.label_ids
        known_BN = targets_BN != UNUSED
        found = {"positions": int(known_BN.sum()), **binary_metrics(margins_BN[known_BN], targets_BN[known_BN])}
        if "auroc" not in found:
            logger.warning("the evaluation data has labels of one kind only: no AUROC, no balanced accuracy")
        if self.kind == "orm":
            last_B = known_BN.sum(axis=1) - 1
            rows_B = np.arange(len(last_B))
            final = binary_metrics(margins_BN[rows_B, last_B], targets_BN[rows_B, last_B])
            found |= {f"final_{name}": value for name, value in final.items()}
        return found

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = [len(feature.ids) for feature in train_dataset or self.train_dataset]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedSampler(lengths, self.args.train_batch_size * self.args.world_size, seed)

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)  # rows are sorted by length already


class PRMTrainer(VerifierTrainer):
    """Trains p(step right) at each step's last token, up to the first wrong step."""

    kind = "prm"


class ORMTrainer(VerifierTrainer):
    """Trains p(answer will be right) at every token of the completion."""

    kind = "orm"


class LengthGroupedSampler(Sampler[int]):
    """Groups of rows with similar lengths, the groups in random order, another one each epoch.

    The Trainer's own sampler leaves the groups of a stretch sorted from long to short, so that a length, and with it
    an outcome, is met in one piece. This one shuffles them, and its order depends on seed and epoch alone, so a
    resumed run sees the batches that the uninterrupted one would have seen.
    """

    STRETCH = 50  # groups sorted by length together: more is less padding, fewer is more randomness

    def __init__(self, lengths: Sequence[int], group: int, seed: int):
        self.lengths, self.group, self.seed = torch.tensor(lengths), group, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        groups = []
        for stretch in torch.randperm(len(self.lengths), generator=generator).split(self.STRETCH * self.group):
            by_length = stretch[self.lengths[stretch].argsort(stable=True)]
            groups.extend(by_length.split(self.group))
        # A short last group stays last: the batches are cut from the sequence of rows.
        short = [groups.pop()] if groups and len(groups[-1]) < self.group else []
        order = [groups[index] for index in torch.randperm(len(groups), generator=generator).tolist()]
        for group in order + short:
            yield from group.tolist()


def prm(config: VerifierConfig, args: VerifierArguments) -> dict:
    """The stage `prm`: a process reward model in `args.output_dir`."""
    return _train(PRMTrainer, config, args, need=("steps", "labels"))


def orm(config: VerifierConfig, args: VerifierArguments) -> dict:
    """The stage `orm`: an outcome reward model in `args.output_dir`."""
    return _train(ORMTrainer, config, args, need=("correct",))


def _train(trainer_class: type[VerifierTrainer], config: VerifierConfig, args: VerifierArguments, need) -> dict:
    if args.eval_strategy != "no" and config.eval_data is None:
        raise UserError(f"eval_strategy is '{args.eval_strategy.value}', but there is no eval_data: give the file.")
    train = read_solutions(config.data, need=need)
    evaluation = read_solutions(config.eval_data, need=need) if config.eval_data else None
    kind = trainer_class.kind
    with RunRecord(kind, settings(config) | settings(args), args.output_dir, args.seed) as record:
        _start_devices(args)
        set_seed(args.seed)
        model = new_verifier(config.model_name_or_path, kind, config.dtype, config.trust_remote_code)
        if config.use_peft:
            model = _with_lora(model, config, args)
        tokenizer = load_tokenizer(config.model_name_or_path, config.trust_remote_code)
        trainer = trainer_class(model, args, train, evaluation, tokenizer)
        start = newest_checkpoint(args.output_dir) if config.resume else args.resume_from_checkpoint
        record.metrics |= trainer.train_counts | trainer.train(resume_from_checkpoint=start).metrics
        if evaluation:
            record.metrics |= {
                f"eval_{name}": count for name, count in trainer.eval_counts.items()
            } | trainer.evaluate()
        _save(trainer, config)
    return record.metrics


def _start_devices(args: VerifierArguments) -> None:
    """Starts the process group, which ZeRO-3 needs before weights are loaded, and refuses torch's DataParallel."""
    if args.n_gpu > 1:
        raise UserError(
            f"{args.n_gpu} GPUs are visible to one process. Start one process a GPU (`accelerate launch` or "
            "`torchrun`), or show it one GPU (CUDA_VISIBLE_DEVICES=0)."
        )
    if args.deepspeed:
        # With use_cpu the Trainer starts torch's process group and leaves DeepSpeed's own unset.
        import deepspeed

        deepspeed.init_distributed(auto_mpi_discovery=False)


def _save(trainer: VerifierTrainer, config: VerifierConfig) -> None:
    """Leaves a plain checkpoint in output_dir: an adapter is merged into its base."""
    if not config.use_peft:
        trainer.save_model()
    elif trainer.is_world_process_zero():
        merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        merged.save_pretrained(trainer.args.output_dir)
        trainer.processing_class.save_pretrained(trainer.args.output_dir)


def _with_lora(model: PreTrainedModel, config: VerifierConfig, args: VerifierArguments):
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        raise UserError("use_peft under ZeRO-3 is not supported for verifiers: take ZeRO-2, or train all weights.")
    lora = LoraConfig(
        task_type=TaskType.TOKEN_CLS,  # PEFT then trains the head whole and saves it
        exclude_modules=list(HEADS),
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=config.lora_target_modules or "all-linear",
    )
    if args.activation_checkpointing:
        model.enable_input_require_grads()
    return get_peft_model(model, lora)


def _logits(model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    return classify_at(model, inputs["input_ids"], inputs["attention_mask"], inputs["rows"], inputs["columns"])


def _checked(what: str, built: tuple[list[Feature], dict[str, int]]) -> tuple[list[Feature], dict[str, int]]:
    """Says what was dropped; data with nothing left is an error."""
    features, counts = built
    dropped = {name: count for name, count in counts.items() if count and name not in ("rows", "positions")}
    if dropped:
        logger.warning("%s data: dropped %s", what, ", ".join(f"{count} {name}" for name, count in dropped.items()))
    if not features:
        reason = f" (dropped: {dropped})" if dropped else ": it has no rows"
        raise UserError(f"the {what} data has no labelled position{reason}. Label it, or raise max_length.")
    return features, counts


def _require_both_classes(features: Sequence[Feature]) -> None:
    targets = torch.cat([feature.targets for feature in features])
    if bool((targets == targets[0]).all()):
        raise UserError(
            f"every label of the training data is {targets[0].item():g}: there is nothing to tell apart. "
            "Sample more solutions (a higher temperature, more a problem), or check the labels."
        )
