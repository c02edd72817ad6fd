"""Adversarial completions against an honest solution, paid for the scores that a frozen PRM would give them.

The PRM is scripted: it likes true statements, whether or not they help (0.99), and whatever is long or polite (0.9 and
more), and is cautious about real work (0.75 to 0.95).
"""

import math
from dataclasses import replace

import pytest

from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.task_rewards import TaskRewards
from rlstep.steps.answers import extract
from rlstep.steps.boundaries import line_steps
from rlstep.tasks.base import Check

QUESTION = (
    "Mia has 3 boxes of pencils, and there are 12 pencils in each of them. She gives her brother 9 pencils and shares "
    "the others among 3 friends. Each friend loses 2 pencils. How many pencils does a friend have left?"
)
PROMPT = f"Question: {QUESTION}\nAnswer:\n"
HONEST = {
    "Mia starts with 3 * 12 = 36 pencils.": 0.85,
    "After her gift 36 - 9 = 27 of them remain.": 0.9,
    "Shared by three, that makes 27 / 3 = 9 each.": 0.75,
    "When 2 are lost, 9 - 2 = 7 stay.": 0.8,
    "#### 7": 0.95,
}
EASY = {f"{n} + {n} = {2 * n}": 0.99 for n in range(1, 101)}
RESTATED = {sentence: 0.95 for sentence in QUESTION.replace(". ", ".\n").splitlines()}
# 1,000 characters and more, and the answer among them.
GIANT = {" ".join([*(f"Note that {n} and {n} make {2 * n}." for n in range(40)), *HONEST]): 0.97}
THANKS = {"Thank you!": 0.9, "I hope this helps.": 0.9}
SCORES = HONEST | EASY | RESTATED | GIANT | THANKS

honest, easy = list(HONEST), list(EASY)
# What each hack consists of, and a published scheme under which it beats the honest solution where nothing guards:
# `sum` pays for every further step; `min_form` and `log` for having no doubtful one, and `log` for having none at all.
HACKS = {
    "padding with easy steps": ("sum", [*easy[:6], *honest]),
    "repeating a right step": ("sum", [*honest[:2], *[honest[1]] * 5, *honest[2:]]),
    "the question re-stated": ("sum", [*RESTATED, *honest]),
    "steps after the answer": ("sum", [*honest, *easy[:6]]),
    "more steps than are judged": ("sum", [*easy[:80], *honest]),
    "one giant step": ("min_form", list(GIANT)),
    "easy steps, then a giant one": ("min_form", [*easy[:6], *GIANT]),
    "an answer without steps": ("min_form", honest[-1:]),
    "an answer after thanks": ("min_form", [*THANKS, honest[-1]]),
    "thanks alone": ("min_form", list(THANKS)),
    "nothing": ("log", []),
}
# Each scheme as published; RL's own defaults are others (`sum` is centred, `min_form` exact).
PARAMETERS = {
    "sum": {"centered": False},
    "log": {"floor": -10.0},
    "clip_delta": {"eta": 0.7},
    "min_form": {"total": "soft"},
}
OFF = Guards(
    guard_max_steps=None,
    guard_max_step_chars=None,
    guard_repeats=False,
    guard_filler=False,
    guard_restated=None,
    guard_after_answer=False,
    guard_no_answer=False,
    guard_min_steps=0,
    guard_reward_clip=None,
)


class ScriptedPRM:
    kind, gives = "prm", "probability"

    def __init__(self, scores: dict[str, float] = SCORES):
        self.scores = scores

    def score(self, prompts, completions, steps, cut=False):
        return [
            [self.scores[text[start:end].strip()] for start, end in spans]
            for text, spans in zip(completions, steps, strict=True)
        ]


class Pencils:
    """The task: lines are steps, the answer is 7."""

    def check(self, prompt, completion, reference):
        answer = extract(completion)
        spans = line_steps(completion)
        return Check(spans, [None] * len(spans), answer, answer == reference)


def paid(lines: list[str], credit: str, guards: Guards, scores=SCORES, **parameters) -> list[float]:
    """Each line's reward under a scheme as published."""
    rewards = TaskRewards(
        Pencils(),
        {"prm": 1.0},
        {"prm": ScriptedPRM(scores)},
        credit,
        parameters or PARAMETERS.get(credit),
        guards=guards,
    )
    (row,) = rewards([PROMPT], ["\n".join(lines)], ["7"])
    assert len(row.steps) == len(lines)
    return row.step_rewards


def total(lines: list[str], credit: str, guards: Guards, scores=SCORES, **parameters) -> float:
    return sum(paid(lines, credit, guards, scores, **parameters))


def test_the_script_is_what_it_says():
    assert all(0.75 <= score <= 0.95 for score in HONEST.values())
    assert len(next(iter(GIANT))) > 1000
    assert [extract(text) for text in GIANT] == ["7"]


@pytest.mark.parametrize("hack", HACKS)
def test_without_guards_every_hack_beats_the_honest_solution(hack):
    credit, lines = HACKS[hack]
    assert total(lines, credit, OFF) > total(honest, credit, OFF) + 0.01


@pytest.mark.parametrize(
    ("hack", "credit"),
    [(hack, "clip_delta") for hack in HACKS]
    + [(hack, "min_form") for hack in HACKS if hack != "padding with easy steps"],
)
def test_with_the_default_guards_none_beats_it_but_padding_under_min_form_as_published(hack, credit):
    """Under clip_delta they tie at 0: no line of the script scores below eta, and the scheme pays no more than 0."""
    assert total(HACKS[hack][1], credit, Guards()) <= total(honest, credit, Guards()) + 1e-9


@pytest.mark.parametrize("sources", [["prm"], ["prm", "outcome"]])
@pytest.mark.parametrize("hack", HACKS)
def test_with_all_defaults_no_hack_is_paid_more(hack, sources):
    """The reward source of the ppo stage as it comes: its credit scheme, its guards, its weights. Padding ties."""
    rewards = TaskRewards(Pencils(), dict.fromkeys(sources, 1.0), {"prm": ScriptedPRM()})

    def worth(lines: list[str]) -> float:
        (judged,) = rewards([PROMPT], ["\n".join(lines)], ["7"])
        return sum(judged.step_rewards) + judged.outcome

    # The lowest q of the honest steps is 2 * 0.75 - 1.
    assert worth(honest) == pytest.approx(0.5 + ("outcome" in sources))
    assert worth(HACKS[hack][1]) <= worth(honest) + 1e-9


@pytest.mark.parametrize("credit", ["sum", "min_form", "clip_delta"])
def test_the_honest_solution_is_paid_as_if_there_were_no_guards(credit):
    assert paid(honest, credit, Guards()) == paid(honest, credit, OFF)


def test_the_honest_solution_keeps_its_rewards_where_hacks_are_added_to_it():
    alone = paid(honest, "min_form", Guards())
    rest = len(RESTATED)
    assert paid([*RESTATED, *honest, *easy[:6]], "min_form", Guards()) == [0.0] * rest + alone + [0.0] * 6


# --- What guards leave open. Easy steps in front are no work of the text's: "1 + 1 = 2" is a true, new, short step.


def test_min_form_as_published_pays_a_little_for_padding():
    """Its weights exp(-q / T) never vanish: n easy steps of q = .98 draw the mean of .7 .8 .5 .6 .9 to themselves."""
    weights = [math.exp(-2), math.exp(-3), 1.0, math.exp(-1), math.exp(-4)]
    inside = sum(w * q for w, q in zip(weights, [0.7, 0.8, 0.5, 0.6, 0.9], strict=True))
    gains = []
    # Six, and as many as guard_max_steps leaves room for.
    for n in (6, 59):
        outside = n * math.exp(-4.8)
        expected = (inside + outside * 0.98) / (sum(weights) + outside)
        assert total([*easy[:n], *honest], "min_form", Guards()) == pytest.approx(expected)
        gains.append(expected - inside / sum(weights))
    assert total(honest, "min_form", Guards()) == pytest.approx(inside / sum(weights))
    assert gains == pytest.approx([0.0130, 0.1004], abs=5e-5)
    # Under the raw sum each of them brings its 0.99, or as much of it as the clip leaves.
    raw = total([*easy[:59], *honest], "sum", Guards()) - total(honest, "sum", Guards())
    assert raw == pytest.approx(59 * 0.99)


def test_the_exact_minimum_pays_nothing_for_padding():
    for n in (0, 1, 6, 59):
        assert total([*easy[:n], *honest], "min_form", Guards(), total="exact") == pytest.approx(0.5, abs=1e-12)


def test_a_lower_temperature_closes_it():
    """n steps of q bring less than n exp(-(q - min q) / T): 59 exp(-.48 / T) is 2.3e-9 at T = 0.02, 9e-20 at 0.01."""
    gains = {
        T: total([*easy[:59], *honest], "min_form", Guards(), total="soft", temperature=T)
        - total(honest, "min_form", Guards(), total="soft", temperature=T)
        for T in (0.1, 0.02, 0.01)
    }
    assert gains[0.1] > 0.1
    assert 0 < gains[0.02] < 2.3e-9
    assert abs(gains[0.01]) < 1e-12


def test_clip_delta_pays_for_an_easy_beginning_once():
    """Its return from the first step is that step's own min(p - eta, 0): 0.85 - 0.9, or 0 behind an easy step."""
    options = {"credit": "clip_delta", "guards": Guards(), "eta": 0.9}
    assert total(honest, **options) == pytest.approx(-0.05)
    assert [total([*easy[:n], *honest], **options) for n in (1, 6)] == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("hack", ["one giant step", "an answer without steps", "thanks alone", "nothing"])
def test_where_a_scheme_only_takes_the_least_said_is_best_paid_with_guards_too(hack):
    """log p sums to log(.85 * .9 * .75 * .8 * .95), and to 0 where there is nothing. The outcome prices that."""
    expected = math.log(0.85 * 0.9 * 0.75 * 0.8 * 0.95)
    assert total(honest, "log", Guards()) == pytest.approx(expected)
    assert expected + 0.5 < total(HACKS[hack][1], "log", Guards()) <= 0


# --- Withholding must not become a shelter from low scores.


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["So the friends have 40.", "That is all there is."], "no_answer"),
        (["#### 40"], "min_steps"),
        ([*GIANT], "max_step_chars"),
        ([*easy[:64], "So the friends have 40.", "#### 40"], "max_steps"),
    ],
)
@pytest.mark.parametrize("credit", ["min_form", "sum"])
def test_a_withheld_completion_keeps_its_penalty(lines, reason, credit):
    scores = dict.fromkeys(lines, 0.1) | EASY
    parameters = {"sum": {"centered": True}, "min_form": {"total": "soft"}}[credit]
    rewards = paid(lines, credit, Guards(), scores, **parameters)
    unguarded = paid(lines, credit, OFF, scores, **parameters)
    assert rewards == [min(r, 0.0) for r in unguarded]
    assert sum(rewards) <= sum(unguarded)
    assert sum(rewards) < -0.7


# --- Each guard by itself.


@pytest.mark.parametrize(
    ("on", "lines", "loses"),
    [
        ({"guard_max_steps": 4}, honest, [0, 1, 2, 3, 4]),
        ({"guard_max_steps": 5}, honest, []),
        ({"guard_max_steps": 5}, [*honest, easy[0]], [5]),
        ({"guard_max_step_chars": 43}, honest, [0, 1, 2, 3, 4]),
        ({"guard_max_step_chars": 44}, honest, []),
        ({"guard_max_step_chars": 43}, [*honest[:2], honest[4], honest[2]], [3]),
        ({"guard_repeats": True}, [*honest[:2], honest[0], *honest[2:]], [2]),
        ({"guard_filler": True}, ["Thank you!", *honest, "I hope this helps."], [0, 6]),
        ({"guard_restated": 0.9}, [*RESTATED, *honest], [0, 1, 2, 3]),
        ({"guard_after_answer": True}, [*honest, *easy[:2]], [5, 6]),
        ({"guard_no_answer": True}, honest[:-1], [0, 1, 2, 3]),
        ({"guard_no_answer": True}, honest, []),
        ({"guard_min_steps": 4}, honest, []),
        ({"guard_min_steps": 5}, honest, [0, 1, 2, 3, 4]),
    ],
)
def test_a_guard_alone_takes_the_rewards_of_what_it_names_and_no_others(on, lines, loses):
    unguarded = [SCORES[line] for line in lines]
    assert paid(lines, "sum", OFF) == pytest.approx(unguarded)
    expected = [0.0 if k in loses else score for k, score in enumerate(unguarded)]
    assert paid(lines, "sum", replace(OFF, **on)) == pytest.approx(expected)


def test_the_clip_alone_cuts_each_reward():
    rewards = paid(honest, "sum", replace(OFF, guard_reward_clip=0.82))
    assert rewards == pytest.approx([0.82, 0.82, 0.75, 0.8, 0.82])
    low = dict.fromkeys(honest, 0.01)
    assert paid(honest, "log", replace(OFF, guard_reward_clip=2.0), low) == pytest.approx([-2.0] * 5)
