"""`RewardModel`: a PRM or an ORM with a head of classes, from its checkpoint to values of steps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlstep.runtime.constraints import changed
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.steps.records import Span
from rlstep.verifiers import published
from rlstep.verifiers.adapters import find_adapter, load_adapter
from rlstep.verifiers.attention import choose_attention
from rlstep.verifiers.forward import Prefix, logits_at
from rlstep.verifiers.heads import label_head
from rlstep.verifiers.pretrained import auto_class_of, load_config, load_tokenizer, load_weights
from rlstep.verifiers.query_format import CountNeutralAs, PlainFormat, QueryFormat
from rlstep.verifiers.scoring.implicit import ImplicitRewardModel
from rlstep.verifiers.scoring.scorer import StepScorer
from rlstep.verifiers.spec import IMPLICIT, Gives, Kind, VerifierSpec, config_entry


class RewardModel(StepScorer):
    """A PRM or an ORM that scores text, whichever tokenizer wrote it.

    Args:
        model: a token classifier, or a causal LM whose head holds the label tokens' rows (`label_head`).
        tokenizer: the verifier's own.
        kind: "prm" (value: the step is right) or "orm" (value: the answer will be right).
        batch_tokens: tokens in a forward pass.
        query_format: how it is asked; as rlstep's own verifiers are by default.
        boundary: what a step is where no spans are given; lines by default.
        packing: rows without padding and shared prefixes once, where the model admits it; False pads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        kind: Kind,
        batch_tokens: int = 16384,
        query_format: QueryFormat | None = None,
        boundary: Boundary | None = None,
        packing: bool = True,
    ):
        super().__init__(model, tokenizer, kind, query_format or PlainFormat(kind), batch_tokens, boundary, packing)

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        batch_tokens: int = 16384,
        kind: Kind | None = None,
        layout: str | None = None,
        neutral: CountNeutralAs | None = None,
        boundary: Boundary | None = None,
        packing: bool = True,
        trust_remote_code: bool = False,
        model: PreTrainedModel | None = None,
        gives: Gives = "probability",
        prompts: PromptOptions = BY_CHECKPOINT,
        attn_implementation: str | None = None,
    ) -> StepScorer:
        """Loads a verifier for scoring: one that rlstep trained, or a published PRM (`published.FAMILIES`).

        An implicit PRM comes as an `ImplicitRewardModel`.

        Args:
            path: folder or hub id.
            device: where it runs; a GPU where there is one.
            dtype: the weights' type; that of the checkpoint by default.
            batch_tokens: tokens in a forward pass.
            kind: what label 1 means, for a two-label token classifier that is neither.
            layout: the published family, where the checkpoint does not tell.
            neutral: what neutral steps count as; must fit what the verifier was taught.
            boundary: what a step is where no spans are given; of a PRM, must be what it was taught.
            packing: rows without padding and shared prefixes once, where the model admits it; False pads.
            trust_remote_code: run model code from the hub.
            model: what `load_model` would load, where it is in memory (`shared_base`); it stays on its device.
            gives: what `score` is to give; "reward" for an implicit PRM alone.
            prompts: how prompts are to be written; of rlstep's own verifiers, must be what they were taught.
            attn_implementation: how attention is computed (`attention`); the model's own default if left out.

        Raises:
            UserError: nothing loadable there, no verifier, or options that are not the checkpoint's.
        """
        config = load_config(path, trust_remote_code)
        if config_entry(config).get("kind") == IMPLICIT:
            if kind or layout or neutral:
                raise UserError(f"{path} is an implicit PRM, which has no kind, layout or neutral class to choose.")
            return ImplicitRewardModel.from_pretrained(
                path, device, dtype, batch_tokens, boundary, packing, trust_remote_code, gives, prompts,
                attn_implementation,
            )  # fmt: skip
        require_probability(gives, path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        own = getattr(config, "rlstep_verifier", None) is not None
        family = None if own or kind else layout or published.detect(config, path)
        if family:
            _check_published(path, family, neutral, prompts)
            model, tokenizer, query_format = published.load(path, family, dtype or "auto", trust_remote_code)
            model, kind, boundary = model.to(device), "prm", boundary or published.FAMILIES[family].boundary
        else:
            if layout is not None:
                raise UserError(f"layout '{layout}' is for published PRMs; {path} needs none here.")
            spec = read_spec(path, config, kind, neutral, boundary)
            if model is None:
                model = load_model(path, config, spec, dtype or "auto", trust_remote_code).to(device)
            tokenizer = load_tokenizer(path, trust_remote_code)
            kind, boundary = spec.kind, boundary or spec.boundary
            agreed = prompts.agreed(tokenizer, spec.prompts, path) or PromptFormat()
            query_format = PlainFormat(kind, neutral or "positive", agreed)
        choose_attention(model, attn_implementation)
        return cls(model, tokenizer, kind, batch_tokens, query_format, boundary, packing)

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        steps: Sequence[list[Span]] | None = None,
        cut: bool = False,
    ) -> list[list[float]]:
        """One probability for each step of each completion, in the order given: that the step is right (PRM), or that
        the answer will be (ORM).

        Args:
            prompts, completions: one pair per row; equal rows are scored once.
            steps: character spans in the completions; by default the verifier's boundary rule splits them.
            cut: a row that is longer than the model is read up to the last step that fits, as if it ended there, and
                has values of these steps alone.

        Raises:
            TooLong: a row is longer than the model, and not to be cut.
        """
        return self._score_rows(prompts, completions, steps, cut)

    def _pass(self, batch: dict[str, Tensor], prefix: Prefix | None) -> Tensor:
        return self.query_format.values(logits_at(self.model, batch, prefix))


def read_spec(
    path: str, config: PretrainedConfig, kind: Kind | None, neutral: CountNeutralAs | None, boundary: Boundary | None
) -> VerifierSpec:
    """What a verifier's values mean that is no published one; arguments as in `RewardModel.from_pretrained`.

    Raises:
        UserError: it does not say, or says something else than the arguments.
    """
    own = getattr(config, "rlstep_verifier", None) is not None
    spec = VerifierSpec.from_config(path, config) if own or kind is None else VerifierSpec(kind)
    if kind is not None and kind != spec.kind:
        raise UserError(f"{path} is a {spec.kind}, not a {kind}; leave kind out.")
    _check_boundary(path, spec, boundary if own else None)
    _check_neutral(path, spec, neutral)
    return spec


def load_model(
    path: str, config: PretrainedConfig, spec: VerifierSpec, dtype: str, trust_remote_code: bool
) -> PreTrainedModel:
    """The model of a checkpoint of rlstep's own, whole or adapter, with one logit per class."""
    if spec.head == "classification" and config.num_labels != spec.classes:
        raise UserError(
            f"{path} has {counted(config.num_labels, 'label')}; its policy tells {spec.classes} classes apart."
        )
    if adapter := find_adapter(path):
        model = load_adapter(adapter, config, spec.head, dtype, trust_remote_code).get_base_model()
    else:
        model = load_weights(auto_class_of(spec.head), path, config, dtype, trust_remote_code)
    return label_head(model, spec.label_tokens) if spec.head == "token" else model


def require_probability(gives: Gives, path: str) -> None:
    """Refuses rewards of a verifier that gives probabilities.

    Raises:
        UserError: `gives` is anything else.
    """
    if gives == "reward":
        raise UserError(
            f"{path} gives probabilities, and gives: reward is for an implicit PRM (`rlstep orm --loss implicit`). "
            "Leave gives out, or give the path of one."
        )
    if gives != "probability":
        raise UserError(f"gives is {gives!r}; choose probability or reward.")


def _check_published(path: str, family: str, neutral: str | None, prompts: PromptOptions) -> None:
    """Refuses options that a published PRM, whose query format is its authors', cannot follow."""
    if neutral is not None:
        raise UserError(f"{path} is a {family} PRM, which has no neutral class; leave out neutral.")
    if prompts.requested is not None:
        raise UserError(
            f"{path} is a {family} PRM, which is asked as its authors ask it; leave out "
            f"{', '.join(changed(prompts))}. It is given the text of the problem."
        )


def _check_neutral(path: str, spec: VerifierSpec, neutral: str | None) -> None:
    taught = spec.policy.neutral
    if neutral is not None and spec.classes < 3 and neutral != taught:
        raise UserError(
            f"{path} was taught neutral steps as '{taught}', so its scores cannot count them as '{neutral}'. "
            f"Leave neutral out, or train with neutral: class to choose when scoring."
        )


def _check_boundary(path: str, spec: VerifierSpec, boundary: Boundary | None) -> None:
    """Refuses to ask a PRM at other places than it was taught to answer at; an ORM was taught at every token."""
    if spec.kind == "prm" and boundary is not None and boundary != spec.boundary:
        raise UserError(
            f"{path} was taught steps by {spec.boundary}, not {boundary}. Leave the boundary out, give spans, or train "
            "one for these steps."
        )
