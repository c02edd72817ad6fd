"""`PRMTrainer` and `ORMTrainer`: the Trainer, with four changes.

Solutions are tokenised once, before training; rows are packed without padding, shared prefixes once (`packing.py`), or
batched by length where the model does not admit it; logits are computed at labelled tokens alone; evaluation measures
what a verifier is for. The two trainers differ in which tokens are labelled (`collate.py`).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.utils.data import SequentialSampler
from transformers import (
    EvalPrediction,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.core.calibration import Reliability, reliability
from rlstep.core.losses import pairwise_loss, right_log_odds, step_label_loss
from rlstep.runtime.errors import UserError
from rlstep.steps.labels import NEUTRAL
from rlstep.steps.records import Solution
from rlstep.verifiers.collate import Feature, collate, model_inputs, pad_id_of, train_features
from rlstep.verifiers.metrics import RowScores, binary_metrics, step_metrics, undefined
from rlstep.verifiers.model import (
    Kind,
    VerifierSpec,
    classify_at,
    load_config,
    load_tokenizer,
    max_positions,
    new_verifier,
)
from rlstep.verifiers.packing import can_pack, mask_dtype, window_of, work_per_token
from rlstep.verifiers.reliability import reliability_figure
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.sampling import LengthGroupedSampler

logger = logging.getLogger(__name__)

UNUSED = -100  # the Trainer pads what it gathers with this
ROWS_OF_A_TREE = 64  # larger trees are several units, so that none is a batch too large


class VerifierTrainer(Trainer):
    """What `PRMTrainer` and `ORMTrainer` share.

    Args:
        model: a generator's folder or hub id, or a model with a verifier's head, wrapped by PEFT or not.
        args: VerifierArguments.
        train_dataset, eval_dataset: labelled solutions.
        processing_class: the verifier's tokenizer, a fast one; the model's own by default.
        spec: what the outputs mean; that of the model's configuration by default, or else two classes.
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
        spec: VerifierSpec | None = None,
        **options,
    ):
        start_devices(args)
        if isinstance(model, str):
            set_seed(args.seed)  # the head's first weights
            spec = spec or _spec_of(load_config(model), self.kind)
            model = new_verifier(model, spec)
        self.spec = spec = spec or _spec_of(model.config, self.kind)
        if spec.head == "classification" and model.config.num_labels != spec.classes:
            raise UserError(f"the model has {model.config.num_labels} labels; its labels' policy has {spec.classes}.")
        model.config.rlstep_verifier = spec.to_config()
        tokenizer = processing_class or load_tokenizer(model.config._name_or_path)
        limit = min((n for n in (args.max_length, max_positions(model.config)) if n), default=None)
        train_rows = eval_rows = None
        if train_dataset is not None:
            train_rows, self.train_counts = _checked("training", self._features(train_dataset, tokenizer, limit))
            _require_both_classes(train_rows)
        if eval_dataset is not None:
            eval_rows, self.eval_counts = _checked(
                "evaluation", self._features(eval_dataset, tokenizer, limit, keep_unknown=True)
            )
            eval_rows.sort(key=lambda feature: len(feature.ids), reverse=True)
        self.packing = args.packing and _may_pack(model, [*(train_rows or []), *(eval_rows or [])])
        work = work_per_token(model.config) if self.packing else None
        super().__init__(
            model,
            args,
            data_collator=partial(_collate_units, pad_id=pad_id_of(tokenizer), packing=self.packing, work=work),
            train_dataset=None if train_rows is None else self._units(train_rows),
            eval_dataset=None if eval_rows is None else [[row] for row in eval_rows],
            processing_class=tokenizer,
            compute_metrics=self._metrics,
            **options,
        )
        self.model_accepts_loss_kwargs = True
        self.reliability: Reliability | None = None  # of the last evaluation
        self.add_callback(_PlotReliability(self))

    def _features(self, solutions, tokenizer, limit, keep_unknown: bool = False):
        return train_features(self.kind, solutions, tokenizer, limit, self.spec.policy, keep_unknown)

    def _units(self, features: list[Feature]) -> list[list[Feature]]:
        """What a batch is counted in: rows, those of one tree together so that they can share their prefix."""
        if not self.packing:
            return [[row] for row in features]  # nothing is shared, and padded trees would be large batches
        units: list[list[Feature]] = []
        home: dict[str, list[Feature]] = {}
        for row in features:
            if row.tree in home and len(home[row.tree]) < ROWS_OF_A_TREE:
                home[row.tree].append(row)
                continue
            units.append([row])
            if row.tree is not None:
                home[row.tree] = units[-1]
        return units

    def _loss(self, logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        return step_label_loss(logits_NV, targets_N, self._columns)

    @property
    def _columns(self) -> tuple[int, ...]:
        """Where the classes stand among the logits."""
        return self.spec.label_tokens or tuple(range(self.spec.classes))

    def _logits(self, model, inputs: dict[str, Any]) -> torch.Tensor:
        dtype = mask_dtype(self.accelerator.unwrap_model(model))
        return classify_at(model, **model_inputs(inputs, dtype))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy with the (possibly soft) labels, a mean over the labelled tokens of the global batch."""
        logits_NV, targets_N = self._logits(model, inputs), inputs["labels"]
        loss = self._loss(logits_NV, targets_N)
        if num_items_in_batch is not None:
            # DDP averages gradients over the ranks; the count is that of all ranks together.
            ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss * (len(targets_N) * ranks / num_items_in_batch)
        return (loss, {"logits": logits_NV}) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(None, margins, (targets, problems, shared)): (F, N) a row's positions each and (F,), for ranks to gather."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits_NV = self._logits(model, inputs)
        margins_N = right_log_odds(logits_NV[:, list(self._columns)])
        owners_N, rows = inputs["owners"], len(inputs["problems"])
        counts_F = torch.bincount(owners_N, minlength=rows)
        place_N = torch.arange(len(owners_N), device=owners_N.device) - (counts_F.cumsum(0) - counts_F)[owners_N]
        margins_FN = margins_N.new_full((rows, int(counts_F.max())), UNUSED)
        targets_FN = margins_FN.clone()
        margins_FN[owners_N, place_N] = margins_N
        targets_FN[owners_N, place_N] = inputs["labels"]
        return None, margins_FN, (targets_FN, inputs["problems"], inputs["shared"])

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        margins_FN, (targets_FN, problems_F, shared_F) = prediction.predictions, prediction.label_ids
        # A neutral step of a third class counts as right here, as it does by default in scoring.
        targets_FN = np.where(targets_FN == NEUTRAL, 1.0, targets_FN)
        known_FN = targets_FN >= 0
        counted_FN = known_FN & (np.arange(known_FN.shape[1]) >= shared_F[:, None])
        found = {"positions": int(counted_FN.sum()), **binary_metrics(margins_FN[counted_FN], targets_FN[counted_FN])}
        if "auroc" not in found:
            logger.warning("the evaluation data has labels of one kind only: no AUROC, no balanced accuracy")
        probs_FN = 1 / (1 + np.exp(-margins_FN.astype(np.float64)))
        self.reliability = reliability(probs_FN[counted_FN], targets_FN[counted_FN])
        if self.kind == "prm":
            targets_FN = np.where(known_FN, targets_FN, np.nan)
            asked_F = (margins_FN != UNUSED).sum(axis=1)
            rows = zip(probs_FN, targets_FN, asked_F, problems_F, shared_F, strict=True)
            found |= step_metrics([RowScores(p[:n], t[:n], str(problem), s) for p, t, n, problem, s in rows])
            if absent := undefined(found):
                logger.info("this evaluation data does not define %s", ", ".join(absent))
        else:
            last_F = known_FN.sum(axis=1) - 1
            rows_F = np.arange(len(last_F))
            final = binary_metrics(margins_FN[rows_F, last_F], targets_FN[rows_F, last_F])
            found |= {f"final_{name}": value for name, value in final.items()}
        return found

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
    """Trains p(step right) at each step's last token, as far as the label policy teaches."""

    kind = "prm"


class ORMTrainer(VerifierTrainer):
    """Trains p(answer will be right): at every token of the completion, or by pairs of solutions.

    Args:
        loss: "token": binary cross-entropy at every token of the completion (paper, appendix E). "pairwise": at the
            last token, a right solution above a wrong one of the same problem; problems with one kind teach nothing.
    """

    kind = "orm"

    def __init__(self, *args, loss: Literal["token", "pairwise"] = "token", **options):
        if loss not in ("token", "pairwise"):
            raise UserError(f"loss is '{loss}'; choose token or pairwise.")
        self.loss = loss
        super().__init__(*args, **options)

    def _features(self, solutions, tokenizer, limit, keep_unknown: bool = False):
        # A row that is cut has no last token to be judged at.
        pairwise = self.loss == "pairwise"
        features, counts = train_features(
            self.kind, solutions, tokenizer, limit, self.spec.policy, keep_unknown, whole_rows=pairwise
        )
        if pairwise:
            features = [
                replace(feature, columns=feature.columns[-1:], targets=feature.targets[-1:]) for feature in features
            ]
            counts["positions"] = len(features)
        return features, counts

    def _units(self, features: list[Feature]) -> list[list[Feature]]:
        if self.loss == "token":
            return super()._units(features)
        pairs = pair_up(features)
        if not pairs:
            raise UserError(
                "no problem of the training data has both a right and a wrong solution, so there is no pair to learn "
                "from. Sample more solutions a problem, or take loss: token."
            )
        self.train_counts["pairs"] = len(pairs)
        return pairs

    def _loss(self, logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        if self.loss == "token":
            return super()._loss(logits_NV, targets_N)
        return pairwise_loss(right_log_odds(logits_NV[:, list(self._columns)]))


def pair_up(features: Sequence[Feature]) -> list[list[Feature]]:
    """[right, wrong] pairs of each problem: every solution in at least one, the rarer kind in several."""
    problems: dict[int, tuple[list[Feature], list[Feature]]] = {}
    for feature in features:
        problems.setdefault(feature.problem, ([], []))[0 if feature.targets[-1] >= 0.5 else 1].append(feature)
    return [
        [right[index % len(right)], wrong[index % len(wrong)]]
        for right, wrong in problems.values()
        if right and wrong
        for index in range(max(len(right), len(wrong)))
    ]


class _PlotReliability(TrainerCallback):
    """Sends wandb, where the run logs to it, the reliability plot of every evaluation."""

    def __init__(self, trainer: VerifierTrainer):
        self.trainer = trainer

    def on_evaluate(self, args, state, control, **_):
        if not (state.is_world_process_zero and "wandb" in args.report_to and self.trainer.reliability):
            return
        import wandb
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(reliability_figure(self.trainer.reliability))
        canvas.draw()
        # wandb's own callback has named the x axis of everything that is logged.
        wandb.log(
            {"eval/reliability": wandb.Image(np.asarray(canvas.buffer_rgba())), "train/global_step": state.global_step}
        )


def _spec_of(config: PretrainedConfig, kind: Kind) -> VerifierSpec:
    """What a model's configuration says of it, taken for the trainer's kind; two classes where it says nothing."""
    if getattr(config, "rlstep_verifier", None) is None:
        return VerifierSpec(kind)
    return replace(VerifierSpec.from_config(config._name_or_path, config), kind=kind)


def _may_pack(model: PreTrainedModel, rows: list[Feature]) -> bool:
    """Whether rows can be packed; says why where they cannot."""
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


def _collate_units(units: list[list[Feature]], pad_id: int, packing: bool, work: float | None) -> dict:
    return collate([row for unit in units for row in unit], pad_id, packing, work)


def start_devices(args: VerifierArguments) -> None:
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
