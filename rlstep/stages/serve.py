"""The `serve` stage: a verifier behind HTTP, for a policy that is trained in another process or on another machine.

`rlstep.verifiers.serving.server` describes the protocol.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.access import TOKEN_VARIABLE, find_token, is_loopback
from rlstep.runtime.constraints import Choices, Range, ReadBy, check
from rlstep.runtime.packages import check_packages
from rlstep.stages.score import ScoreConfig
from rlstep.steps.boundaries import Boundary, Rule
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.verifiers.published import FAMILIES
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.server import ScoreServer

logger = logging.getLogger(__name__)

LOADING = ("dtype", "batch_tokens", "kind", "layout", "neutral", "packing", "attn_implementation", "trust_remote_code")


def _as_in_score(name: str):
    """An option of `rlstep score`, with its default and its help."""
    option = ScoreConfig.__dataclass_fields__[name]
    return field(default=option.default, metadata=option.metadata)


@dataclass
class ServeConfig:
    model: str = field(metadata={"help": "Folder or hub id of the verifier: rlstep's own, or a published PRM."})
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
    batch_tokens: Annotated[int, Range(at_least=1)] = _as_in_score("batch_tokens")
    kind: Literal["prm", "orm"] | None = _as_in_score("kind")
    layout: Annotated[str | None, Choices((*FAMILIES,))] = _as_in_score("layout")
    neutral: Literal["positive", "negative", "ignore"] | None = _as_in_score("neutral")
    boundary: Rule | None = _as_in_score("boundary")
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = _as_in_score("boundary_tag")
    packing: bool = _as_in_score("packing")
    dtype: Literal["float32", "bfloat16", "float16"] | None = _as_in_score("dtype")
    attn_implementation: str | None = _as_in_score("attn_implementation")
    trust_remote_code: bool = _as_in_score("trust_remote_code")

    def __post_init__(self):
        check(self)
        self.steps = None if self.boundary is None else Boundary(self.boundary, self.boundary_tag)
        self.name = self.name or (Path(self.model).resolve().name if Path(self.model).is_dir() else self.model)
        self.token = find_token(self.token)


def serve(config: ServeConfig, prompts: PromptOptions = BY_CHECKPOINT) -> dict:
    """Answers requests until it is interrupted; returns how many it scored."""
    check_packages(config)
    # The port comes first: a port in use should not be noticed after minutes of loading.
    with ScoreServer(config.host, config.port, config.name, config.max_request_mb << 20, config.token) as server:
        if config.token is None and not is_loopback(config.host):
            logger.warning(
                "%s is open to everyone who can reach it: set %s here and where the clients run.",
                server.url,
                TOKEN_VARIABLE,
            )
        options = {name: getattr(config, name) for name in LOADING}
        server.open(RewardModel.from_pretrained(config.model, boundary=config.steps, prompts=prompts, **options))
        asks = ", for requests with its token" if config.token is not None else ""
        with suppress(KeyboardInterrupt):
            print(f"{server.scorer.verifier.kind} '{config.name}' at {server.url}{asks} (Ctrl-C ends it)", flush=True)
            server.serve_forever()
        return {"requests": server.scorer.requests, "rows": server.scorer.rows}
