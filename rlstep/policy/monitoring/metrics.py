"""What is measured on every batch of completions, and a glossary of everything that a run logs.

`batch_metrics` gives single values, not means: they go into the trainer's lists, whose means it logs. A metric of
completions has one value per completion, one of steps one per step, one of groups one per group. So a last, smaller
batch of an evaluation weighs as much as its rows do, and several batches average as one large batch would.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch

from rlstep.core.aggregate import solution_score, vote_weight
from rlstep.core.process_sets import process_sets, set_sizes
from rlstep.core.rewards import pad_steps
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.steps.trees import prefix_numbers

POSITIONS = 12  # positions with their own metric; later ones share one
# Guards that withhold single steps (rlstep.policy.rewards.guards). All are logged, so that curves include zeros.
STEP_GUARDS = ("after_answer", "filler", "max_step_chars", "max_steps", "repeats", "restated")
_SAME = 1e-6  # a PRM's scores of one text differ by as much from batch to batch


def batch_metrics(
    scored: Sequence[ScoredCompletion],
    completions: Sequence[str],
    group_size: int,
    tokens: Sequence[int],
    finished: Sequence[bool] | None = None,
) -> dict[str, list[float]]:
    """Values to extend the trainer's lists with, by name (`METRICS` says what each is); no list is empty.

    Args:
        scored: (B,) of all ranks, a problem's samples together.
        completions: (B,) their texts, which the spans refer to.
        group_size: samples per problem; with 1 there are no groups to measure.
        tokens: (B,) completion tokens.
        finished: (B,) whether the policy ended the completion itself; None if unknown.

    Raises:
        ValueError: the arguments have different lengths, or B is not a multiple of the group size.
    """
    rows = {"scored completions": scored, "completions": completions, "tokens": tokens}
    rows |= {} if finished is None else {"finished flags": finished}
    if len({len(values) for values in rows.values()}) > 1:
        listed = ", ".join(f"{len(values)} {name}" for name, values in rows.items())
        raise ValueError(f"{listed}: give one of each per row.")
    if len(scored) % group_size:
        raise ValueError(f"{len(scored)} rows are not a multiple of {group_size} samples per problem.")
    metrics: dict[str, list[float]] = defaultdict(list)
    _rewards(scored, group_size, metrics)
    for row in scored:
        for name, value in row.own.items():
            metrics[f"reward/own/{name}"].append(float(value))
    _shared(scored, completions, group_size, metrics)
    _accuracy(scored, metrics)
    for row, text, length in zip(scored, completions, tokens, strict=True):
        _prm(row, metrics)
        _steps(row, text, length, metrics)
    _guards(scored, metrics)
    metrics["completions/cut"] = [float(bool(row.cut_by)) for row in scored if row.cut_by is not None]
    metrics["completions/without_answer"] = [float(not row.answered) for row in scored]
    if finished is not None:
        metrics["completions/truncated"] = [float(not done) for done in finished]
    return {name: values for name, values in metrics.items() if values}


def _rewards(scored: Sequence[ScoredCompletion], group_size: int, metrics: dict[str, list[float]]) -> None:
    for row in scored:
        metrics["reward/process"].append(float(sum(row.step_rewards)))
        metrics["reward/outcome"].append(float(row.outcome))
        for position, reward in enumerate(row.step_rewards, start=1):
            metrics[f"reward/step_at_{_position(position)}"].append(float(reward))
    if group_size > 1:
        groups = (scored[start : start + group_size] for start in range(0, len(scored), group_size))
        metrics["reward/no_signal"] = [float(_all_alike(group)) for group in groups]


def _shared(
    scored: Sequence[ScoredCompletion], completions: Sequence[str], group_size: int, metrics: dict[str, list[float]]
) -> None:
    """Of which steps a problem's samples say something by themselves (`rlstep.core.process_sets`)."""
    numbers = prefix_numbers(completions, [row.steps for row in scored])
    if group_size < 3 or not any(numbers):
        return  # of two samples neither or both have a step
    ids_BS, mask_BS = pad_steps([torch.tensor(of_row, dtype=torch.long) for of_row in numbers])
    sizes_BS = set_sizes(process_sets(ids_BS, mask_BS, torch.arange(len(scored)) // group_size))
    shared_BS = (sizes_BS > 1) & (sizes_BS < group_size)
    metrics["group/shared_steps"] = shared_BS[mask_BS].float().tolist()


def _position(position: int) -> str:
    return f"{position:02d}" if position <= POSITIONS else f"{POSITIONS + 1}_on"


def _all_alike(group: Sequence[ScoredCompletion]) -> bool:
    """Whether all samples of a problem have the same step rewards and the same outcome reward."""
    first = [*group[0].step_rewards, group[0].outcome]
    return all(
        len(row.step_rewards) == len(first) - 1
        and all(math.isclose(a, b, abs_tol=_SAME) for a, b in zip([*row.step_rewards, row.outcome], first, strict=True))
        for row in group[1:]
    )


def _accuracy(scored: Sequence[ScoredCompletion], metrics: dict[str, list[float]]) -> None:
    metrics["accuracy"] = [float(row.correct) for row in scored]
    # All rows or none: rows whose steps all have labels are not a fair sample of the others.
    if all(row.checked for row in scored) and any(row.labels for row in scored):
        metrics["clean_accuracy"] = [float(row.clean) for row in scored]


def _prm(row: ScoredCompletion, metrics: dict[str, list[float]]) -> None:
    if row.step_scores is None:
        return
    if not row.cut_by or len(row.step_scores) == len(row.steps):
        score = vote_weight(solution_score(row.step_scores, "product"), "product")
        metrics["prm/score"].append(score)
        metrics["prm/gap"].append(score - row.correct)
    known = zip(row.step_scores, row.labels, strict=False)  # a PRM may have scored only the first steps
    metrics["prm/step_gap"] += [float(p) - label for p, label in known if label is not None]


def _steps(row: ScoredCompletion, text: str, length: int, metrics: dict[str, list[float]]) -> None:
    count = len(row.steps)
    metrics["steps/count"].append(float(count))
    metrics["steps/characters"] += [float(end - start) for start, end in row.steps]
    # The same for each step, so that the mean over steps is tokens over steps.
    metrics["steps/tokens"] += [length / max(count, 1)] * count
    earlier: set[str] = set()
    for start, end in row.steps:
        folded = " ".join(text[start:end].split())
        metrics["steps/repeated"].append(float(folded in earlier))
        earlier.add(folded)


def _guards(scored: Sequence[ScoredCompletion], metrics: dict[str, list[float]]) -> None:
    reasons = [reason for row in scored for reason in row.guards]
    if reasons:
        metrics["steps/withheld"] = [float(reason is not None) for reason in reasons]
        for name in sorted({*STEP_GUARDS, *reasons} - {None}):
            metrics[f"steps/withheld_{name}"] = [float(reason == name) for reason in reasons]


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
