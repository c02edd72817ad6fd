"""Who labels steps, and the settings of each: rollouts of a policy, a teacher, a judge, two labellers' consensus."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlstep.core.step_search import BinarySearch, LinearSearch, StepSearch
from rlstep.runtime.addresses import checked_address
from rlstep.runtime.constraints import MayChange, Range, ReadBy, changed
from rlstep.runtime.conversion import as_mapping
from rlstep.runtime.errors import UserError
from rlstep.supervision.chat import KEY_VARIABLE, PATH
from rlstep.verifiers.serving.addresses import is_pooling_address, is_url

By = Literal["checker", "monte_carlo", "teacher", "judge", "consensus"]

BY_ROLLOUTS = ReadBy("by", "monte_carlo")
BY_TEACHER = ReadBy("by", "teacher")
BY_JUDGE = ReadBy("by", "judge")
BY_CONSENSUS = ReadBy("by", "consensus")
GENERATED = ReadBy("by", "monte_carlo", "judge")
LOADED = ReadBy("by", "monte_carlo", "teacher", "judge")
AT_A_URL = ReadBy("judge_url")
STEP_BY_STEP = ReadBy("search", "linear")

# What a request to a judge has that no setting replaces: its verdict would be of something else, or could not be read.
OF_THE_REQUEST = {"model", "messages", "n", "stream"}
# Settings by the names of their fields in a request.
SENT_AS = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p"}


@dataclass(kw_only=True)
class GenerationOptions:
    """Who labels, and how a policy or a judge generates."""

    by: By = field(
        default="checker",
        metadata={
            "help": "Who labels the steps: the task's exact checker; rollouts of a policy from the end of each step "
            "(monte_carlo); a PRM (teacher); a chat model that is asked for the first wrong step (judge); or two files "
            "of labels, of which what agrees is kept (consensus)."
        },
    )
    token_budget: Annotated[int | None, Range(at_least=1), GENERATED, MayChange("it ends the run alone")] = field(
        default=None,
        metadata={
            "help": "monte_carlo, judge: nothing new is begun once this many tokens are spent: those generated, and of "
            "a judge those read as well. Solutions whose labels are not known by then have none."
        },
    )
    temperature: Annotated[float, Range(at_least=0), GENERATED] = field(
        default=1.0, metadata={"help": "monte_carlo, judge: sampling temperature."}
    )
    top_p: Annotated[float, Range(above=0, at_most=1), GENERATED, ReadBy("temperature")] = field(
        default=1.0, metadata={"help": "monte_carlo, judge: sample from the smallest set with this mass."}
    )
    top_k: Annotated[int, Range(at_least=0), GENERATED, ReadBy("temperature")] = field(
        default=0, metadata={"help": "monte_carlo, judge: sample from the k likeliest tokens; 0 is all."}
    )
    max_new_tokens: Annotated[int, Range(at_least=1), GENERATED] = field(
        default=512, metadata={"help": "monte_carlo, judge: longest continuation or answer, in tokens."}
    )
    batch_size: Annotated[int, Range(at_least=1), GENERATED] = field(
        default=512, metadata={"help": "monte_carlo, judge: texts generated at a time."}
    )
    seed: Annotated[int, GENERATED] = field(default=0, metadata={"help": "monte_carlo, judge: seed of the sampling."})
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], LOADED] = field(
        default="auto", metadata={"help": "The weights' type of the model that labels; auto: that of the checkpoint."}
    )
    trust_remote_code: Annotated[bool, LOADED] = field(
        default=False, metadata={"help": "Run code from the hub of the model that labels."}
    )


@dataclass(kw_only=True)
class CheckerOptions:
    """The settings of the exact checker."""

    flip: Annotated[float, Range(at_least=0, at_most=1), ReadBy("by", "checker")] = field(
        default=0.0,
        metadata={
            "help": "checker: the share of step labels that are flipped, to study verifiers of a labeller that errs; "
            "the same ones in every run. Answers are graded as they are."
        },
    )


@dataclass(kw_only=True)
class MonteCarloOptions(GenerationOptions):
    """The settings of rollouts (`rlstep.supervision.monte_carlo`)."""

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

    def rollout_faults(self) -> Iterator[str]:
        if self.by == "monte_carlo" and self.policy is None:
            yield "by 'monte_carlo' needs policy: the folder or hub id of a causal LM or a LoRA adapter"
        if self.temperature == 0 and self.by != "judge" and self.rollouts > 1:
            yield (
                f"temperature 0 gives one continuation {self.rollouts} times over; set rollouts to 1, or temperature "
                "above 0"
            )

    def new_search(self, steps: int) -> StepSearch:
        """The search for the labels of a solution with this number of steps."""
        if self.search == "binary":
            return BinarySearch(steps)
        return LinearSearch(steps, soft=self.labels == "soft", past_error=self.after_first_error == "label")


@dataclass(kw_only=True)
class TeacherOptions(GenerationOptions):
    """The settings of a teacher (`rlstep.supervision.teacher`)."""

    teacher: Annotated[str | None, BY_TEACHER] = field(
        default=None, metadata={"help": "teacher: folder, hub id or address of the PRM whose verdicts are the labels."}
    )
    teacher_score: Annotated[str | None, BY_TEACHER] = field(
        default=None,
        metadata={"help": "teacher: the name of its scores in the file, which are taken in place of scoring again."},
    )
    p_negative: Annotated[float, Range(at_least=0, below=1), BY_TEACHER] = field(
        default=0.2,
        metadata={
            "help": "teacher: a step is wrong where the probability of that is above this; a PRM of two classes gives "
            "it as 1 - p."
        },
    )
    outcome_by: Annotated[Literal["answer", "teacher"], BY_TEACHER] = field(
        default="answer",
        metadata={
            "help": "teacher: what `correct` says, which an ORM is trained on: that the answer is right, or that it "
            "states one and the teacher passes every step."
        },
    )

    def teacher_faults(self) -> Iterator[str]:
        if self.by != "teacher":
            return
        if (self.teacher is None) == (self.teacher_score is None):
            yield "by 'teacher' needs teacher, the path of a PRM, or teacher_score, its scores in the file, one of them"
        if self.teacher_score is not None and (names := changed(self, ("dtype", "trust_remote_code"))):
            yield f"teacher_score reads the file, so {', '.join(names)} would do nothing; leave it out"
        # A vLLM server holds the weights alone: the tokenizer, which may be of such code, is loaded here.
        remote = self.teacher is not None and is_url(self.teacher) and not is_pooling_address(self.teacher)
        if remote and (names := changed(self, ("dtype", "trust_remote_code"))):
            yield f"teacher is a server's address, so {', '.join(names)} would do nothing; leave it out"


@dataclass(kw_only=True)
class JudgeOptions(GenerationOptions):
    """The settings of a judge (`rlstep.supervision.judge`)."""

    judge: Annotated[str | None, BY_JUDGE] = field(
        default=None, metadata={"help": "judge: folder or hub id of a chat model that judges in this process."}
    )
    judge_url: Annotated[str | None, BY_JUDGE] = field(
        default=None,
        metadata={
            "help": "judge: address of an OpenAI-compatible server, mostly ending in /v1. Its key comes from the "
            f"environment alone: {KEY_VARIABLE}."
        },
    )
    judge_model: Annotated[str | None, BY_JUDGE, AT_A_URL] = field(
        default=None, metadata={"help": "judge_url: the model's name there."}
    )
    votes: Annotated[int, Range(at_least=1), BY_JUDGE] = field(
        default=3,
        metadata={
            "help": "judge: answers at most. More than half of them have to name the same step, and none is asked for "
            "once they do or no longer can."
        },
    )
    judge_parameters: Annotated[dict | str | None, BY_JUDGE, AT_A_URL] = field(
        default=None,
        metadata={
            "help": 'judge_url: further fields of each request, as {"seed": 1}; null takes one out: {"top_p": null}.'
        },
    )
    judge_concurrency: Annotated[
        int, Range(at_least=1), BY_JUDGE, AT_A_URL, MayChange("solutions are judged one by one")
    ] = field(default=8, metadata={"help": "judge_url: solutions that are judged at a time."})
    judge_request_timeout: Annotated[float, Range(above=0), BY_JUDGE, AT_A_URL, MayChange("it changes no answer")] = (
        field(default=600.0, metadata={"help": "judge_url: seconds to wait for the answers to one request."})
    )
    judge_retry_for: Annotated[float, Range(at_least=0), BY_JUDGE, AT_A_URL, MayChange("it changes no answer")] = field(
        default=300.0,
        metadata={
            "help": "judge_url: seconds in which a request is sent again while the server is down or overloaded; 0 is "
            "not at all."
        },
    )

    def judge_faults(self) -> Iterator[str]:
        self.judge_parameters = as_mapping("judge_parameters", self.judge_parameters, '{"seed": 1}')
        if self.by != "judge":
            return
        if (self.judge is None) == (self.judge_url is None):
            yield "by 'judge' needs judge, the path of a chat model, or judge_url, the address of a server, one of them"
        if self.judge_url is not None and self.judge_model is None:
            yield "judge_url needs judge_model: the model's name at that server"
        local = ("top_k", "batch_size", "seed", "dtype", "trust_remote_code")
        if self.judge_url is not None and (names := changed(self, local)):
            yield f"judge_url is a server's, so {', '.join(names)} would do nothing; see judge_parameters"
        if (self.judge_parameters or {}).get("temperature", self.temperature) == 0 and self.votes > 1:
            yield f"temperature 0 gives one answer {self.votes} times over; set votes to 1, or temperature above 0"
        yield from self._parameter_faults()
        if self.judge_url is not None:
            yield from self._address_faults(self.judge_url)

    def _parameter_faults(self) -> Iterator[str]:
        """Fields of a request that are not the user's, and settings that they would replace."""
        given = self.judge_parameters or {}
        if own := sorted(given.keys() & OF_THE_REQUEST):
            yield f"judge_parameters has {', '.join(own)}, which every request has from rlstep; leave it out"
        if names := [name for name, field in SENT_AS.items() if field in given and changed(self, [name])]:
            yield f"judge_parameters replaces {', '.join(names)}, which is set as well; set it once"

    def _address_faults(self, url: str) -> Iterator[str]:
        try:
            address, _ = checked_address(url, "server")
            if address.endswith(PATH):
                yield f"judge_url is {url!r}; leave {PATH} out, it is added"
        except UserError as error:
            yield f"judge_url: {error}"


@dataclass(kw_only=True)
class ConsensusOptions:
    """The settings of consensus (`rlstep.supervision.consensus`)."""

    other: Annotated[str | None, BY_CONSENSUS] = field(
        default=None, metadata={"help": "consensus: the same solutions with the labels of another labeller."}
    )
    disagreements: Annotated[str | None, BY_CONSENSUS] = field(
        default=None,
        metadata={
            "help": "consensus: a file (JSONL) for what is not kept, as `data` has it; by default it is dropped."
        },
    )

    def consensus_faults(self) -> Iterator[str]:
        if self.by == "consensus" and self.other is None:
            yield "by 'consensus' needs other: a file of the same solutions with another labeller's labels"
