"""The `serve` stage: a verifier behind HTTP, for a policy that is trained in another process or on another machine.

`rlstep.verifiers.serving.app` describes the protocol.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.access import TOKEN_VARIABLE, find_token
from rlstep.runtime.addresses import is_loopback
from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Choices, Range, ReadBy, check
from rlstep.runtime.packages import check_packages
from rlstep.runtime.record import digest
from rlstep.stages.score import as_in_score, model_faults
from rlstep.steps.boundaries import Boundary, Rule
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.verifiers.published import FAMILIES
from rlstep.verifiers.serving.addresses import checkpoint_of
from rlstep.verifiers.serving.server import Limits, ScoreServer
from rlstep.verifiers.serving.worker import Loading, WorkerProcess

logger = logging.getLogger(__name__)

LOADING = ("dtype", "batch_tokens", "kind", "layout", "neutral", "packing", "attn_implementation", "trust_remote_code")


@dataclass
class ServeConfig:
    model: str = as_in_score("model")
    host: str = field(
        default="127.0.0.1",
        metadata={
            "help": "Address to listen on; 0.0.0.0 for all. There is no encryption, and without a token there is no "
            "authentication: anyone who can reach it can use it."
        },
    )
    port: Annotated[int, Range(at_least=0, at_most=65535)] = field(
        default=8000, metadata={"help": "Port to listen on; 0 picks a free one."}
    )
    token: str | None = field(
        default=None,
        metadata={
            "help": f"What requests must send as their bearer token. Better set as {TOKEN_VARIABLE}, here and where "
            "the clients run: a command line can be read by every user of the machine."
        },
    )
    name: str | None = field(
        default=None,
        metadata={"help": "The verifier's name for clients; the folder's name or the hub id by default."},
    )
    max_request_mb: Annotated[int, Range(at_least=1)] = field(
        default=64, metadata={"help": "Largest request, in MiB; clients split theirs to fit."}
    )
    workers: Annotated[int, Range(at_least=1)] = field(
        default=1,
        metadata={"help": "Processes that score, each with a copy of the model; GPUs are given to them in turn."},
    )
    max_queue: Annotated[int, Range(at_least=1)] = field(
        default=65536,
        metadata={
            "help": "Rows that may wait. A request that would make them more is refused with status 429, and its "
            "client asks again; one of more rows is taken if nothing else waits."
        },
    )
    batch_rows: Annotated[int, Range(at_least=1)] = field(
        default=1024,
        metadata={
            "help": "Rows that a worker scores together, in forward passes of batch_tokens; a longer request is split."
        },
    )
    batch_across_clients: bool = field(
        default=True,
        metadata={
            "help": "Rows of several requests may be scored together. With false the last digits of scores do not "
            "depend on what others ask."
        },
    )
    stop_seconds: Annotated[float, Range(at_least=0)] = field(
        default=30.0,
        metadata={"help": "How long requests in the queue are still answered after Ctrl-C or SIGTERM, in seconds."},
    )
    batch_tokens: Annotated[int, Range(at_least=1)] = as_in_score("batch_tokens")
    kind: Literal["prm", "orm"] | None = as_in_score("kind")
    layout: Annotated[str | None, Choices((*FAMILIES,))] = as_in_score("layout")
    neutral: Literal["positive", "negative", "ignore"] | None = as_in_score("neutral")
    boundary: Rule | None = as_in_score("boundary")
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = as_in_score("boundary_tag")
    packing: bool = as_in_score("packing")
    dtype: Literal["float32", "bfloat16", "float16"] | None = as_in_score("dtype")
    attn_implementation: str | None = as_in_score("attn_implementation")
    trust_remote_code: bool = as_in_score("trust_remote_code")

    def __post_init__(self):
        check(self, self._faults())
        self.steps = None if self.boundary is None else Boundary(self.boundary, self.boundary_tag)
        if self.name is None:
            self.name = Path(self.model).resolve().name if Path(self.model).is_dir() else self.model
        self.token = find_token(self.token)

    def _faults(self) -> Iterator[str]:
        yield from model_faults(self.model)
        if self.name == "":
            yield "name is empty; give one, or leave it out for the folder's name or the hub id"


def serve(config: ServeConfig, prompts: PromptOptions = BY_CHECKPOINT) -> dict:
    """Answers requests until it is interrupted; returns how many it scored."""
    check_packages(config)
    limits = Limits(
        config.max_request_mb << 20,
        config.max_queue,
        config.batch_rows,
        config.batch_across_clients,
        config.stop_seconds,
    )
    options = {name: getattr(config, name) for name in LOADING}
    checkpoint = checkpoint_of(config.model)
    decides = options, config.steps and config.steps.to_dict(), settings(prompts), prompts.template_text
    fingerprint = digest(checkpoint, checkpoint_files(checkpoint), *decides)
    # The port comes first: a port in use should not be noticed after minutes of loading.
    with ScoreServer(config.host, config.port, config.name, config.token, limits, fingerprint) as server:
        if config.token is None and not is_loopback(config.host):
            logger.warning(
                "%s is open to everyone who can reach it: set %s here and where the clients run.",
                server.url,
                TOKEN_VARIABLE,
            )

        def say() -> None:
            asks = ", for requests with its token" if config.token is not None else ""
            kind = server.pool.identity["kind"]
            print(f"{kind} '{config.name}' at {server.url}{asks} (Ctrl-C ends it)", flush=True)

        server.on_ready = say
        loading = Loading(config.model, config.steps, prompts, options)
        server.start(partial(WorkerProcess, loading, config.workers), config.workers)
        server.serve_forever()
        return {"requests": server.requests, "rows": server.rows}
