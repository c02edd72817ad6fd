"""`PRMTrainer` and `ORMTrainer`: the Trainer, with four changes.

Solutions are tokenised once, before training; rows are packed without padding, shared prefixes once (`packing.py`), or
batched by length where the model does not admit it; logits are computed at labelled tokens alone (`forward.py`);
evaluation measures what a verifier is for. The two trainers differ in which tokens are labelled (`features.py`).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import (
    EvalPrediction,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.core.calibration import Reliability
from rlstep.core.losses import pairwise_loss, right_log_odds, step_label_loss
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import NothingToLearn, UserError
from rlstep.runtime.processes import start_processes
from rlstep.runtime.resume import ExactResume
from rlstep.steps.prompt_options import BY_CHECKPOINT
from rlstep.steps.records import Solution
from rlstep.verifiers.adapters import name_bases_in_full
from rlstep.verifiers.attention import shares_places
from rlstep.verifiers.features import Feature, train_features
from rlstep.verifiers.forward import collate, logits_at, pad_id_of
from rlstep.verifiers.generation import keep_generation_config
from rlstep.verifiers.packing import can_pack, window_of, work_per_token
from rlstep.verifiers.pretrained import load_config, load_tokenizer, max_positions
from rlstep.verifiers.spec import Kind, VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.evaluation import UNUSED, evaluation_metrics
from rlstep.verifiers.training.sampling import LengthGroupedSampler
from rlstep.verifiers.training.start import new_verifier
from rlstep.verifiers.training.units import pair_up, require_both_classes, require_rows, tree_units

logger = logging.getLogger(__name__)


class VerifierTrainer(ExactResume, Trainer):
    """What `PRMTrainer` and `ORMTrainer` share.

    Args:
        model: a generator's folder or hub id, or a model with a verifier's head, wrapped by PEFT or not.
        args: VerifierArguments.
        train_dataset, eval_dataset: labelled solutions.
        processing_class: the verifier's tokenizer, a fast one; the model's own by default.
        spec: what the outputs mean; that of the model's configuration by default, or else two classes. Where it leaves
            open how prompts are written, the training data's prompts decide.
        **options: passed to `ExactResume` and the Trainer (callbacks, optimizers).

    Attributes:
        train_counts, eval_counts: rows and positions that were kept and dropped (`features.train_features`).
        packing: whether rows are packed.
        reliability: the calibration in the last evaluation; None before the first.
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
        spec: VerifierSpec | None = None,
        **options,
    ):
        start_processes(args)
        if isinstance(model, str):
            set_seed(args.seed)  # the head's first weights
            spec = spec or _spec_of(load_config(model), self.kind)
            model = new_verifier(model, spec)
        self.spec = spec = spec or _spec_of(model.config, self.kind)
        if spec.head == "classification" and model.config.num_labels != spec.classes:
            raise UserError(
                f"the model has {counted(model.config.num_labels, 'label')}; its labels' policy has {spec.classes}."
            )
        tokenizer = processing_class or load_tokenizer(model.config._name_or_path)
        if spec.prompts.form == "auto" and train_dataset:
            self.spec = spec = replace(spec, prompts=BY_CHECKPOINT.for_rows(tokenizer, train_dataset))
        model.config.rlstep_verifier = spec.to_config()
        limit = min((n for n in (args.max_length, max_positions(model.config)) if n), default=None)
        train_rows = None if train_dataset is None else self._train_rows(train_dataset, tokenizer, limit)
        eval_rows = None if eval_dataset is None else self._eval_rows(eval_dataset, tokenizer, limit)
        self.packing = args.packing and _may_pack(model, [*(train_rows or []), *(eval_rows or [])])
        self._sharing = self.packing and shares_places(model.config)
        work = work_per_token(model.config) if self.packing else None
        layout = {"pad_id": pad_id_of(tokenizer), "packing": self.packing, "work": work, "share": self._sharing}
        super().__init__(
            model,
            args,
            data_collator=partial(self._collate, **layout),
            train_dataset=None if train_rows is None else self._units(train_rows),
            eval_dataset=None if eval_rows is None else [[row] for row in eval_rows],
            processing_class=tokenizer,
            compute_metrics=self._metrics,
            **options,
        )
        keep_generation_config(self.model)
        name_bases_in_full(model)
        self.model_accepts_loss_kwargs = True
        self.reliability: Reliability | None = None

    def _train_rows(self, solutions, tokenizer, limit) -> list[Feature]:
        rows, self.train_counts = self._features(solutions, tokenizer, limit)
        require_rows("training", rows, self.train_counts)
        require_both_classes(rows)
        return rows

    def _eval_rows(self, solutions, tokenizer, limit) -> list[Feature]:
        """The longest first."""
        rows, self.eval_counts = self._features(solutions, tokenizer, limit, keep_unknown=True)
        require_rows("evaluation", rows, self.eval_counts)
        return sorted(rows, key=lambda feature: len(feature.ids), reverse=True)

    def _features(self, solutions, tokenizer, limit, keep_unknown: bool = False):
        # Evaluation judges solutions whole: one that is cut off has no last step, and perhaps no first error.
        options = {"keep_unknown": keep_unknown, "whole_rows": keep_unknown, "prompt_format": self.spec.prompts}
        return train_features(self.kind, solutions, tokenizer, limit, self.spec.policy, **options)

    def _units(self, features: list[Feature]) -> list[list[Feature]]:
        """The units that a batch is made of."""
        if not self._sharing:
            return [[row] for row in features]  # nothing is shared, and whole trees would be large batches
        return tree_units(features)

    @staticmethod
    def _collate(units: list[list[Feature]], **layout) -> dict[str, Tensor]:
        return collate([row for unit in units for row in unit], **layout)

    def _loss(self, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        return step_label_loss(logits_NV, targets_N, self._class_indices)

    @property
    def _class_indices(self) -> tuple[int, ...]:
        """Where the classes stand among the logits."""
        return self.spec.label_tokens or tuple(range(self.spec.classes))

    def _logits(self, model, inputs: dict[str, Any]) -> Tensor:
        return logits_at(model, inputs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy with the (possibly soft) labels, a mean over the labelled tokens of the global batch."""
        logits_NV, targets_N = self._logits(model, inputs), inputs["labels"]
        loss = self._loss(logits_NV, targets_N)
        if num_items_in_batch is not None:
            # DDP averages gradients over the ranks; the count is that of all ranks together.
            ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss * (len(targets_N) * ranks / num_items_in_batch)
        return (loss, {"logits": logits_NV}) if return_outputs else loss

    def _prepare_input(self, data):
        """A batch on the model's device, each tensor in its own type.

        The Trainer casts floats to the model's type under DeepSpeed. None of these goes into the model: soft labels and
        a reference's log-probabilities would be rounded.
        """
        if isinstance(data, Tensor):
            return data.to(self.args.device)
        return super()._prepare_input(data)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(None, margins, (targets, problems, shared)): (F, N), each row's positions, and (F,), for ranks to gather."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits_NV = self._logits(model, inputs)
        margins_N = right_log_odds(logits_NV[:, list(self._class_indices)])
        owners_N, rows = inputs["owners"], len(inputs["problems"])
        counts_F = torch.bincount(owners_N, minlength=rows)
        place_N = torch.arange(len(owners_N), device=owners_N.device) - (counts_F.cumsum(0) - counts_F)[owners_N]
        margins_FN = margins_N.new_full((rows, int(counts_F.max())), UNUSED)
        targets_FN = margins_FN.clone()
        margins_FN[owners_N, place_N] = margins_N
        targets_FN[owners_N, place_N] = inputs["labels"]
        return None, margins_FN, (targets_FN, inputs["problems"], inputs["shared"])

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        metrics, self.reliability = evaluation_metrics(
            self.kind == "prm", prediction.predictions, *prediction.label_ids
        )
        return metrics

    def _get_train_sampler(self, train_dataset=None):
        strategy = self.args.train_sampling_strategy
        if strategy != "group_by_length" and (strategy != "auto" or self.packing):
            return super()._get_train_sampler(train_dataset)
        lengths = [max(len(row.ids) for row in unit) for unit in train_dataset or self.train_dataset]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedSampler(lengths, self.args.train_batch_size * self.args.world_size, seed)

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)  # rows are sorted by length already


class PRMTrainer(VerifierTrainer):
    """Trains p(step right) at each step's last token, where the label policy gives a target.

    Arguments and attributes are those of `VerifierTrainer`.
    """

    kind = "prm"


class ORMTrainer(VerifierTrainer):
    """Trains p(answer will be right): at every token of the completion, or by pairs of solutions.

    Args:
        loss: "token": binary cross-entropy at every token of the completion (paper, appendix E). "pairwise": at the
            last token, a right solution above a wrong one of the same problem; problems with one kind teach nothing.
        *args, **options: as for `VerifierTrainer`.
    """

    kind = "orm"

    def __init__(self, *args, loss: Literal["token", "pairwise"] = "token", **options):
        if loss not in ("token", "pairwise"):
            raise UserError(f"loss is '{loss}'; choose token or pairwise.")
        self.loss = loss
        super().__init__(*args, **options)

    def _features(self, solutions, tokenizer, limit, keep_unknown: bool = False):
        # A truncated row has no last token to be scored at.
        pairwise = self.loss == "pairwise"
        features, counts = train_features(
            self.kind,
            solutions,
            tokenizer,
            limit,
            self.spec.policy,
            keep_unknown,
            whole_rows=pairwise or keep_unknown,
            prompt_format=self.spec.prompts,
        )
        if pairwise:
            features = [replace(row, positions=row.positions[-1:], targets=row.targets[-1:]) for row in features]
            counts["positions"] = len(features)
        return features, counts

    def _units(self, features: list[Feature]) -> list[list[Feature]]:
        if self.loss == "token":
            return super()._units(features)
        pairs = pair_up(features)
        if not pairs:
            raise NothingToLearn(
                "no problem of the training data has both a right and a wrong solution, so there is no pair to learn "
                "from. Sample more solutions per problem, or take loss: token."
            )
        self.train_counts["pairs"] = len(pairs)
        return pairs

    def _loss(self, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        if self.loss == "token":
            return super()._loss(logits_NV, targets_N)
        return pairwise_loss(right_log_odds(logits_NV[:, list(self._class_indices)]))


def _spec_of(config: PretrainedConfig, kind: Kind) -> VerifierSpec:
    """What a model's configuration says of it, taken for the trainer's kind; two classes where it says nothing."""
    if getattr(config, "rlstep_verifier", None) is None:
        return VerifierSpec(kind)
    return replace(VerifierSpec.from_config(config._name_or_path, config), kind=kind)


def _may_pack(model: PreTrainedModel, rows: list[Feature]) -> bool:
    """Whether rows can be packed; logs why where they cannot."""
    longest = max((len(row.ids) for row in rows), default=0)
    window = window_of(model.config)
    if window is not None and window < longest:
        refusal = f"its window of {window} tokens is shorter than the longest row, {longest}"
    else:
        # Shards of ZeRO-3 cannot run before its engine is there to gather them.
        refusal = can_pack(model, probe=not is_deepspeed_zero3_enabled())
    if refusal:
        logger.warning("rows are padded in batches of similar lengths, and shared prefixes repeated: %s", refusal)
    return refusal is None
