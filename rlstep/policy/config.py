"""`StepPPOConfig`: TRL's GRPOConfig plus settings of step rewards, the critic and token advantages."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from trl import GRPOConfig

from rlstep.policy.inherited import IN_VLLM_SERVER, INHERITED
from rlstep.policy.trl_settings import trl_faults
from rlstep.runtime.constraints import Choices, Constraint, Range, ReadBy, ReadUnless, check, library_faults
from rlstep.runtime.tracking import PROJECT_HELP, default_project
from rlstep.runtime.trainer_settings import PLACED, trainer_faults

# Advantages whose only baseline is the problem's other samples, so that a prefix is worth what these made of it.
GROUP_RELATIVE = ("group", "rloo", "mean_return")


@dataclass
class StepPPOConfig(GRPOConfig):
    """GRPOConfig plus the settings below; TRL settings that would have no effect here are refused (`INHERITED`).

    `epsilon` is PPO's clip range, `beta` the weight of the KL to the reference (the policy with its adapter off),
    `num_iterations` PPO's epochs over a batch, `num_generations` the samples per problem. What each setting takes and
    does is in its help text, which `rlstep ppo --help` and the page Settings show.

    Raises:
        UserError: settings out of range, unread or incompatible, including what TRL itself rejects.
    """

    inherited: ClassVar[dict[str, tuple[Constraint, ...]]] = INHERITED

    advantage: Literal["group", "gae", "rloo", "mean_return", "vine"] = field(
        default="group",
        metadata={
            "help": "group: step rewards against those of the problem's other samples; gae: against a critic; "
            "rloo: each token's return against the other samples' mean return; mean_return: against the mean return of "
            "all samples, each counted once whatever its length; vine: Monte-Carlo values of the step's two ends."
        },
    )
    centre_wrong: bool = field(
        default=False,
        metadata={
            "help": "Shift the step rewards of a problem's wrong completions so that their mean is 0: a PRM then ranks "
            "wrong completions among themselves, and pays none of them for reading well."
        },
    )
    keep_samples: Annotated[int | None, Range(at_least=2)] = field(
        default=None,
        metadata={
            "help": "Train on this many of a problem's num_generations samples: the right ones whose mean step score "
            "by the PRM is highest and the wrong ones where it is lowest, as near to half of each as there are."
        },
    )
    keep_wrong: Annotated[Literal["lowest", "any"], ReadBy("keep_samples")] = field(
        default="lowest",
        metadata={"help": "keep_samples: the wrong completions with the lowest scores (lowest), or whichever (any)."},
    )
    step_discount: Annotated[float, Range(at_least=0, at_most=1), ReadBy("advantage", "group")] = field(
        default=0.0,
        metadata={"help": "group: how much of a later step's reward an earlier step gets; 0: each step only its own."},
    )
    step_baseline: Annotated[Literal["position", "all", "rewards"], ReadBy("advantage", "group")] = field(
        default="position",
        metadata={
            "help": "group: a step is compared with the other samples' steps at its position (position) or with all of "
            "their steps (all), which makes the policy avoid hard steps; rewards: all rewards of the group are centred "
            "before they are summed (DeepSeekMath), so that equal steps gain nothing, however many there are. all and "
            "rewards hide a bonus of minus the mean step reward for writing one more step: use them where a problem's "
            "samples have equally many steps."
        },
    )
    gamma: Annotated[float, Range(at_least=0, at_most=1), ReadBy("advantage", "gae", "rloo", "mean_return")] = field(
        default=1.0, metadata={"help": "gae, rloo, mean_return: discount per token."}
    )
    lam: Annotated[float, Range(at_least=0, at_most=1), ReadBy("advantage", "gae")] = field(
        default=0.95, metadata={"help": "gae: at 0 the critic's next value is trusted fully, at 1 not at all."}
    )
    vine_rollouts: Annotated[int, Range(at_least=1), ReadBy("advantage", "vine")] = field(
        default=9, metadata={"help": "vine: rollouts from the start of each step."}
    )
    whiten_rewards: Annotated[bool, ReadBy("advantage", "gae", "rloo", "mean_return")] = field(
        default=False,
        metadata={"help": "gae, rloo, mean_return: scale the batch's token rewards to variance 1, keeping their mean."},
    )
    whiten_advantages: Literal["none", "scale", "full"] | None = field(
        default=None,
        metadata={
            "help": "Scale the batch's token advantages to variance 1 (scale), or also centre them (full). By default "
            "full for gae and rloo, none for the others, whose baselines centre them already."
        },
    )
    critic: Annotated[Literal["adapter", "head"], ReadBy("advantage", "gae")] = field(
        default="head",
        metadata={
            "help": "gae: a value head on the policy's hidden states, in the policy's pass (head); or an adapter of "
            "its own on the frozen base, with a value head and a pass of its own (adapter)."
        },
    )
    critic_trunk_scale: Annotated[
        float, Range(at_least=0, at_most=1), ReadBy("advantage", "gae"), ReadBy("critic", "head")
    ] = field(
        default=0.0,
        metadata={
            "help": "critic head: what the value loss's gradients into the policy's weights are multiplied by; 0: the "
            "value loss trains the head alone."
        },
    )
    vf_coef: Annotated[float, Range(at_least=0), ReadBy("advantage", "gae")] = field(
        default=0.5, metadata={"help": "gae: weight of the value loss."}
    )
    value_clip: Annotated[float, Range(above=0), ReadBy("advantage", "gae")] = field(
        default=0.2, metadata={"help": "gae: how far a value may move in one update."}
    )
    scale_rewards: Annotated[str, Choices(("none", "group")), ReadBy("advantage", "group")] = field(
        default="none",
        metadata={
            "help": "group: divide a group's advantages by their standard deviation (group) or leave them (none).",
            "choices": ["none", "group"],
        },
    )
    token_weights: Annotated[Literal["equal", "process_set"], ReadBy("advantage", *GROUP_RELATIVE)] = field(
        default="equal",
        metadata={
            "help": "group, rloo, mean_return, with outcome rewards alone: process_set divides a token's loss, its KL "
            "included, by the number of the problem's samples that begin with the same tokens up to it (lambda-GRPO); "
            "equal leaves it."
        },
    )
    vllm_sync: Annotated[Literal["merged", "adapter"], *IN_VLLM_SERVER, PLACED] = field(
        default="merged",
        metadata={
            "help": "What a vLLM server gets after an update: the policy's whole weights with the adapter merged "
            "(merged), or the adapter alone, through a folder in output_dir that the server reads by the same path "
            "(adapter); for that it is started with --enable-lora, --max-lora-rank and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
        },
    )
    kl: Annotated[Literal["loss", "reward"], ReadBy("beta")] = field(
        default="loss",
        metadata={"help": "Whether beta times the KL is added to the loss or subtracted from every token's reward."},
    )
    kl_estimator: Annotated[Literal["k1", "k2", "k3"] | None, ReadBy("beta")] = field(
        default=None,
        metadata={
            "help": "Estimate of a token's KL: k1 log p/q; k2 half its square; k3 q/p - 1 + log p/q. By default k3 in "
            "the loss, as in TRL, and k1 as a reward, where the others restrain the policy too little near the "
            "reference. TRL's use_bias_correction_kl only applies to k3 in the loss."
        },
    )
    truncated: Literal["score", "no_process", "bootstrap"] = field(
        default="score",
        metadata={
            "help": "Completions cut at max_completion_length are rewarded like others (score), keep no positive step "
            "reward (no_process), or get the critic's value of the missing rest (bootstrap, gae). To leave them out"
            " of the loss, set mask_truncated_completions."
        },
    )
    packing: bool = field(
        default=True,
        metadata={
            "help": "Compute completions without padding, and the prompt of a problem's samples once, where the model "
            "admits it; the same gradients."
        },
    )
    kept_logits_gib: Annotated[
        float, Range(at_least=0), ReadBy("packing"), ReadUnless("cast_lm_head_to_fp32", True)
    ] = field(
        default=1.0,
        metadata={
            "help": "packing: up to how many GiB of logits of a micro-batch are kept for the backward pass; beyond, "
            "they are computed again, in pieces. None are under a frozen head, as with LoRA, unless entropy is in the "
            "loss."
        },
    )
    tokens_per_device: Annotated[int | None, Range(at_least=1), PLACED] = field(
        default=None,
        metadata={
            "help": "The most tokens of a forward pass, padding included: micro-batches are cut accordingly, and the "
            "gradients stay what they were. By default per_device_train_batch_size rows, whatever their length."
        },
    )
    num_iterations: Annotated[int, Range(at_least=1)] = field(
        default=2, metadata={"help": "PPO epochs over each batch of completions."}
    )
    disable_dropout: bool = field(
        default=True,
        metadata={
            "help": "Train without dropout, an adapter's included. With dropout, an unchanged policy gives the same "
            "tokens other probabilities in each pass: its ratio is not 1 and its KL not 0."
        },
    )
    report_to: str = field(default="none", metadata={"help": "Where to log: none, wandb, trackio, tensorboard."})
    project: str = field(default_factory=default_project, metadata={"help": PROJECT_HELP})

    def __post_init__(self):
        faults = library_faults(super().__post_init__)
        if self.advantage == "gae" and self.ddp_find_unused_parameters is None:
            # The critic runs outside the wrapped forward, so a search for unused parameters would report all of its.
            self.ddp_find_unused_parameters = False
        faults += [*self._token_faults(), *self._budget_faults(), *self._estimator_faults(), *self._kl_faults()]
        faults += [*self._outcome_faults(), *trainer_faults(self), *trl_faults(self)]
        check(self, faults)

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
        """Whether TRL's loss adds the KL; it would weigh all tokens alike."""
        return self.kl_kind == ("loss", "k3") and self.token_weights == "equal"

    def _token_faults(self) -> Iterator[str]:
        """Settings under which TRL would not weight each token by its own advantage."""
        if self.loss_type == "cispo" and not (self.epsilon_high and self.epsilon_high > 1):
            yield "cispo cuts ratios at epsilon_high, which by default is below 1; set it, for example to 5"
        if self.metric_for_best_model in ("loss", "eval_loss"):  # the default of whatever reads it
            yield (
                "metric_for_best_model would be the loss of an evaluation, on which nothing is trained and which has "
                "none; set metric_for_best_model: accuracy"
            )
        if self.advantage in ("rloo", "mean_return") and self.mask_truncated_completions:
            yield (
                f"advantage '{self.advantage}' would count the masked completions of mask_truncated_completions as "
                "returns of 0 in the others' baseline; leave it out"
            )

    def _budget_faults(self) -> Iterator[str]:
        """Settings that would depend on how `tokens_per_device` cuts a micro-batch, or that no cut fits."""
        if self.tokens_per_device is None:
            return
        if self.tokens_per_device <= (self.max_completion_length or 0):
            yield (
                f"tokens_per_device {self.tokens_per_device} is no more than max_completion_length "
                f"{self.max_completion_length}, and a prompt comes on top of that; raise it"
            )
        if self.top_entropy_quantile < 1:
            yield (
                "top_entropy_quantile chooses tokens by a quantile of each pass, which tokens_per_device would change; "
                "leave one of them out"
            )
        if (self.entropy_coef or self.use_adaptive_entropy) and self.loss_type != "bnpo":
            yield (
                "the entropy bonus is a mean over the tokens of a pass, which tokens_per_device cuts by tokens; only "
                "loss_type 'bnpo' is a mean over them, too: set it, or leave out tokens_per_device"
            )
        if self.optim in ("lomo", "adalomo"):
            yield f"optim '{self.optim.value}' makes a step in each backward pass; leave out tokens_per_device"

    def _estimator_faults(self) -> Iterator[str]:
        """Settings that this estimator, or this treatment of truncated completions, cannot use."""
        if self.truncated == "bootstrap" and self.advantage != "gae":
            yield "truncated 'bootstrap' takes the critic's value, and only advantage 'gae' has a critic"
        if self.truncated != "score" and self.mask_truncated_completions:
            yield "mask_truncated_completions leaves truncated completions out; leave truncated at score"
        if self.step_baseline == "rewards" and (self.step_discount, self.scale_rewards) == (0, "none"):
            yield (
                "step_baseline 'rewards' centres rewards before they are summed; with step_discount 0 nothing is "
                "summed: take 'all', which is the same then, or set step_discount: 1"
            )

    def _outcome_faults(self) -> Iterator[str]:
        """Settings of what is done with a problem's right and wrong samples that do not fit the others."""
        if self.keep_samples is not None and self.keep_samples >= self.num_generations:
            yield (
                f"keep_samples {self.keep_samples} leaves out none of num_generations {self.num_generations}; lower it"
            )
        if self.advantage == "vine":
            for name in ("centre_wrong", "keep_samples"):
                if getattr(self, name):
                    yield (
                        f"{name} compares a problem's samples, and the Monte-Carlo values of advantage 'vine' are of "
                        "rollouts that belong to no such group; leave it out, or take another advantage"
                    )
        if self.centre_wrong and self.truncated == "no_process":
            yield (
                "centre_wrong shifts step rewards, which may give truncated completions the positive ones that "
                "truncated 'no_process' takes; set truncated: score"
            )

    def _kl_faults(self) -> Iterator[str]:
        if self.kl_kind == ("loss", "k1"):
            yield "kl_estimator 'k1' has zero expected gradient as a loss; use k2 or k3, or kl: reward"
        if self.kl == "reward" and self.advantage == "vine":
            yield "kl 'reward' does not work with advantage 'vine', whose Monte-Carlo values do not include the KL"

    def batches_at(self, optimizer_step: int) -> int:
        """Batches of completions generated for training when `optimizer_step` steps are done."""
        slices = optimizer_step * self.gradient_accumulation_steps
        return -(-slices // (self.num_iterations * self.steps_per_generation))

    def samples_at(self, optimizer_step: int) -> int:
        """Completions generated for training when `optimizer_step` steps are done."""
        return self.batches_at(optimizer_step) * self.generation_batch_size
