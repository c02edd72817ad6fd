"""The `prm` stage: from solutions with step labels to a process reward model."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from transformers import PreTrainedTokenizerBase

from rlstep.policy.prompt_files import read_prompt_format
from rlstep.report.reliability import PlotReliability
from rlstep.runtime.constraints import ReadBy
from rlstep.runtime.tracking import UNTRACKED, TrackingOptions
from rlstep.steps.labels import LabelPolicy
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.verifiers.spec import VerifierSpec, label_token_ids
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.options import VerifierConfig
from rlstep.verifiers.training.run import train_verifier
from rlstep.verifiers.training.trainer import PRMTrainer

DEFAULT_LABEL_TOKENS = ["-", "+", "0"]


@dataclass
class PRMConfig(VerifierConfig):
    head: Literal["classification", "token"] = field(
        default="classification",
        metadata={"help": "classification: a new head on the hidden state; token: label tokens of the LM head."},
    )
    label_tokens: Annotated[list[str] | None, ReadBy("head", "token")] = field(
        default=None, metadata={"help": "head token: the texts for wrong, right (and neutral); default - + (0)."}
    )
    neutral: Literal["positive", "negative", "ignore", "class"] = field(
        default="positive", metadata={"help": "What steps rated neutral count as; class: a third class."}
    )
    after_first_error: Literal["mask", "keep"] = field(
        default="mask", metadata={"help": "mask: no targets after the first wrong step; keep: train on all labels."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.policy = LabelPolicy(self.neutral, self.after_first_error)

    @property
    def classifies(self) -> bool:
        return self.head == "classification"

    def spec(self, tokenizer: PreTrainedTokenizerBase) -> VerifierSpec:
        """What the outputs will mean."""
        spec = VerifierSpec("prm", self.head, policy=self.policy, boundary=self.steps)
        if self.classifies:
            return spec
        texts = self.label_tokens or DEFAULT_LABEL_TOKENS[: spec.classes]
        return replace(spec, label_tokens=label_token_ids(tokenizer, texts, spec))


def prm(
    config: PRMConfig,
    args: VerifierArguments,
    prompts: PromptOptions = BY_CHECKPOINT,
    tracking: TrackingOptions = UNTRACKED,
) -> dict:
    """Trains a process reward model and leaves it in `args.output_dir`."""
    need, callbacks = ("steps", "labels"), [PlotReliability]
    return train_verifier(PRMTrainer, config, args, config.spec, need, prompts, read_prompt_format, tracking, callbacks)
