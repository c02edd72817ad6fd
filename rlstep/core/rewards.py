"""From a verifier's step scores to step rewards, and from steps to the tokens that get the rewards.

p_k is the probability that step k of K is right, k = 1..K.
"""

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "SCHEMES",
    "beginning_rewards",
    "check_scheme",
    "pad_steps",
    "place_step_rewards",
    "step_rewards",
    "steps_to_first_error",
]

# Sums of class probabilities (positive + neutral) may exceed 1 by rounding in low precision.
_ROUNDING = 1e-2


def _sum(p_S: Tensor, *, centered: bool = False) -> Tensor:
    """p_k, or 2 p_k - 1 when centered: a step more likely wrong than right then costs something."""
    return 2 * p_S - 1 if centered else p_S


def _log(p_S: Tensor, *, floor: float) -> Tensor:
    """max(log p_k, floor), floor < 0; the sum is the log of Lightman et al.'s product score (2305.20050, 2.6)."""
    if not floor < 0:
        raise ValueError(f"scheme 'log': floor={floor} bounds log p, so it must be below 0, for example -10.")
    return torch.log(p_S.clamp_min(torch.finfo(p_S.dtype).tiny)).clamp_min(floor)


def _clip(p_S: Tensor, *, eta: float) -> Tensor:
    """min(p_k - eta, 0): steps at or above eta get nothing (Gao et al., 2410.15115)."""
    return (p_S - eta).clamp_max(0)


def _delta(p_S: Tensor) -> Tensor:
    """p_k - p_{k+1} for k < K-1, p_{K-1} at K-1, 0 at K (Gao et al., 2410.15115).

    The return from step k < K is p_k, so additional steps gain nothing; the last step is left to the outcome.
    """
    following_S = torch.zeros_like(p_S)
    following_S[:-2] = p_S[1:-1]
    rewards_S = p_S - following_S
    rewards_S[-1:] = 0
    return rewards_S


def _clip_delta(p_S: Tensor, *, eta: float) -> Tensor:
    """Delta of the clipped scores (Gao et al., 2410.15115)."""
    return _delta(_clip(p_S, eta=eta))


def _progress(p_S: Tensor, *, p0: float) -> Tensor:
    """p_k - p_{k-1}, where p_0 is the prompt's value: potential-based shaping; the sum is p_K - p_0."""
    return p_S - torch.cat([p_S.new_full((1,), p0), p_S])[:-1]


def _min_form(p_S: Tensor, *, temperature: float = 0.1, total: str = "soft") -> Tensor:
    """softmax(-q / T)_k q_k with q = 2p - 1; the sum tends to min q as T -> 0 (CJReinforce/PURE, T = 0.1).

    The softmax leaves some weight on high steps, so adding such steps raises the sum. With total="exact" it is
    softmax(-q / T)_k min q: the credit is split the same way, but the sum is min q, which padding cannot raise.
    """
    if not temperature > 0:
        raise ValueError(f"scheme 'min_form': temperature={temperature} must be above 0, for example 0.1.")
    if total not in ("soft", "exact"):
        raise ValueError(f"scheme 'min_form': total={total!r} is not one of soft, exact.")
    if not len(p_S):
        return p_S
    q_S = 2 * p_S - 1
    return torch.softmax(-q_S / temperature, dim=0) * (q_S if total == "soft" else q_S.min())


def _coherence(p_S: Tensor, *, windows: Sequence[int] = (2, 3), spread: float = 1.0) -> Tensor:
    """Every step gets the solution's score: mean p over short windows, less where p swings within them (PROGRS).

    A window of mean m and standard deviation s scores m exp(-spread s / m) (2604.02341, equation 5); then the mean over
    a width's windows and over the widths. A solution shorter than a window is one window.
    """
    if not windows or not all(isinstance(w, int) and not isinstance(w, bool) and w >= 2 for w in windows):
        raise ValueError(f"scheme 'coherence': windows={windows!r} must be widths of 2 steps or more, such as [2, 3].")
    if not spread >= 0:
        raise ValueError(f"scheme 'coherence': spread={spread} must be 0 or more, for example 1.")
    if not len(p_S):
        return p_S
    of_widths = []
    for width in windows:
        p_WN = p_S.unfold(0, min(width, len(p_S)), 1)
        mean_W = p_WN.mean(dim=1).clamp_min(torch.finfo(p_S.dtype).tiny)
        of_widths.append((mean_W * torch.exp(-spread * p_WN.std(dim=1, correction=0) / mean_W)).mean())
    return torch.stack(of_widths).mean().expand_as(p_S).clone()


_SCHEMES: dict[str, Callable[..., Tensor]] = {
    "sum": _sum,
    "log": _log,
    "clip": _clip,
    "delta": _delta,
    "clip_delta": _clip_delta,
    "progress": _progress,
    "min_form": _min_form,
    "coherence": _coherence,
}
SCHEMES = tuple(_SCHEMES)


def check_scheme(scheme: str, parameters: dict) -> None:
    """Raises a ValueError unless the scheme exists and takes these parameters; called early, so that typos show."""
    if scheme not in _SCHEMES:
        raise ValueError(f"unknown reward scheme '{scheme}'; choose one of {', '.join(SCHEMES)}.")
    known = list(inspect.signature(_SCHEMES[scheme]).parameters.values())[1:]
    names = [parameter.name for parameter in known]
    unknown = sorted(set(parameters) - set(names))
    if unknown:
        takes = f"takes {', '.join(names)}" if names else "takes no parameters"
        raise ValueError(f"reward scheme '{scheme}' has no parameter '{unknown[0]}'; it {takes}.")
    missing = [p.name for p in known if p.default is inspect.Parameter.empty and p.name not in parameters]
    if missing:
        raise ValueError(f"reward scheme '{scheme}' needs '{missing[0]}', for which no value is published; give one.")


def step_rewards(step_scores_S: Tensor, scheme: str, **parameters) -> Tensor:
    """One solution's step rewards.

    Args:
        step_scores_S: (S,) probability in [0, 1] that each step is right; 0/1 labels work too.
        scheme: how rewards are computed from the scores (below).
        **parameters: the scheme's own.

    The schemes::

        sum         p_k, or 2 p_k - 1          centered=False        raw; padding with easy steps pays
        log         max(log p_k, floor)        floor (below 0)       return: log of the product score
        clip        min(p_k - eta, 0)          eta                   most steps get 0
        delta       p_k - p_{k+1}              none                  telescopes; p_{K-1} at K-1, 0 at K
        clip_delta  delta of clip              eta
        progress    p_k - p_{k-1}              p0 (prompt's value)   telescopes
        min_form    softmax(-q/T)_k q_k        temperature=0.1,      q = 2p - 1; return: about min q, or exactly
                                               total="soft"          that with total="exact"
        coherence   mean of m exp(-spread s/m) windows=(2, 3),       m, s of p in short windows; the same number for
                                               spread=1.0            every step, which is not to be summed over them

    Sources: sum, log and clip to clip_delta as in Gao et al. (2410.15115) and Lightman et al. (2305.20050); progress
    after PAV (2410.08146); min_form from PURE (CJReinforce/PURE); coherence from PROGRS (2604.02341), whose window term
    it is; that windows and widths are averaged, the widths and the spread are our choice.

    Returns:
        (S,) rewards; empty for a solution without steps.

    Raises:
        ValueError: unknown scheme, unknown or missing parameter, scores that are not probabilities or not (S,).
    """
    check_scheme(scheme, parameters)
    if step_scores_S.dim() != 1:
        raise ValueError(f"step scores have shape {tuple(step_scores_S.shape)}; give one solution's, of shape (S,).")
    p_S = step_scores_S if step_scores_S.is_floating_point() else step_scores_S.float()
    if not ((p_S >= -_ROUNDING) & (p_S <= 1 + _ROUNDING)).all():
        raise ValueError("step scores must be probabilities in [0, 1]; pass logits through a sigmoid first.")
    return _SCHEMES[scheme](p_S.clamp(0, 1), **parameters)


# Schemes under which what a step is paid depends on later steps: on the next one, or on all of them.
_READ_NEXT, _READ_ALL = ("delta", "clip_delta"), ("min_form", "coherence")


def beginning_rewards(step_scores_S: Tensor, scheme: str, **parameters) -> Tensor:
    """Step rewards of a solution's first steps, where the later ones have no scores.

    A step whose reward depends on scores that are not there gets none above 0::

        sum, log, clip, progress   as `step_rewards`: no step depends on a later one
        delta, clip_delta          as in the whole solution, but of the last scored step the lesser of p, or its
                                   clipped p, and 0; from a step on they sum to no more than in the whole solution
        min_form, coherence        the lesser of `step_rewards` and 0: every step depends on all of them

    Args:
        step_scores_S: (S,) the scores of the first steps; at least one more step has none.
        scheme, **parameters: as in `step_rewards`.

    Returns:
        (S,) rewards.

    Raises:
        ValueError: as in `step_rewards`.
    """
    check_scheme(scheme, parameters)
    if scheme not in _READ_NEXT:
        rewards_S = step_rewards(step_scores_S, scheme, **parameters)
        return rewards_S.clamp_max(0) if scheme in _READ_ALL else rewards_S
    # The last one stands before an unknown step as if that were worth 0, and is then paid nothing for it.
    of_steps = "sum" if scheme == "delta" else "clip"
    values_S = step_rewards(step_scores_S, of_steps, **parameters)
    rewards_S = values_S - torch.cat([values_S[1:], values_S.new_zeros(len(values_S[:1]))])
    rewards_S[-1:].clamp_(max=0)
    return rewards_S


def steps_to_first_error(step_scores_S: Tensor, threshold: float) -> int:
    """How many steps there are up to and including the first one below `threshold`; all of them if none is.

    A PRM is trained up to the first wrong step (Lightman et al., 2.6), so its scores of later steps mean nothing and
    must not be rewarded. Cut the scores before `step_rewards`, not the rewards after it: delta, clip_delta and min_form
    compare a step with later ones, which would leak into the rewards before the cut.

    Args:
        step_scores_S: (S,) probability that each step is right.
        threshold: a step is called wrong iff its score is below this, in [0, 1].
    """
    wrong = (step_scores_S < threshold).nonzero()
    return int(wrong[0]) + 1 if len(wrong) else len(step_scores_S)


def pad_steps(step_values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pads each solution's values with 0 to (B, S), where S is the largest number of steps.

    Args:
        step_values: B tensors (S_i,), one value per step.

    Returns:
        values_BS, and step_mask_BS (bool), true where a step exists.

    Raises:
        ValueError: no solutions.
    """
    if not step_values:
        raise ValueError("no solutions to pad; give at least one.")
    values_BS = torch.nn.utils.rnn.pad_sequence(list(step_values), batch_first=True)
    counts_B = torch.tensor([len(values) for values in step_values], device=values_BS.device)
    return values_BS, torch.arange(values_BS.shape[1], device=values_BS.device) < counts_B[:, None]


def place_step_rewards(
    step_rewards: Sequence[Tensor],
    step_tokens: Sequence[Sequence[int]],
    outcomes_B: Tensor,
    last_tokens_B: Tensor,
    T: int,
) -> Tensor:
    """Token rewards: each step's reward on the step's last token, the outcome on the completion's last token.

    Where several steps end at one token, or a step ends at the last token, the rewards add up.

    Args:
        step_rewards: B tensors (S_i,).
        step_tokens: for each solution, the index of each step's last token within the completion.
        outcomes_B: (B,) the outcome's reward, 0 if outcomes are not rewarded.
        last_tokens_B: (B,) index of each completion's last token (its end-of-sequence token where it has one).
        T: the padded completion length.

    Returns:
        rewards_BT, of `outcomes_B`'s dtype and device.

    Raises:
        ValueError: numbers of rows or steps differ, a step ends after the last token, or the last token is not below T.
    """
    B = len(outcomes_B)
    if not len(step_rewards) == len(step_tokens) == len(last_tokens_B) == B:
        raise ValueError(
            f"{len(step_rewards)} rows of step rewards, {len(step_tokens)} of step tokens, {B} outcomes and "
            f"{len(last_tokens_B)} last tokens; give one of each for every completion."
        )
    rows = zip(step_rewards, step_tokens, last_tokens_B.tolist(), strict=True)
    for row, (rewards_S, tokens, last) in enumerate(rows):
        if len(rewards_S) != len(tokens):
            raise ValueError(f"row {row}: {len(rewards_S)} step rewards for {len(tokens)} step tokens.")
        if not all(0 <= token <= last for token in tokens) or not 0 <= last < T:
            raise ValueError(
                f"row {row}: step tokens {list(tokens)} and last token {last} must lie in order in 0..{T - 1}; "
                "count from the completion's first token."
            )
    rewards_BT = outcomes_B.new_zeros(B, T)
    rewards_BT[torch.arange(B, device=rewards_BT.device), last_tokens_B] = outcomes_B
    row_index = torch.tensor([row for row, tokens in enumerate(step_tokens) for _ in tokens], dtype=torch.long)
    token_index = torch.tensor([token for tokens in step_tokens for token in tokens], dtype=torch.long)
    if len(row_index):
        index = (row_index.to(rewards_BT.device), token_index.to(rewards_BT.device))
        rewards_BT.index_put_(index, torch.cat(list(step_rewards)).to(rewards_BT), accumulate=True)
    return rewards_BT
