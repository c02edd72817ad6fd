"""`PPOOptions`: what `rlstep ppo` trains on and what pays, beside the trainer's own settings."""

import json
import math
from dataclasses import dataclass, field
from typing import Literal

from rlstep.policy.rewards.task_rewards import PROCESS, SOURCES
from rlstep.runtime.errors import UserError

VERIFIERS = ("prm", "orm", "implicit")
# Settings of step scores and of their credit; with sources that have none they would do nothing.
PROCESS_ONLY = ("process_weight", "credit", "credit_parameters", "first_error_threshold")


@dataclass
class PPOOptions:
    problems: str = field(metadata={"help": "Problems to train on (JSONL)."})
    eval_problems: str | None = field(default=None, metadata={"help": "Problems to evaluate on (JSONL)."})
    task: Literal["arithmetic", "increasing", "gsm8k", "math"] = field(
        default="arithmetic", metadata={"help": "Whose checker verifies answers and steps."}
    )
    task_path: str | None = field(default=None, metadata={"help": "gsm8k, math: a folder, a JSONL file or a hub id."})
    reward: list[str] = field(
        default_factory=lambda: ["outcome"],
        metadata={
            "help": "Sources of reward, one or several: prm (a PRM's step scores), checker (the task's exact step "
            "labels), implicit (an implicit PRM's step rewards), outcome (the verified answer), orm (an ORM's value)."
        },
    )
    prm: str | None = field(
        default=None, metadata={"help": "reward prm: folder or hub id, or http://HOST:PORT of `rlstep serve`."}
    )
    orm: str | None = field(default=None, metadata={"help": "reward orm: folder or hub id, or its server."})
    implicit: str | None = field(default=None, metadata={"help": "reward implicit: folder or hub id."})
    source_weights: dict | str | None = field(
        default=None, metadata={"help": "Weights of single sources, as a mapping; 1 each by default."}
    )
    process_weight: float = field(default=1.0, metadata={"help": "Factor of the step rewards."})
    outcome_weight: float = field(default=1.0, metadata={"help": "Factor of the outcome's rewards."})
    credit: Literal["sum", "log", "clip", "delta", "clip_delta", "progress", "min_form"] = field(
        default="min_form",
        metadata={
            "help": "How step rewards follow from step scores. min_form: the solution's lowest 2p - 1, charged to the "
            "steps that caused it; sum: each step's 2p - 1, which padding with easy steps raises."
        },
    )
    credit_parameters: dict | str | None = field(
        default=None, metadata={"help": "The credit scheme's parameters, as a mapping."}
    )
    first_error_threshold: float | None = field(
        default=None, metadata={"help": "Pay nothing after the first step scored below this."}
    )
    missing_answer_reward: float = field(
        default=0.0, metadata={"help": "Outcome of a completion without an answer; below 0 it costs something."}
    )
    score_cache: int = field(
        default=20_000, metadata={"help": "Completions whose scores each verifier keeps, for when they come again."}
    )
    share_base: bool = field(
        default=True,
        metadata={"help": "A PRM or ORM kept as an adapter on the policy's own base shares the base's weights."},
    )
    completion_table_every: int = field(
        default=0,
        metadata={"help": "Updates between pages that show a few completions coloured by step score; 0: none."},
    )
    resume: bool = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir, where there is one."}
    )

    def __post_init__(self):
        self.source_weights = _mapping("source_weights", self.source_weights, '{"prm": 0.5}')
        self.credit_parameters = _mapping("credit_parameters", self.credit_parameters, '{"eta": 0.7}')
        faults = [*self._source_faults(), *self._idle()]
        if faults:
            raise UserError("; ".join(faults) + ".")

    @property
    def sources(self) -> dict[str, float]:
        return {name: float((self.source_weights or {}).get(name, 1.0)) for name in self.reward}

    @property
    def pays_steps(self) -> bool:
        """Whether any source pays for steps."""
        return self.process_weight != 0 and any(n in PROCESS and weight for n, weight in self.sources.items())

    def _source_faults(self) -> list[str]:
        faults = [f"no reward source '{n}'; choose among {', '.join(SOURCES)}" for n in self.reward if n not in SOURCES]
        if len(set(self.reward)) < len(self.reward) or not self.reward:
            faults.append(f"reward is {self.reward}; name one source or several, each once")
        for name in VERIFIERS:
            if name in self.reward and getattr(self, name) is None:
                faults.append(f"reward '{name}' needs {name}: its folder or hub id")
            if name not in self.reward and getattr(self, name) is not None:
                faults.append(f"{name} is given, but reward is {self.reward}; add it there, or leave it out")
        for name, weight in (self.source_weights or {}).items():
            if name not in self.reward:
                faults.append(f"source_weights has '{name}', which is no source of reward {self.reward}")
            elif isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                faults.append(f"source_weights: {name} is {weight!r}; give a finite number")
        for name in ("process_weight", "outcome_weight", "missing_answer_reward"):
            if not math.isfinite(getattr(self, name)):
                faults.append(f"{name} is {getattr(self, name)}; give a finite number")
        if self.first_error_threshold is not None and not 0 <= self.first_error_threshold <= 1:
            faults.append(f"first_error_threshold is {self.first_error_threshold}; it is a probability from 0 to 1")
        if self.score_cache < 0:
            faults.append(f"score_cache is {self.score_cache}; it must be 0 or more")
        if self.completion_table_every < 0:
            faults.append(f"completion_table_every is {self.completion_table_every}; it must be 0 or more")
        return faults

    def _idle(self) -> list[str]:
        """Settings that nothing would read."""
        weights = self.source_weights or {}
        paying = [name for name in self.reward if weights.get(name, 1) != 0]
        process = [name for name in paying if name in PROCESS]
        outcome = [name for name in paying if name not in PROCESS]
        idle = []
        for name in PROCESS_ONLY:
            changed = getattr(self, name) != self.__dataclass_fields__[name].default
            if changed and not process:
                idle.append(f"reward {self.reward} pays nothing for steps, so {name} would do nothing; leave it out")
            elif changed and process == ["implicit"] and name != "process_weight":
                idle.append(f"an implicit PRM gives rewards, not scores, so {name} would do nothing; leave it out")
        if not outcome and self.outcome_weight != 1 and not self.missing_answer_reward:
            idle.append(f"reward {self.reward} pays no outcome, so outcome_weight would do nothing; leave it out")
        if (not process or self.process_weight == 0) and (not outcome or self.outcome_weight == 0):
            idle.append(f"reward {self.reward} with these weights leaves nothing to learn from")
        return idle


def _mapping(name: str, value, example: str) -> dict | None:
    """A mapping, given as one in a recipe or as JSON on the command line."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError:
            found = [value]
    if not isinstance(found, dict | None):
        raise UserError(f"{name} is {value}; give a mapping, on the command line as JSON: '{example}'.")
    return found
