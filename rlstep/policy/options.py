"""`PPOOptions`: what `rlstep ppo` trains on and its rewards, in addition to the trainer's own settings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlstep.policy.rewards.own import GROUP, Pays
from rlstep.policy.rewards.task_rewards import PROCESS, SOURCES
from rlstep.runtime.constraints import GoesWith, Idle, Range, ReadBy, changed, check, raise_faults
from rlstep.runtime.conversion import as_mapping
from rlstep.runtime.plugins import name_faults
from rlstep.runtime.trainer_settings import ASKED, MEASURED, PLACED, SHOWN
from rlstep.steps.boundaries import Boundary, Rule
from rlstep.steps.problems import CONFIG_NAME_HELP, FIELDS_HELP, PROBLEMS_HELP, SPLIT_HELP, fields_faults
from rlstep.tasks import GRADER_HELP, PATTERN_HELP, TASK_HELP, Grader, task_faults
from rlstep.verifiers.serving.addresses import is_url

VERIFIERS = ("prm", "orm", "implicit")
# Settings of step scores and their credit; they would do nothing with sources that have no step scores.
PROCESS_ONLY = ("process_weight", "credit", "credit_parameters", "first_error_threshold")
# Settings of the models that score.
VERIFIERS_ONLY = ("score_cache", "share_base")


@dataclass
class PPOOptions:
    """What a policy is trained on, and its rewards.

    Raises:
        UserError: settings out of range, missing or without effect, all of them in one message.
    """

    problems: str = field(metadata={"help": f"To train on. {PROBLEMS_HELP}"})
    fields: list[str] | None = field(default=None, metadata={"help": FIELDS_HELP})
    split: str | None = field(default=None, metadata={"help": f"problems: {SPLIT_HELP}"})
    config_name: str | None = field(default=None, metadata={"help": f"problems: {CONFIG_NAME_HELP}"})
    eval_problems: Annotated[str | None, GoesWith("eval_strategy", "eval_on_start"), MEASURED] = field(
        default=None, metadata={"help": "Problems to evaluate on, as `problems`."}
    )
    eval_fields: Annotated[list[str] | None, ReadBy("eval_problems"), MEASURED] = field(
        default=None, metadata={"help": "As `fields`, for eval_problems."}
    )
    eval_split: Annotated[str | None, ReadBy("eval_problems"), MEASURED] = field(
        default=None, metadata={"help": "As `split`, for eval_problems."}
    )
    eval_config_name: Annotated[str | None, ReadBy("eval_problems"), MEASURED] = field(
        default=None, metadata={"help": "As `config_name`, for eval_problems."}
    )
    merge_base: bool = field(
        default=False,
        metadata={"help": "model_name_or_path is a LoRA adapter: merge it into its base first, and start from that."},
    )
    task: str = field(default="arithmetic", metadata={"help": f"Whose checker verifies answers and steps. {TASK_HELP}"})
    grader: Annotated[Grader, ReadBy("task", "answers")] = field(default="math", metadata={"help": GRADER_HELP})
    answer_pattern: Annotated[str | None, ReadBy("grader", "regex")] = field(
        default=None, metadata={"help": PATTERN_HELP}
    )
    task_path: Annotated[str | None, Idle("the problems come from `problems`, and a checker reads no data")] = field(
        default=None, metadata={"help": "Not used here; `rlstep prepare` has it."}
    )
    reward: list[str] = field(
        default_factory=lambda: ["outcome"],
        metadata={
            "help": "Sources of reward, one or several: prm (a PRM's step scores), checker (the task's exact step "
            "labels), implicit (an implicit PRM's step rewards), outcome (the verified answer), orm (an ORM's value), "
            "or your own function as package.module:function."
        },
    )
    prm: str | None = field(
        default=None,
        metadata={
            "help": "reward prm, and keep_samples: folder or hub id, http://HOST:PORT of `rlstep serve`, or "
            "vllm+http://HOST:PORT/NAME of `vllm serve`."
        },
    )
    orm: str | None = field(default=None, metadata={"help": "reward orm: folder or hub id, or its server."})
    implicit: str | None = field(default=None, metadata={"help": "reward implicit: folder or hub id."})
    source_weights: dict | str | None = field(
        default=None, metadata={"help": "Weights of single sources, as a mapping; 1 each by default."}
    )
    process_weight: Annotated[float, Range()] = field(default=1.0, metadata={"help": "Factor of the step rewards."})
    outcome_weight: Annotated[float, Range()] = field(
        default=1.0, metadata={"help": "Factor of the outcome's rewards."}
    )
    credit: Literal["sum", "log", "clip", "delta", "clip_delta", "progress", "min_form", "coherence", "first_error"] = (
        field(
            default="min_form",
            metadata={
                "help": "How step scores become step rewards. min_form: the solution's lowest 2p - 1, charged to the "
                "steps that caused it; sum: each step's 2p - 1, which padding with easy steps raises; first_error: a "
                "wrong solution keeps credit for its steps before the first error, and no more of the scores is read."
            },
        )
    )
    credit_parameters: dict | str | None = field(
        default=None, metadata={"help": "The credit scheme's parameters, as a mapping."}
    )
    first_error_threshold: Annotated[float | None, Range(at_least=0, at_most=1)] = field(
        default=None,
        metadata={
            "help": "No rewards after the first step scored below this probability. credit first_error needs it."
        },
    )
    missing_answer_reward: Annotated[float, Range()] = field(
        default=0.0, metadata={"help": "Outcome reward of a completion without an answer; below 0 it is a penalty."}
    )
    boundary: Rule | None = field(
        default=None,
        metadata={
            "help": "What a step is. By default what the PRM was taught, and lines without one; of rlstep's own PRMs "
            "nothing else can be asked."
        },
    )
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = field(
        default=None, metadata={"help": "boundary tag: the tag that ends a step."}
    )
    score_cache: Annotated[int, Range(at_least=0), PLACED] = field(
        default=20_000, metadata={"help": "Completions whose scores each verifier caches, as they may repeat."}
    )
    share_base: bool = field(
        default=True,
        metadata={"help": "A PRM or ORM kept as an adapter on the policy's own base shares the base's weights."},
    )
    completion_table_every: Annotated[int, Range(at_least=0), SHOWN] = field(
        default=0,
        metadata={
            "help": "Updates between pages that show a few completions coloured by step score, and their rows in "
            "completions.jsonl, which the report shows; 0: none."
        },
    )
    resume: Annotated[bool, ASKED] = field(
        default=False,
        metadata={
            "help": "Continue from the newest checkpoint in output_dir, if there is one, with the settings it was "
            "made with. max_steps and num_train_epochs may be raised; the learning rate continues at the value of the "
            "longer schedule."
        },
    )

    def __post_init__(self):
        self.source_weights = as_mapping("source_weights", self.source_weights, '{"prm": 0.5}')
        self.credit_parameters = as_mapping("credit_parameters", self.credit_parameters, '{"eta": 0.7}')
        self._own_pays: dict[str, Pays] = {}
        check(self, [*self._problem_faults(), *self._source_faults(), *self._idle()])
        self.steps = None if self.boundary is None else Boundary(self.boundary, self.boundary_tag)

    @property
    def grading(self) -> dict[str, str | None]:
        """How the task `answers` grades."""
        return {"grader": self.grader, "pattern": self.answer_pattern}

    @property
    def sources(self) -> dict[str, float]:
        """The sources and their weights; a PRM that pays nothing, and only chooses samples, has weight 0."""
        chooses = {"prm": 0.0} if self.prm is not None else {}
        return chooses | {name: float((self.source_weights or {}).get(name, 1.0)) for name in self.reward}

    @property
    def pays_steps(self) -> bool:
        """Whether any source pays for steps."""
        return self.process_weight != 0 and any(self._pays(n, "steps") and weight for n, weight in self.sources.items())

    @property
    def own(self) -> list[str]:
        """The sources that are a user's own."""
        return [name for name in self.reward if name not in SOURCES]

    @property
    def pays_unverified_outcomes(self) -> bool:
        """Whether an outcome is paid by what may err, or be gamed: an ORM, or a reward of the user's own."""
        return "orm" in self.reward or any(self._pays(name, "outcome") for name in self.own)

    def resolve_own(self, pays: dict[str, Pays]) -> None:
        """Takes what the user's own sources pay for; until then each counts as paying for both.

        Raises:
            UserError: a setting would do nothing, now that this is known.
        """
        self._own_pays = pays
        raise_faults(self._idle())

    def _pays(self, name: str, what: Pays) -> bool:
        if name in SOURCES:
            return (name in PROCESS) == (what == "steps")
        return self._own_pays.get(name, what) == what

    def _problem_faults(self) -> Iterator[str]:
        yield from fields_faults(self.fields)
        yield from fields_faults(self.eval_fields)
        yield from task_faults(self.task, self.grader, self.answer_pattern)

    def _source_faults(self) -> Iterator[str]:
        if len(set(self.reward)) < len(self.reward) or not self.reward:
            yield f"reward is {self.reward}; name one source or several, each once"
        yield from name_faults("reward", self.reward, SOURCES, GROUP)
        for name in VERIFIERS:
            if name in self.reward and getattr(self, name) is None:
                yield f"reward '{name}' needs {name}: its folder or hub id"
            # A PRM may also choose samples, which is a setting of the trainer.
            if name != "prm" and name not in self.reward and getattr(self, name) is not None:
                yield f"{name} is given, but reward is {self.reward}; add it there, or leave it out"
        for name, weight in (self.source_weights or {}).items():
            if name not in self.reward:
                yield f"source_weights has '{name}', which is not a source in reward {self.reward}"
            elif isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                yield f"source_weights: {name} is {weight!r}; give a finite number"

    def _idle(self) -> Iterator[str]:
        """Settings that these sources of reward would not read."""
        weights = self.source_weights or {}
        paying = [name for name in self.reward if weights.get(name, 1) != 0]
        process = [name for name in paying if self._pays(name, "steps")]
        outcome = [name for name in paying if self._pays(name, "outcome")]
        for name in changed(self, PROCESS_ONLY):
            if not process:
                yield f"reward {self.reward} pays nothing for steps, so {name} would do nothing; leave it out"
            elif not {"prm", "checker"} & set(process) and name != "process_weight":
                who = "an implicit PRM gives" if process == ["implicit"] else f"{' and '.join(process)} give"
                yield f"{who} rewards, not scores, so {name} would do nothing; leave it out"
        if not outcome and self.outcome_weight != 1 and not self.missing_answer_reward:
            yield f"reward {self.reward} has no outcome reward, so outcome_weight would do nothing; leave it out"
        if (not process or self.process_weight == 0) and (not outcome or self.outcome_weight == 0):
            yield f"reward {self.reward} with these weights leaves nothing to learn from"
        for name in changed(self, VERIFIERS_ONLY):
            if all(getattr(self, verifier) is None for verifier in VERIFIERS):
                yield f"reward {self.reward} uses no model, so {name} would do nothing; leave it out"
        local = [path for path in (self.prm, self.orm) if path is not None and not is_url(path)]
        if not self.share_base and not local and (self.prm or self.orm):
            yield "share_base would do nothing, as the PRM and the ORM are on servers; leave it at true"
