"""`StepPPOConfig`: TRL's GRPOConfig, with what step rewards, a critic and token advantages add."""

from dataclasses import dataclass, field
from typing import Literal

from trl import GRPOConfig

# Written by TRL for one advantage a sequence: with an advantage a token they would compute something else in silence.
SEQUENCE_LOSSES = ("vespo", "luspo")


@dataclass
class StepPPOConfig(GRPOConfig):
    """Everything of GRPOConfig is passed through, except the settings refused in `__post_init__`.

    `epsilon` is PPO's clip range, `beta` the weight of the KL to the reference (the policy with its adapter off),
    `num_iterations` PPO's epochs over a batch, `num_generations` the samples a problem.
    """

    advantage: Literal["group", "gae"] = field(
        default="group",
        metadata={
            "help": "group: step rewards against those of the problem's other samples; gae: against a critic that "
            "shares the frozen base with the policy."
        },
    )
    step_discount: float = field(
        default=0.0,
        metadata={"help": "group: how much of a later step's reward an earlier step is given; 0: each step its own."},
    )
    step_baseline: Literal["position", "all"] = field(
        default="position",
        metadata={
            "help": "group: a step is compared with the other samples' steps at its position (position) or with all of "
            "their steps (all), which makes the policy avoid hard steps."
        },
    )
    gamma: float = field(default=1.0, metadata={"help": "gae: discount a token."})
    lam: float = field(default=0.95, metadata={"help": "gae: 0 trusts the critic one token ahead, 1 not at all."})
    whiten_advantages: bool = field(
        default=True, metadata={"help": "gae: scale the batch's advantages to mean 0 and variance 1."}
    )
    vf_coef: float = field(default=0.5, metadata={"help": "gae: weight of the value loss."})
    value_clip: float = field(default=0.2, metadata={"help": "gae: how far a value may move in one update."})
    scale_rewards: str = field(
        default="none",
        metadata={
            "help": "group: divide a group's advantages by their standard deviation (group) or leave them (none).",
            "choices": ["none", "group"],
        },
    )
    num_iterations: int = field(default=2, metadata={"help": "PPO epochs over each batch of completions."})
    report_to: str = field(default="none", metadata={"help": "Where to log: none, wandb, tensorboard."})

    def __post_init__(self):
        super().__post_init__()
        if self.advantage == "gae" and self.ddp_find_unused_parameters is None:
            # The critic runs beside the wrapped forward: a search for unused parameters there would find all of its.
            self.ddp_find_unused_parameters = False
        faults = []
        if self.loss_type in SEQUENCE_LOSSES:
            faults.append(f"loss_type '{self.loss_type}' is written for one advantage a sequence; take dapo or dr_grpo")
        if self.off_policy_mask_threshold is not None:
            faults.append("off_policy_mask_threshold is written for one advantage a sequence; leave it out")
        if self.reward_weights is not None:
            faults.append("reward_weights is TRL's; set process_weight and outcome_weight")
        if self.multi_objective_aggregation != "sum_then_normalize":
            faults.append("multi_objective_aggregation does nothing here; leave it out")
        if self.scale_rewards not in ("none", "group"):
            faults.append(f"scale_rewards '{self.scale_rewards}' is not one of none, group")
        if self.advantage == "gae" and self.scale_rewards != "none":
            faults.append("scale_rewards belongs to advantage 'group'; with 'gae' set whiten_advantages")
        if self.advantage == "gae" and self.use_vllm:
            faults.append("use_vllm goes with advantage 'group' alone: TRL would send vLLM the critic's weights too")
        for name in ("gamma", "lam", "step_discount"):
            if not 0 <= getattr(self, name) <= 1:
                faults.append(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.value_clip <= 0:
            faults.append(f"value_clip is {self.value_clip}; it must be above 0")
        if faults:
            raise ValueError("; ".join(faults) + ".")

    def batches_at(self, optimizer_step: int) -> int:
        """Batches of completions generated for training when `optimizer_step` steps are done."""
        slices = optimizer_step * self.gradient_accumulation_steps
        return -(-slices // (self.num_iterations * self.steps_per_generation))

    def samples_at(self, optimizer_step: int) -> int:
        """Completions generated for training when `optimizer_step` steps are done."""
        return self.batches_at(optimizer_step) * self.generation_batch_size
