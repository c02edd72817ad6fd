"""`ImplicitTrainer`: an implicit PRM from outcome labels, by cross-entropy of sigmoid(q) with the answer's correctness.

The reference is the model at the start. Its log-probabilities are computed once, before training, so that no second
model is in memory and none runs in the loop; its weights go to the checkpoint's subfolder `reference`.
"""

import contextlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from rlstep.core.implicit import implicit_rewards
from rlstep.runtime.errors import UserError
from rlstep.runtime.processes import start_processes
from rlstep.steps.records import Solution
from rlstep.verifiers.batches import padded_batches
from rlstep.verifiers.features import TokenFeature, encode_rows, token_feature
from rlstep.verifiers.forward import collate, logps_at, pad_id_of
from rlstep.verifiers.heads import require_plain_head
from rlstep.verifiers.scoring.implicit import REFERENCE
from rlstep.verifiers.sharded import is_sharded, whole_state, whole_when_used
from rlstep.verifiers.spec import IMPLICIT, ImplicitSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.start import new_verifier
from rlstep.verifiers.training.trainer import VerifierTrainer

TOKENS = 16384  # in a forward pass, while the reference's log-probabilities are computed


class ImplicitTrainer(VerifierTrainer):
    """Trains beta * log(pi_phi / pi_ref) of a whole completion to be the log-odds that its answer is right.

    Args:
        model: a generator's folder or hub id, or a causal LM, wrapped by PEFT or not; its weights now, without the
            adapter, are the reference.
        args: VerifierArguments.
        train_dataset, eval_dataset: solutions with `correct`.
        processing_class: the model's tokenizer, a fast one; its own by default.
        spec: beta, and what a step is where text comes without spans.
        **options: passed to the Trainer.

    Raises:
        UserError: the model changes its head's logits.
    """

    kind = IMPLICIT

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: VerifierArguments,
        train_dataset: Sequence[Solution] | None = None,
        eval_dataset: Sequence[Solution] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        spec: ImplicitSpec | None = None,
        **options,
    ):
        start_processes(args)
        spec = spec or ImplicitSpec()
        if isinstance(model, str):
            set_seed(args.seed)
            model = new_verifier(model, spec)
        with whole_when_used(model):
            require_plain_head(model)
        self._start, self._start_args = model, args
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, spec, **options)
        del self._start, self._start_args
        save_reference(self.model, Path(args.output_dir) / REFERENCE, args.should_save)

    def _features(self, solutions, tokenizer, limit, keep_unknown: bool = False):
        for number, solution in enumerate(solutions, start=1):
            if not isinstance(solution.correct, bool):
                raise UserError(
                    f"solution {number} (problem '{solution.problem_id}', sample {solution.sample}): 'correct' is "
                    f"{solution.correct!r}; an implicit PRM needs true or false. Run `rlstep label`."
                )
        counts = Counter(dict.fromkeys(("rows", "positions", "rows_too_long", "rows_empty"), 0))
        texts = [s.prompt for s in solutions], [s.completion for s in solutions], [[]] * len(solutions)
        features, problems = [], {}
        for solution, encoded in zip(solutions, encode_rows(tokenizer, *texts, self.spec.prompts), strict=True):
            if len(encoded.ids) == encoded.prompt_length:
                counts["rows_empty"] += 1
            elif limit is not None and len(encoded.ids) - 1 > limit:
                counts["rows_too_long"] += 1
            else:
                target = torch.tensor([float(solution.correct)])
                problem = problems.setdefault(solution.problem_id, len(problems))
                row = replace(token_feature(encoded), targets=target, problem=problem, tree=solution.tree)
                features.append(row)
        counts["rows"] = counts["positions"] = len(features)
        return reference_logps(self._start, features, self._start_args, pad_id_of(tokenizer)), dict(counts)

    @staticmethod
    def _collate(units: list[list[TokenFeature]], **layout) -> dict[str, Tensor]:
        features = [row for unit in units for row in unit]
        batch = collate(features, **layout)
        return batch | {
            "token_owners": batch["owners"],
            "owners": torch.arange(len(features)),  # of the labels, one per row
            "reference": torch.cat([row.reference for row in features]),
        }

    def _logits(self, model, inputs: dict[str, Any]) -> Tensor:
        """(F, 2): 0 and q of each row, so that the softmax of the two is sigmoid(q)."""
        log_ratios_N = logps_at(model, inputs) - inputs["reference"]
        q_F = implicit_rewards(log_ratios_N, inputs["token_owners"], len(inputs["labels"]), self.spec.beta)
        return torch.stack([torch.zeros_like(q_F), q_F], dim=1)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model with its reference; checkpoints within the run share the one in its folder."""
        super().save_model(output_dir, _internal_call)
        folder, run = Path(output_dir or self.args.output_dir), Path(self.args.output_dir)
        if self.args.should_save and not _internal_call and folder.resolve() != run.resolve():
            shutil.copytree(run / REFERENCE, folder / REFERENCE, dirs_exist_ok=True)


@torch.no_grad()
def reference_logps(
    model: PreTrainedModel, features: list[TokenFeature], args: VerifierArguments, pad_id: int
) -> list[TokenFeature]:
    """The rows with the log-probabilities of the model as it is now, without its adapter; ranks share the work."""
    state = PartialState()
    model.to(args.device).eval()
    mine = range(state.process_index, len(features), state.num_processes)
    bare = model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext()
    known: dict[int, Tensor] = {}
    with bare, _precision_of_training(model, args), whole_when_used(model):
        passes = [[mine[place] for place in batch] for batch in padded_batches([features[i].ids for i in mine], TOKENS)]
        # ZeRO-3 needs equally many passes of all ranks; a rank that has fewer repeats the first row.
        most = max(gather_object([len(passes)]))
        for indices in passes + [[0]] * (most - len(passes)):
            rows = [features[index] for index in indices]
            batch = collate(rows, pad_id, packing=False)
            batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
            pieces = logps_at(model, batch).cpu().split([len(row.positions) for row in rows])
            known |= {index: piece.clone() for index, piece in zip(indices, pieces, strict=True)}
    known = dict(gather_object(list(known.items())))
    return [replace(row, reference=known[index]) for index, row in enumerate(features)]


@contextlib.contextmanager
def _precision_of_training(model: PreTrainedModel, args: VerifierArguments) -> Iterator[None]:
    """Computes as training will, or the log-ratio would hold the difference of two precisions."""
    if not args.deepspeed:
        dtype = torch.bfloat16 if args.bf16 else torch.float16
        with torch.autocast(args.device.type, dtype, enabled=args.bf16 or args.fp16):
            yield
        return
    # DeepSpeed's engine casts the weights, and uses no autocast.
    dtype = args.hf_deepspeed_config.dtype()
    own = {p: p.data for p in model.parameters() if not is_sharded(p) and p.dtype != dtype}
    try:
        for parameter in own:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, data in own.items():
            parameter.data = data


def save_reference(model: PreTrainedModel, folder: Path, writes: bool = True) -> None:
    """The model as it is now, without its adapter, as a plain causal LM.

    Args:
        model: wrapped by PEFT or not.
        folder: made where it is missing.
        writes: whether this process writes; where ZeRO-3 shards the model, all of them have to call this.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    weights = whole_state(base, writes)
    if not writes:
        return
    if base is not model:
        # PEFT's layers hold the weights that they wrap, and copies of those that they train whole.
        weights = {
            re.sub(r"\.(base_layer|original_module)(?=\.)", "", name): tensor
            for name, tensor in weights.items()
            if "lora_" not in name and ".modules_to_save." not in name
        }
    base.save_pretrained(folder, state_dict=weights)
    config = deepcopy(base.config)
    del config.rlstep_verifier
    config.save_pretrained(folder)
