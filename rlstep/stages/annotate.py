"""The `annotate` stage: a page on which people label steps, after the protocol of "Let's Verify Step by Step".

`rlstep.annotation.desk` says who labels what, `rlstep.annotation.store` what survives a kill.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from rlstep.annotation.app import AnnotationServer, create_app
from rlstep.annotation.desk import Desk
from rlstep.annotation.items import read_items
from rlstep.runtime.access import ANNOTATE_TOKEN_VARIABLE, find_token
from rlstep.runtime.addresses import is_loopback
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Range, ReadBy, check
from rlstep.runtime.counted import counted
from rlstep.runtime.record import RunRecord
from rlstep.steps.boundaries import Boundary, Rule

logger = logging.getLogger(__name__)


@dataclass
class AnnotateConfig:
    data: str = field(
        metadata={
            "help": "Solutions to label (JSONL, Parquet or a folder of them), in the order in which they are shown."
        }
    )
    out: str = field(
        metadata={
            "help": "Where the labels go: one PRM800K row per finished solution (JSONL), written at once. A file from "
            "an earlier run is continued."
        }
    )
    labeller: list[str] = field(
        metadata={"help": "Names of those who label; each opens the page under their own name (?labeller=NAME)."}
    )
    overlap: Annotated[float, Range(at_least=0, at_most=1)] = field(
        default=0.0, metadata={"help": "Share of the solutions that two labellers label, to measure their agreement."}
    )
    show_reference: bool = field(default=True, metadata={"help": "Show the right final answer next to the problem."})
    boundary: Rule = field(default="line", metadata={"help": "What a step is, for solutions that have no steps yet."})
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = field(
        default=None, metadata={"help": "boundary tag: the tag that ends a step."}
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on; any but a loopback address needs a token. There is no encryption."},
    )
    port: Annotated[int, Range(at_least=0, at_most=65535)] = field(
        default=8800, metadata={"help": "Port to listen on; 0 picks a free one."}
    )
    token: str | None = field(
        default=None,
        metadata={
            "help": f"What the page must bring to see and to label. Better set as {ANNOTATE_TOKEN_VARIABLE}: a command "
            "line can be read by every user of the machine."
        },
    )

    def __post_init__(self):
        self.token = find_token(self.token, ANNOTATE_TOKEN_VARIABLE)
        check(self, self._faults())
        self.steps = Boundary(self.boundary, self.boundary_tag)

    def _faults(self) -> Iterator[str]:
        if not self.labeller or not all(name.strip() == name != "" for name in self.labeller):
            yield f"labeller is {self.labeller}; give names, without white space around them"
        if len(set(self.labeller)) < len(self.labeller):
            yield f"labeller is {self.labeller}; every name once"
        if self.overlap > 0 and len(self.labeller) < 2:
            yield f"overlap is {self.overlap:g}, but {', '.join(self.labeller)} labels alone; name another labeller"
        if not self.out.endswith(".jsonl"):
            yield f"out is {self.out}; its name must end in .jsonl"
        if Path(self.out).resolve() == Path(self.data).resolve():
            yield f"out is the path that data names, {self.data}; give another one"
        if self.token is None and not is_loopback(self.host):
            yield (
                f"host is {self.host}, which others can reach, and there is no token; set {ANNOTATE_TOKEN_VARIABLE} "
                "(`python -c 'import secrets; print(secrets.token_urlsafe())'` makes one), or leave host out"
            )


def annotate(config: AnnotateConfig) -> dict:
    """Serves the page until it is interrupted; returns counts of solutions and finished rows.

    Metrics: `solutions` to label; `finished`, rows of the file; `needed`, rows that make it complete; `left_out`,
    solutions that are not shown.

    Raises:
        UserError: nothing to label, a file of other data, a file that another server has open, a port in use.
        DataError: a malformed row.
    """
    out = Path(config.out)
    with RunRecord("annotate", settings(config), out.parent, name=out.name + ".run.json") as record:
        items, left_out = read_items(config.data, config.steps)
        for reason, count in left_out.items():
            left = counted(count, "solution is left out: it is", "solutions are left out: they are")
            logger.warning("%s: %s %s.", config.data, left, reason)
        with (
            AnnotationServer(config.host, config.port) as server,
            closing(Desk(items, out, config.labeller, config.overlap)) as desk,
        ):
            server.open(create_app(desk, config.show_reference, config.token))
            with suppress(KeyboardInterrupt):
                print(_welcome(config, server.url, len(items)), flush=True)
                server.serve_forever()
            progress = desk.progress(config.labeller[0])
        record.metrics |= {
            "solutions": len(items),
            "finished": progress.done,
            "needed": progress.needed,
            "left_out": left_out.total(),
        }
    return record.metrics


def _welcome(config: AnnotateConfig, url: str, solutions: int) -> str:
    # After the #, the token is not sent to the server with the page's address, nor written into any log.
    fragment = "" if config.token is None else f"#token={quote(config.token, safe='')}"
    pages = "\n".join(f"  {url}/?labeller={quote(name, safe='')}{fragment}" for name in config.labeller)
    return f"{counted(solutions, 'solution')} to label into {config.out} (Ctrl-C ends; nothing is lost):\n{pages}"
