"""`StagePlan`: what one stage takes, by part."""

from dataclasses import dataclass, field

from rlstep.core.memory import GIB
from rlstep.planning.settings import Machine

# Bytes on one GPU, in the order of the table.
PARTS = ("weights", "gradients", "optimizer", "activations", "kv_cache", "vllm")


@dataclass
class StagePlan:
    """What one recipe takes.

    Attributes:
        recipe: its name.
        stage: sft, prm, orm, ppo, sample or score.
        model: folder or hub id of the weights whose sizes were taken.
        trained, frozen: numbers of parameters, over all models that are loaded.
        parts: GiB on one GPU, by part. The KV cache is freed before activations are kept.
        tokens, flops: of an update, on all GPUs; of all rows where nothing is trained.
        updates: of the run; None where its length is not known.
        hours: the run's.
        notes: what the figures rest on.
        vllm_sleeps: whether vLLM gives its share back while the policy trains.
        faults: why it cannot run whatever the total is.
        limit: GiB of a GPU that a plan may fill.
        remedies: what to change where it does not fit.
    """

    recipe: str
    stage: str
    model: str
    trained: int
    frozen: int
    parts: dict[str, float]
    tokens: float
    flops: float
    updates: float | None
    hours: float | None
    limit: float
    notes: list[str] = field(default_factory=list)
    vllm_sleeps: bool = False
    faults: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        """GiB at the peak: what stays, and whatever is more of the update and of sampling."""
        training, sampling = self.parts["gradients"] + self.parts["activations"], self.parts["kv_cache"]
        if self.vllm_sleeps:
            sampling += self.parts["vllm"]
        stays = self.parts["weights"] + self.parts["optimizer"] + (0 if self.vllm_sleeps else self.parts["vllm"])
        return stays + max(training, sampling)

    @property
    def fits(self) -> bool:
        return self.total <= self.limit and not self.faults

    def to_dict(self) -> dict:
        """As JSON has it."""
        names = ("recipe", "stage", "model", "trained", "frozen", "tokens", "flops", "updates", "hours")
        return {name: getattr(self, name) for name in names} | {
            "memory_gib": {**self.parts, "total": self.total, "limit": self.limit},
            "fits": self.fits,
            "notes": self.notes,
            "faults": self.faults,
            "remedies": self.remedies,
        }


def in_gib(**parts: float) -> dict[str, float]:
    """Bytes by part as GiB; what is not given is 0."""
    return {name: parts.get(name, 0.0) / GIB for name in PARTS}


def hours_of(flops: float, sampling: float, times: float | None, gpus: int, machine: Machine) -> float | None:
    """Hours of `times` updates.

    Args:
        flops, sampling: of an update's training and of its sampling.
        times: updates; None where that is not known.
        gpus: that work on it.
        machine: with its speed.
    """
    if times is None:
        return None
    seconds = flops / machine.utilisation + sampling / machine.sampling_utilisation
    return times * seconds / (gpus * machine.tflops * 1e12) / 3600
