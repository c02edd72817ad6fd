"""A glossary of everything that a PPO run logs: how it is computed, what is healthy, and what it tells."""

from typing import NamedTuple

from rlstep.policy.monitoring.metrics import POSITIONS, STEP_GUARDS


class Metric(NamedTuple):
    """An entry of the glossary; `healthy` is a rule of thumb, for language models of any size."""

    formula: str
    healthy: str
    meaning: str


# name, as logged (wandb puts train/ or eval/ before it); * stands for a name that a run fills in.
METRICS: dict[str, Metric] = {
    # --- Rewards and verified accuracy.
    "reward/process": Metric(
        "sum_k r_k, mean over completions",
        "rises, together with accuracy",
        "The step rewards of a completion, in the unit of the credit scheme.",
    ),
    "reward/outcome": Metric(
        "mean outcome reward, weighted", "rises", "The reward for the outcome: the verified answer, or an ORM's score."
    ),
    "reward/own/*": Metric(
        "mean of what a reward of your own gives, before its weight; of step rewards the sum",
        "rises",
        "Whether the policy takes to it. By the name that `reward` has.",
    ),
    "reward/step_at_*": Metric(
        f"mean r_k of the scored k-th steps, k = 01 ... {POSITIONS}; {POSITIONS + 1}_on: all later steps",
        "none far above the others",
        "Where in a solution the rewards are. Growing rewards at late positions mean padding.",
    ),
    "reward/no_signal": Metric(
        "share of groups whose samples all have the same step rewards and outcome",
        "below 0.5",
        "Groups from which group, rloo and vine learn little or nothing. Near 1: too easy, or too hard.",
    ),
    "group/shared_steps": Metric(
        "share of steps up to which more than one of the problem's samples are equal, and not all of them",
        "-",
        "How much of a process reward outcomes alone give: on these steps samples are told apart by what came of one "
        "beginning (guide, token_weights). Logged from 3 samples on.",
    ),
    "accuracy": Metric("mean [answer verified right]", "rises", "The goal. Rewards are a means to it."),
    "clean_accuracy": Metric(
        "mean [answer and every step right]",
        "rises, close below accuracy",
        "Right for the right reasons. Logged if the checker can label every step.",
    ),
    "advantage/mean_abs": Metric(
        "mean over tokens of |A_t|, as used in the loss",
        "steady, above 0",
        "How much can be learned from a batch. About 0.8 if advantages are whitened.",
    ),
    # --- Is the PRM still right about this policy?
    "prm/score": Metric(
        "mean of prod_k p_k over completions that the PRM read whole",
        "rises, together with accuracy",
        "The PRM's probability that all steps are right.",
    ),
    "prm/gap": Metric(
        "prm/score - accuracy",
        "steady; below 0.1",
        "By how much the PRM overrates completions. It grows when the policy moves to where the PRM is wrong.",
    ),
    "prm/step_gap": Metric(
        "mean (p_k - y_k) over steps with an exact label y_k",
        "-0.1 to 0.1",
        "The same for single steps: above 0 the PRM overrates them.",
    ),
    "prm_refresh/rows": Metric(
        "new samples that it was trained on", "above 0", "What a refresh of the PRM learned from."
    ),
    "prm_refresh/loss_*": Metric(
        "mean cross-entropy of those samples' step labels, before and after",
        "after below before",
        "What the refresh changed. A high loss before it: the PRM was out of date.",
    ),
    "prm_refresh/agreement_*": Metric(
        "share of steps where p_k and the label are on the same side of 0.5, before and after",
        "above 0.8; after above before",
        "Whether PRM and labels agree on the policy's newest samples.",
    ),
    "prm_refresh/*": Metric(
        "counts of steps, dropped and replayed rows; right_share of the steps; seconds",
        "few rows dropped",
        "What else went into the refresh.",
    ),
    "alarm": Metric(
        "1 from an alarm until accuracy has recovered, else 0",
        "0",
        "The process return rises while verified accuracy falls: the policy games the step rewards.",
    ),
    # --- What the policy writes.
    "steps/count": Metric("mean steps per completion", "steady", "Growing without more accuracy: padding."),
    "steps/characters": Metric(
        "mean characters per step", "steady", "Growing: more and more in one step. Shrinking: padding."
    ),
    "steps/tokens": Metric("completion tokens / steps", "steady", "The same in the policy's tokens."),
    "steps/repeated": Metric(
        "share of steps equal to an earlier one of the completion, ignoring white space",
        "below 0.05",
        "The cheapest way to collect step rewards.",
    ),
    "steps/withheld": Metric("share of steps that a guard withheld", "below 0.1", "How often guards act."),
    "steps/withheld_*": Metric(
        "the same for one guard: " + ", ".join(STEP_GUARDS), "near 0", "Which way of gaming is tried."
    ),
    "completions/without_answer": Metric("share without an answer", "near 0", "These cannot be verified."),
    "completions/cut": Metric(
        "share that a verifier did not read whole, as too long for it", "0", "Their last steps have no process reward."
    ),
    "completions/truncated": Metric(
        "share that the policy did not end itself", "below 0.05", "Rising: solutions outgrow max_completion_length."
    ),
    "completions/clipped_ratio": Metric("the same, counted by TRL", "below 0.05", "Rising: see completions/truncated."),
    "completions/mean_length": Metric(
        "mean tokens per completion", "steady, well below the limit", "Growing without more accuracy: padding."
    ),
    # --- How the policy moves.
    "kl": Metric(
        "mean over tokens of kl_estimator, policy against reference",
        "below 0.1 per token, rising slowly",
        "How far the policy is from its start. A jump: the steps were too large, or a reward is gamed.",
    ),
    "entropy": Metric(
        "mean over tokens of -sum_v p_v log p_v",
        "falls slowly, stays above 0",
        "What is left to explore. A drop to near 0 ends learning: lower the learning rate, or raise beta.",
    ),
    "clip_ratio/region_mean": Metric(
        "share of tokens whose ratio is clipped", "0.01 to 0.2", "0: steps are tiny. Above 0.3: too large, or too many."
    ),
    "clip_ratio/low_mean": Metric(
        "share with ratio < 1 - epsilon and A < 0", "below 0.1", "Tokens whose probability fell as far as allowed."
    ),
    "clip_ratio/high_mean": Metric(
        "share with ratio > 1 + epsilon and A > 0", "below 0.1", "Tokens whose probability rose as far as allowed."
    ),
    "grad_norm": Metric(
        "L2 norm of the gradient before clipping",
        "steady, no spikes",
        "Always far above max_grad_norm: lower the rate.",
    ),
    # --- The critic (advantage: gae).
    "critic/explained_variance": Metric(
        "1 - Var(returns - values) / Var(returns)",
        "rises to 0.3 and more",
        "The share of the returns' variance that the critic predicts. Below 0 it is worse than their mean.",
    ),
    "critic/value_loss": Metric(
        "clipped squared error of the values", "falls", "How well the critic fits its returns."
    ),
    "critic/clip_fraction": Metric(
        "share of tokens where the clipped value error is the larger",
        "below 0.3",
        "High: the critic cannot keep up, so A is stale.",
    ),
    # --- The cost.
    "vine/states": Metric(
        "distinct states that are rolled out (advantage: vine)",
        "-",
        "vine_rollouts times as many completions are sampled.",
    ),
    "vine/cut": Metric(
        "completions/cut of the rollouts (advantage: vine)", "0", "Above 0: values lack what a verifier did not read."
    ),
    "vine/truncated": Metric(
        "completions/truncated of the rollouts (advantage: vine)",
        "below 0.05",
        "Values of unfinished rollouts lack the outcome: see completions/truncated.",
    ),
    "samples": Metric("completions drawn for training so far", "-", "The x axis that makes runs comparable."),
    "tokens_per_second": Metric(
        "completion tokens of all ranks / seconds",
        "steady",
        "Throughput, including the time for rewards and updates.",
    ),
    "processor_step_time": Metric(
        "processor seconds of an optimizer step and what it sampled and scored; of the first rank's process",
        "steady",
        "What an update costs on CPU, also where others use the machine: for comparisons at equal compute.",
    ),
}


def glossary_table() -> str:
    """`METRICS` as a Markdown table."""
    lines = ["| metric | formula | healthy | what it tells |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        cells = [f"`{name}`", *(cell.replace("|", "\\|") for cell in metric)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
