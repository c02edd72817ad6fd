"""`StepPPOConfig`: TRL's GRPOConfig, with what step rewards, a critic and token advantages add."""

from dataclasses import dataclass, field
from typing import Literal

from trl import GRPOConfig

# Loss types that weigh each token by its own advantage; TRL's others (vespo, luspo) are written for one a sequence.
TOKEN_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")

# Which estimators read a setting. Set for another one it would do nothing, so it is refused.
READ_BY: dict[str, tuple[str, ...]] = {
    "step_discount": ("group",),
    "step_baseline": ("group",),
    "scale_rewards": ("group",),
    "gamma": ("gae", "rloo"),
    "lam": ("gae",),
    "vf_coef": ("gae",),
    "value_clip": ("gae",),
    "whiten_rewards": ("gae", "rloo"),
    "vine_rollouts": ("vine",),
}


@dataclass
class StepPPOConfig(GRPOConfig):
    """Everything of GRPOConfig is passed through, except the settings refused in `__post_init__`.

    `epsilon` is PPO's clip range, `beta` the weight of the KL to the reference (the policy with its adapter off),
    `num_iterations` PPO's epochs over a batch, `num_generations` the samples a problem.
    """

    advantage: Literal["group", "gae", "rloo", "vine"] = field(
        default="group",
        metadata={
            "help": "group: step rewards against those of the problem's other samples; gae: against a critic that "
            "shares the frozen base with the policy; rloo: each token's return against the other samples' mean return; "
            "vine: Monte-Carlo values of the step's two ends."
        },
    )
    step_discount: float = field(
        default=0.0,
        metadata={"help": "group: how much of a later step's reward an earlier step is given; 0: each step its own."},
    )
    step_baseline: Literal["position", "all", "rewards"] = field(
        default="position",
        metadata={
            "help": "group: a step is compared with the other samples' steps at its position (position) or with all of "
            "their steps (all), which makes the policy avoid hard steps; rewards: all rewards of the group are centred "
            "before they are summed (DeepSeekMath), so that steps alike pay nothing, however many there are."
        },
    )
    gamma: float = field(default=1.0, metadata={"help": "gae, rloo: discount a token."})
    lam: float = field(default=0.95, metadata={"help": "gae: 0 trusts the critic one token ahead, 1 not at all."})
    vine_rollouts: int = field(default=9, metadata={"help": "vine: rollouts from the start of each step."})
    whiten_rewards: bool = field(
        default=False,
        metadata={"help": "gae, rloo: scale the batch's token rewards to variance 1; their mean stays."},
    )
    whiten_advantages: Literal["none", "scale", "full"] | None = field(
        default=None,
        metadata={
            "help": "Scale the batch's token advantages to variance 1 (scale), and centre them, too (full). By default "
            "full for gae and rloo, none for group and vine, whose baselines centre them."
        },
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
    kl: Literal["loss", "reward"] = field(
        default="loss",
        metadata={"help": "Where beta times the KL to the reference goes: into the loss, or off every token's reward."},
    )
    kl_estimator: Literal["k1", "k2", "k3"] | None = field(
        default=None,
        metadata={
            "help": "Estimate of a token's KL: k1 log p/q; k2 half its square; k3 q/p - 1 + log p/q. By default k3 in "
            "the loss, as TRL has it, and k1 as a reward, where the others hold the policy back too little near the "
            "reference. TRL's use_bias_correction_kl belongs to k3 in the loss alone."
        },
    )
    truncated: Literal["score", "no_process", "bootstrap"] = field(
        default="score",
        metadata={
            "help": "Completions cut off at max_completion_length are paid like others (score), keep no positive step "
            "reward (no_process), or get the critic's value of what would have come (bootstrap, gae). To leave them out"
            " of the loss, set mask_truncated_completions."
        },
    )
    num_iterations: int = field(default=2, metadata={"help": "PPO epochs over each batch of completions."})
    report_to: str = field(default="none", metadata={"help": "Where to log: none, wandb, tensorboard."})

    def __post_init__(self):
        super().__post_init__()
        if self.advantage == "gae" and self.ddp_find_unused_parameters is None:
            # The critic runs beside the wrapped forward: a search for unused parameters there would find all of its.
            self.ddp_find_unused_parameters = False
        faults = [*self._sequence_settings(), *self._unread(), *self._kl_faults(), *self._range_faults()]
        if faults:
            raise ValueError("; ".join(faults) + ".")

    @property
    def whitening(self) -> str:
        """`whiten_advantages`, with its default resolved."""
        return self.whiten_advantages or ("full" if self.advantage in ("gae", "rloo") else "none")

    @property
    def kl_kind(self) -> tuple[str, str]:
        """`kl` and `kl_estimator`, with its default resolved."""
        return self.kl, self.kl_estimator or ("k1" if self.kl == "reward" else "k3")

    @property
    def kl_is_trls(self) -> bool:
        return self.kl_kind == ("loss", "k3")

    def _sequence_settings(self) -> list[str]:
        """TRL's settings that are written for one advantage a sequence, or whose place another one has here."""
        faults = []
        if self.loss_type not in TOKEN_LOSSES:
            faults.append(
                f"loss_type '{self.loss_type}' is written for one advantage a sequence; take one of "
                f"{', '.join(TOKEN_LOSSES)}"
            )
        if self.importance_sampling_level != "token":
            faults.append("importance_sampling_level 'sequence' has one ratio a sequence; leave it at token")
        if self.loss_type == "cispo" and not (self.epsilon_high and self.epsilon_high > 1):
            faults.append("cispo cuts ratios at epsilon_high, which by default is below 1; set it, for example to 5")
        if self.load_best_model_at_end and self.metric_for_best_model in (None, "loss", "eval_loss"):
            faults.append(
                "load_best_model_at_end would choose by the loss of an evaluation, on which nothing is trained; set "
                "metric_for_best_model: accuracy"
            )
        if self.advantage == "rloo" and self.mask_truncated_completions:
            faults.append(
                "advantage 'rloo' would count the masked completions of mask_truncated_completions as returns of 0 in "
                "the others' baseline; leave it out"
            )
        if self.off_policy_mask_threshold is not None:
            faults.append("off_policy_mask_threshold is written for one advantage a sequence; leave it out")
        if self.reward_weights is not None:
            faults.append("reward_weights is TRL's; set process_weight and outcome_weight")
        if self.multi_objective_aggregation != "sum_then_normalize":
            faults.append("multi_objective_aggregation does nothing here; leave it out")
        if self.scale_rewards not in ("none", "group"):
            faults.append(f"scale_rewards '{self.scale_rewards}' is not one of none, group")
        if self.advantage == "gae" and self.use_vllm:
            faults.append("use_vllm does not go with advantage 'gae': TRL would send vLLM the critic's weights too")
        if self.advantage == "vine" and self.use_vllm and self.vllm_mode == "server":
            faults.append(
                "advantage 'vine' asks each rank for another number of rollouts, which a vLLM server does not take; "
                "set vllm_mode: colocate"
            )
        return faults

    def _unread(self) -> list[str]:
        faults = []
        for name, estimators in READ_BY.items():
            if self.advantage not in estimators and getattr(self, name) != self.__dataclass_fields__[name].default:
                faults.append(f"{name} belongs to advantage {' and '.join(estimators)}, not '{self.advantage}'")
        if self.truncated == "bootstrap" and self.advantage != "gae":
            faults.append("truncated 'bootstrap' takes the critic's value, and only advantage 'gae' has a critic")
        if self.truncated != "score" and self.mask_truncated_completions:
            faults.append("mask_truncated_completions leaves truncated completions out; leave truncated at score")
        if self.step_baseline == "rewards" and (self.step_discount, self.scale_rewards) == (0, "none"):
            faults.append(
                "step_baseline 'rewards' centres rewards before they are summed; with step_discount 0 nothing is "
                "summed: take 'all', which is the same then, or set step_discount: 1"
            )
        return faults

    def _kl_faults(self) -> list[str]:
        faults = []
        if self.beta == 0 and not self.kl_is_trls:
            faults.append("kl and kl_estimator do nothing with beta 0; set beta")
        if self.kl_kind == ("loss", "k1"):
            faults.append("kl_estimator 'k1' has no expected gradient as a loss; take k2 or k3, or kl: reward")
        if self.kl == "reward" and self.advantage == "vine":
            faults.append("kl 'reward' does not go with advantage 'vine', whose Monte-Carlo values know no KL")
        return faults

    def _range_faults(self) -> list[str]:
        faults = [
            f"{name} is {getattr(self, name)}; it must be between 0 and 1"
            for name in ("gamma", "lam", "step_discount")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.value_clip <= 0:
            faults.append(f"value_clip is {self.value_clip}; it must be above 0")
        if self.vine_rollouts < 1:
            faults.append(f"vine_rollouts is {self.vine_rollouts}; it must be at least 1")
        return faults

    def batches_at(self, optimizer_step: int) -> int:
        """Batches of completions generated for training when `optimizer_step` steps are done."""
        slices = optimizer_step * self.gradient_accumulation_steps
        return -(-slices // (self.num_iterations * self.steps_per_generation))

    def samples_at(self, optimizer_step: int) -> int:
        """Completions generated for training when `optimizer_step` steps are done."""
        return self.batches_at(optimizer_step) * self.generation_batch_size
