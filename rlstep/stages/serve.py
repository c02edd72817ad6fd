"""The `serve` stage: a verifier behind HTTP, for a policy that is trained in another process or on another machine.

`rlstep.verifiers.serving.server` says what travels.

There is neither authentication nor encryption: whoever reaches the port can use it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rlstep.runtime.errors import UserError
from rlstep.stages.score import ScoreConfig
from rlstep.steps.boundaries import Boundary
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.server import ScoreServer

LOADING = ("dtype", "batch_tokens", "kind", "layout", "neutral", "packing", "trust_remote_code")


def _as_in_score(name: str):
    """An option of `rlstep score`, with its default and its help."""
    found = ScoreConfig.__dataclass_fields__[name]
    return field(default=found.default, metadata=found.metadata)


@dataclass
class ServeConfig:
    model: str = field(metadata={"help": "Folder or hub id of the verifier: rlstep's own, or a published PRM."})
    host: str = field(
        default="127.0.0.1",
        metadata={
            "help": "Address to listen at; 0.0.0.0 for all. There is no authentication and no encryption: whoever "
            "reaches it can use it."
        },
    )
    port: int = field(default=8000, metadata={"help": "Port to listen at; 0 takes a free one."})
    name: str | None = field(
        default=None,
        metadata={"help": "What clients know the verifier by; the folder's name or the hub id by default."},
    )
    max_request_mb: int = field(default=64, metadata={"help": "Largest request, in MiB; clients cut theirs to it."})
    batch_tokens: int = _as_in_score("batch_tokens")
    kind: Literal["prm", "orm"] | None = _as_in_score("kind")
    layout: str | None = _as_in_score("layout")
    neutral: Literal["positive", "negative", "ignore"] | None = _as_in_score("neutral")
    boundary: Literal["line", "blank_line", "tag", "heading", "sentence"] | None = _as_in_score("boundary")
    boundary_tag: str | None = _as_in_score("boundary_tag")
    packing: bool = _as_in_score("packing")
    dtype: Literal["float32", "bfloat16", "float16"] | None = _as_in_score("dtype")
    trust_remote_code: bool = _as_in_score("trust_remote_code")

    def __post_init__(self):
        for name in ("batch_tokens", "max_request_mb"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.port < 1 << 16:
            raise UserError(f"port is {self.port}; it must be from 1 to 65535, or 0 for a free one.")
        if self.boundary is None and self.boundary_tag is not None:
            raise UserError("boundary_tag is for boundary: tag; leave it out, or set it.")
        self.steps = None if self.boundary is None else Boundary(self.boundary, self.boundary_tag)
        self.name = self.name or (Path(self.model).resolve().name if Path(self.model).is_dir() else self.model)


def serve(config: ServeConfig) -> dict:
    """Answers requests until it is interrupted; returns how many it scored."""
    # The port comes first: that it is taken should not turn up after minutes of loading.
    with ScoreServer(config.host, config.port, config.name, config.max_request_mb << 20) as server:
        options = {name: getattr(config, name) for name in LOADING}
        server.open(RewardModel.from_pretrained(config.model, boundary=config.steps, **options))
        try:
            print(f"{server.verifier.kind} '{config.name}' at {server.url} (Ctrl-C ends it)", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            # The forward pass in hand comes to its end and no other begins: none may outlive the interpreter.
            server.scoring.acquire()
        return {"requests": server.requests, "rows": server.rows}
