"""What rollouts label steps by, and how many of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlstep.core.step_search import BinarySearch, LinearSearch, StepSearch
from rlstep.runtime.constraints import MayChange, Range, ReadBy

BY_ROLLOUTS = ReadBy("by", "monte_carlo")
STEP_BY_STEP = ReadBy("search", "linear")


@dataclass(kw_only=True)
class MonteCarloOptions:
    """Who labels, and the settings of rollouts (`rlstep.supervision.monte_carlo`)."""

    by: Literal["checker", "monte_carlo"] = field(
        default="checker",
        metadata={
            "help": "Who labels the steps: the task's exact checker, or rollouts of a policy from the end of each step "
            "(monte_carlo), which need no more than the task's check of answers."
        },
    )
    policy: Annotated[str | None, BY_ROLLOUTS] = field(
        default=None, metadata={"help": "monte_carlo: hub id or folder of the policy that goes on from the steps."}
    )
    rollouts: Annotated[int, Range(at_least=1), BY_ROLLOUTS] = field(
        default=8, metadata={"help": "monte_carlo: continuations of a step at most."}
    )
    labels: Annotated[Literal["hard", "soft"], BY_ROLLOUTS, STEP_BY_STEP] = field(
        default="hard",
        metadata={
            "help": "monte_carlo: hard: 1 where any continuation reaches the answer, and none is drawn after it; soft: "
            "the share of those that do."
        },
    )
    search: Annotated[Literal["linear", "binary"], BY_ROLLOUTS] = field(
        default="linear",
        metadata={
            "help": "monte_carlo: linear: step by step; binary: the first error by halves, which takes for granted "
            "that no step after an error can reach the answer, and every one before it can."
        },
    )
    after_first_error: Annotated[Literal["skip", "label"], BY_ROLLOUTS, STEP_BY_STEP] = field(
        default="skip",
        metadata={"help": "monte_carlo: skip: steps after the first that never reached the answer have no label."},
    )
    token_budget: Annotated[int | None, Range(at_least=1), BY_ROLLOUTS, MayChange("it ends the run alone")] = field(
        default=None,
        metadata={
            "help": "monte_carlo: no batch is begun once this many tokens are generated; solutions whose labels are "
            "not known by then have none."
        },
    )
    temperature: Annotated[float, Range(at_least=0), BY_ROLLOUTS] = field(
        default=1.0, metadata={"help": "monte_carlo: sampling temperature."}
    )
    top_p: Annotated[float, Range(above=0, at_most=1), BY_ROLLOUTS, ReadBy("temperature")] = field(
        default=1.0, metadata={"help": "monte_carlo: sample from the smallest set with this mass."}
    )
    top_k: Annotated[int, Range(at_least=0), BY_ROLLOUTS, ReadBy("temperature")] = field(
        default=0, metadata={"help": "monte_carlo: sample from the k likeliest tokens; 0 is all."}
    )
    max_new_tokens: Annotated[int, Range(at_least=1), BY_ROLLOUTS] = field(
        default=512, metadata={"help": "monte_carlo: longest continuation, in tokens."}
    )
    batch_size: Annotated[int, Range(at_least=1), BY_ROLLOUTS] = field(
        default=512, metadata={"help": "monte_carlo: continuations generated at a time."}
    )
    seed: Annotated[int, BY_ROLLOUTS] = field(default=0, metadata={"help": "monte_carlo: seed of the sampling."})
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], BY_ROLLOUTS] = field(
        default="auto", metadata={"help": "monte_carlo: the policy's weights' type; auto: that of the checkpoint."}
    )
    trust_remote_code: Annotated[bool, BY_ROLLOUTS] = field(
        default=False, metadata={"help": "monte_carlo: run the policy's model code from the hub."}
    )

    def rollout_faults(self) -> Iterator[str]:
        if self.by == "monte_carlo" and self.policy is None:
            yield "by 'monte_carlo' needs policy: the folder or hub id of a causal LM or a LoRA adapter"
        if self.temperature == 0 and self.rollouts > 1:
            yield (
                f"temperature 0 gives one continuation {self.rollouts} times over; set rollouts to 1, or temperature "
                "above 0"
            )

    def new_search(self, steps: int) -> StepSearch:
        """The search for the labels of a solution with so many steps."""
        if self.search == "binary":
            return BinarySearch(steps)
        return LinearSearch(steps, soft=self.labels == "soft", past_error=self.after_first_error == "label")
