"""The options of `rlstep evaluate`, and the names of the files that it writes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from rlstep.evaluation.domains import file_domains
from rlstep.evaluation.equal_tokens import TOKENS
from rlstep.evaluation.samples import FIELDS
from rlstep.runtime.constraints import Range, ReadBy, check
from rlstep.runtime.errors import UserError
from rlstep.runtime.tracking import PROJECT_HELP, default_project
from rlstep.steps.fields import parse_fields

DOMAINS, DOMAINS_TABLE = "domains.json", "domains.md"
TABLE_N = 100  # as in the table of Lightman et al.
OUTPUT = "best_of_n.json"
BY_PROBLEM = "by_problem.json"
PICTURE = "best_of_n.png"
EQUAL_TOKENS = "equal_tokens"  # with .json, .md and .png
TRACKED = ReadBy("report_to", "wandb", "trackio")


@dataclass
class EvaluateConfig:
    data: list[str] = field(
        metadata={
            "help": "Scored samples: a file (JSONL, Parquet), or a folder of shards. Several give a table with "
            "a row for each, unless domain says otherwise."
        }
    )
    out: str = field(
        metadata={"help": f"Folder for {OUTPUT}, {BY_PROBLEM} and {PICTURE}, or for {DOMAINS} and {DOMAINS_TABLE}."}
    )
    ns: list[int] | None = field(
        default=None,
        metadata={
            "help": "The N of best-of-N, rising; at most the number of samples of each problem. By default the powers "
            "of two up to the fewest samples of a problem."
        },
    )
    domain: str | None = field(
        default=None,
        metadata={
            "help": "Make a table by the domain that this field of a row names, one of its own or one in its extra; "
            "by default, of several files each is a domain."
        },
    )
    n: Annotated[int | None, Range(at_least=1)] = field(
        default=None, metadata={"help": f"Table by domain: the N of best-of-N, {TABLE_N} by default."}
    )
    scores_of: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the scores to evaluate; by default every score in the file."},
    )
    prm: str | None = field(
        default=None,
        metadata={
            "help": "Name of the PRM's scores, whose curve is then called prm; by default prm. With prm "
            "or orm given, other scores are left out unless scores_of names them."
        },
    )
    orm: str | None = field(
        default=None, metadata={"help": "Name of the ORM's scores, whose curve is called orm; by default orm."}
    )
    scores: Literal["probabilities", "logits"] = field(
        default="probabilities", metadata={"help": "What the scores are; the sigmoid is applied to logits first."}
    )
    aggregate: Literal["product", "minimum", "last", "mean"] = field(
        default="product", metadata={"help": "How step scores become the solution's; the ORM's is always its last."}
    )
    fields: list[str] | None = field(
        default=None,
        metadata={"help": "The file's field names, if they differ: problem_id=id,answer=pred. The fields are "
                  + ", ".join(FIELDS) + "."},
    )  # fmt: skip
    process_sets: bool = field(
        default=False,
        metadata={
            "help": "Measure how well a problem's samples judge each other's steps without a verifier, by the right "
            "answers among those that begin alike, beside every verifier on the same steps. The rows need completion, "
            "steps as spans, and labels."
        },
    )
    search_data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files that `rlstep sample --search` wrote for the same problems: compare them with best-of-N at "
            "equal generated tokens."
        },
    )
    trials: Annotated[int, Range(at_least=1)] = field(
        default=400, metadata={"help": "Random draws per problem and N for the votes."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of these draws."})
    report_to: Literal["none", "wandb", "trackio"] = field(
        default="none", metadata={"help": "Where to log the curves as well."}
    )
    run_name: Annotated[str | None, TRACKED] = field(
        default=None, metadata={"help": "wandb, trackio: the run's name; by default that of the folder out."}
    )
    project: Annotated[str, TRACKED] = field(default_factory=default_project, metadata={"help": PROJECT_HELP})

    def __post_init__(self):
        for name in ("data", "search_data"):
            if isinstance(value := getattr(self, name), str):  # one file, from Python
                setattr(self, name, [value])
        check(self, self._faults())

    @property
    def by_domain(self) -> bool:
        """Whether there is a table by domain, rather than curves."""
        return len(self.data) > 1 or self.domain is not None

    def _faults(self) -> Iterator[str]:
        yield from self._domain_faults()
        if self.ns is not None and (not self.ns or self.ns[0] < 1 or any(a >= b for a, b in pairwise(self.ns))):
            yield f"ns is {self.ns}; give whole numbers from 1 on, rising, for example 1 2 4 8"
        for role in ("prm", "orm"):
            if (name := getattr(self, role)) not in (None, role) and role in (self.scores_of or ()):
                yield f"scores_of has {role}, and {role} is '{name}': both curves would be called {role}; leave one out"
        try:
            if TOKENS in parse_fields(self.fields, FIELDS) and self.search_data is None:
                yield f"fields names {TOKENS}, which is read where searches are compared; give search_data"
        except UserError as error:
            yield str(error)

    def _domain_faults(self) -> Iterator[str]:
        if not self.data:
            yield "data is empty; name at least one file"
        if self.by_domain and self.ns is not None:
            yield "ns is of one file's curves, and a table by domain has one N; give n, and leave ns at null"
        if not self.by_domain and self.n is not None:
            yield f"n is {self.n}, which a table by domain reads: of several files, or with domain; for curves give ns"
        if self.process_sets and self.by_domain:
            yield "process_sets are measured on one file, without domain; give one, or leave it out"
        if self.search_data is not None and self.by_domain:
            yield "search_data is compared with the samples of one file, without domain; give one, or leave it out"
        if self.search_data is not None and len(set(self.search_data)) < max(1, len(self.search_data)):
            yield f"search_data is {self.search_data}; name at least one file, and none twice"
        if len(self.data) > 1 and self.domain is None:
            try:
                file_domains(self.data)
            except UserError as error:
                yield str(error)
