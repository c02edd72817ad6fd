"""The `orm` stage: from solutions with outcome labels to an outcome reward model, or to an implicit PRM."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from transformers import PreTrainedTokenizerBase

from rlstep.policy.prompt_files import read_prompt_format
from rlstep.report.reliability import PlotReliability
from rlstep.runtime.constraints import Range, ReadBy
from rlstep.runtime.tracking import UNTRACKED, TrackingOptions
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.verifiers.spec import ImplicitSpec, VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.implicit_trainer import ImplicitTrainer
from rlstep.verifiers.training.options import VerifierConfig
from rlstep.verifiers.training.run import train_verifier
from rlstep.verifiers.training.trainer import ORMTrainer


@dataclass
class ORMConfig(VerifierConfig):
    loss: Literal["token", "pairwise", "implicit"] = field(
        default="token",
        metadata={
            "help": "token: cross-entropy at every token; pairwise: right above wrong at the last one; implicit: an"
            " implicit PRM, the log-ratio to the starting model."
        },
    )
    beta: Annotated[float | None, Range(above=0), ReadBy("loss", "implicit")] = field(
        default=None, metadata={"help": "loss implicit: factor of the log-ratio; default 0.05."}
    )

    def _faults(self) -> Iterator[str]:
        if not self.merge_adapter and self.loss == "implicit":
            yield (
                "merge_adapter: false is not for loss: implicit, whose checkpoint is two whole models, the trained one "
                "and its reference; leave it out"
            )

    @property
    def classifies(self) -> bool:
        return self.loss != "implicit"

    def spec(self, tokenizer: PreTrainedTokenizerBase) -> VerifierSpec:
        """What the outputs will mean."""
        if self.loss == "implicit":
            return ImplicitSpec(boundary=self.steps, **({} if self.beta is None else {"beta": self.beta}))
        return VerifierSpec("orm", boundary=self.steps)


def orm(
    config: ORMConfig,
    args: VerifierArguments,
    prompts: PromptOptions = BY_CHECKPOINT,
    tracking: TrackingOptions = UNTRACKED,
) -> dict:
    """Trains an outcome reward model, or an implicit PRM, and leaves it in `args.output_dir`."""
    trainer_class, options = (ImplicitTrainer, {}) if config.loss == "implicit" else (ORMTrainer, {"loss": config.loss})
    need, callbacks = ("correct",), [PlotReliability]
    return train_verifier(
        trainer_class, config, args, config.spec, need, prompts, read_prompt_format, tracking, callbacks, **options
    )
