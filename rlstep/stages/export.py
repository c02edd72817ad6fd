"""The `export` stage: a trained LoRA policy as an adapter to share and as a merged model to serve."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rlstep.policy.export import check_adapter, export_adapter
from rlstep.runtime.constraints import check
from rlstep.runtime.record import RunRecord


@dataclass
class ExportConfig:
    policy: str = field(metadata={"help": "Folder that `rlstep ppo` or `rlstep sft` wrote with use_peft."})
    out: str = field(metadata={"help": "Folder for adapter/ and merged/."})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Type of the merged weights; auto: that of the checkpoint."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    def __post_init__(self):
        check(self)


def export(config: ExportConfig) -> dict:
    """Writes `out`/adapter and `out`/merged, see `rlstep.policy.export`."""
    policy, out = Path(config.policy), Path(config.out)
    check_adapter(policy)
    with RunRecord("export", asdict(config), out) as record:
        record.metrics["parameters"] = export_adapter(policy, out, config.dtype, config.trust_remote_code)
    return record.metrics
