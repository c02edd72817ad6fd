import math
import time

import pytest

from rlstep.policy.rewards import guards as guarding
from rlstep.policy.rewards.guards import Guards
from rlstep.runtime.config import StrictParser
from rlstep.runtime.errors import UserError
from rlstep.steps.answers import extract
from rlstep.steps.boundaries import line_steps
from rlstep.tasks.increasing import Increasing

PROMPT = (
    "Question: Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting. "
    "How much did she earn?\nAnswer:\n"
)


def reasons(completion: str, prompt: str = PROMPT, **changes) -> list[str | None]:
    steps = line_steps(completion)
    place = guarding.answer_step(completion, steps, extract)
    return guarding.guard_reasons(prompt, completion, steps, place, Guards(**changes))


# --- Honest steps.

HONEST = [
    # arithmetic
    ("Left to right, mod 20: 7 + 3 * 7 max 8\n", "7 + 3 = 10\n10 * 7 = 10\n10 max 8 = 10\nAnswer: 10"),
    # increasing
    ("Increasing? 3 8 12 7\n", "3: yes\n8 > 3: yes\n12 > 8: yes\n7 > 12: no\nAnswer: no"),
    # word problems
    (
        PROMPT,
        "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\n"
        "Working 50 minutes, she earned 0.2 x 50 = $<<0.2*50=10>>10.\n"
        "#### 10",
    ),
    (
        "Question: Let S be the price of the shoes. Ann spent S + 30 + 46 and had $16 of $200 left. Find S.\nAnswer:\n",
        "S + 30 + 46\nSo she spent S + 76 dollars in all.\nS + 76 = 200 - 16 = 184\nyes\nTherefore S = 108.\n#### 108",
    ),
    # LaTeX
    (
        r"Find the value of $x + y$ given that $\frac{x}{2} + \frac{y}{3} = 4$ and $x - y = 3$.",
        "Step 1: Multiply by 6: $3x + 2y = 24$.\n"
        "Step 2: Since $x = y + 3$, we get $3(y + 3) + 2y = 24$, so $y = 3$.\n"
        "$$x - y = 3$$\n"
        "So x = 6\n"
        r"\frac{1}{2} \cdot \frac{1}{2} \cdot \frac{1}{2} \cdot \frac{1}{2} \cdot \frac{1}{2} = 2^{-5}"
        "\n"
        r"\begin{pmatrix} 1 & 0 & 0 & 0 \\ 0 & 1 & 0 & 0 \\ 0 & 0 & 1 & 0 \\ 0 & 0 & 0 & 1 \end{pmatrix}"
        "\n"
        r"The answer is $\boxed{9}$.",
    ),
]


@pytest.mark.parametrize(("prompt", "completion"), HONEST)
def test_no_default_guard_hits_honest_steps(prompt, completion):
    found = reasons(completion, prompt)
    assert found == [None] * len(found)
    place = guarding.answer_step(completion, line_steps(completion), extract)
    assert guarding.completion_guard(found, place, Guards()) is None


def test_no_default_guard_hits_the_solutions_of_the_worked_example():
    task = Increasing()
    found = [reasons(solution.completion, solution.prompt) for solution in task.demonstrations(20, seed=0)]
    assert {reason for row in found for reason in row} == {None}


# --- Single guards, at their bounds.


@pytest.mark.parametrize(
    ("step", "copy"),
    [
        ("7 + 3 = 10", "  7 +  3 = 10 "),
        ("So x = 4", "SO X = 4"),
        ("1. So x = 4", "2. So x = 4"),
        ("(1) So x = 4", "So x = 4"),
        ("Step 3: So x = 4", "**Step 4:** So x = 4"),
        ("### Step 3 - So x = 4", "- So x = 4"),
    ],
)
def test_a_step_that_says_what_an_earlier_one_said_is_a_repeat(step, copy):
    assert reasons(f"{step}\nThen y = 5\n{copy}\n#### 4") == [None, None, "repeats", None]
    assert reasons(f"{step}\nThen y = 5\n{copy}\n#### 4", guard_repeats=False) == [None] * 4


@pytest.mark.parametrize(
    ("step", "other"),
    [
        ("3: yes", "8: yes"),
        ("7 + 3 = 10", "7 + 3 = 11"),
        ("2.5 + 1 = 3.5", "3.5 + 1 = 3.5"),
        ("x = 4", "x = -4"),
        ("7.", "8."),
        ("Step 3 of the proof holds", "Step 4 of the proof holds"),
    ],
)
def test_steps_that_differ_in_a_number_or_a_sign_are_no_repeats(step, other):
    assert reasons(f"{step}\n{other}\n#### 4") == [None, None, None]


def test_a_loop_within_a_step_is_a_repeat_from_the_third_time_on():
    # 10 words. Said twice, they make 17 runs of 4 words, of which 10 differ: 7 of 17 have stood there before
    sentence = "the number of pencils left is what we look for, "
    assert len(sentence.split()) == 10
    assert reasons(sentence * 2 + "\n#### 4") == [None, None]
    # 17 of 27
    assert reasons(sentence * 3 + "\n#### 4") == ["repeats", None]
    # below 20 words there is no telling
    assert reasons("so we have " * 6 + "\n#### 4") == [None, None]
    assert reasons("so we have " * 7 + "\n#### 4") == ["repeats", None]


@pytest.mark.parametrize(
    "step",
    [
        "...",
        "---",
        "**",
        r"\[",
        "Step 3:",
        "Thank you",
        "Thank you very much!",
        "Okay.",
        "Sure, here is",
        "Sure! Here is the solution:",
        "Let\u2019s think step by step.",
        "Okay, let me think about this problem step by step...",
        "I hope this helps!",
        "- Let me know if you have any other questions.",
    ],
)
def test_steps_without_content_are_filler(step):
    assert reasons(f"{step}\n7 + 3 = 10\n#### 10") == ["filler", None, None]
    assert reasons(f"{step}\n7 + 3 = 10\n#### 10", guard_filler=False) == [None, None, None]


@pytest.mark.parametrize(
    "step",
    [
        "yes",
        "7",
        "So x = 4",
        r"\pi",
        "Sure, x = 4",
        "Let's think: 7 + 3 = 10",
        "Let's solve for x",
        "Here is the sum: 10",
        "Thank you notes cost 5 dollars",
        "Step 3: yes",
        "Первый шаг",
    ],
)
def test_short_steps_with_content_are_none(step):
    assert reasons(f"{step}\n3 * 3 = 9\n#### 10") == [None, None, None]


def test_the_step_that_gives_the_answer_is_never_empty():
    assert reasons("first\n3 * 3 = 9\n#### first") == ["filler", None, None]
    assert reasons("7\n#### 7") == [None, None]


@pytest.mark.parametrize(
    "step",
    [
        "Weng earns $12 an hour for babysitting.",
        "weng earns 12 an hour for babysitting, yesterday she just did 50 minutes of babysitting",
        # eleven of twelve words: the first is new
        "So yesterday, she just did 50 minutes of babysitting. How much did",
    ],
)
def test_the_question_again_is_restated(step):
    assert reasons(f"{step}\n3 * 3 = 9\n#### 10") == ["restated", None, None]
    assert reasons(f"{step}\n3 * 3 = 9\n#### 10", guard_restated=None) == [None, None, None]


@pytest.mark.parametrize(
    "step",
    [
        # seven of eight words are copied: 0.875
        "So Weng earns $12 an hour for babysitting.",
        # four words, all copied
        "Yesterday, she just did",
        # the problem's words, in no run of four
        "An hour of babysitting earns Weng $12, but she did 50 minutes.",
        # 48 in the place of 50
        "Yesterday, she just did 48 minutes of babysitting.",
    ],
)
def test_the_problems_words_in_a_step_of_its_own_are_not(step):
    assert reasons(f"{step}\n3 * 3 = 9\n#### 10") == [None, None, None]


def test_the_share_that_counts_as_restated_is_a_setting():
    step = "So Weng earns $12 an hour for babysitting."
    assert reasons(f"{step}\n3 * 3 = 9\n#### 10", guard_restated=0.875) == ["restated", None, None]


def test_words_are_copied_in_runs_of_four_or_more():
    # "she just did 50", four words of five
    assert reasons("She just did 50 situps\n#### 10", guard_restated=0.8) == ["restated", None]
    # "just did 50"
    assert reasons("He just did 50 situps\n#### 10", guard_restated=0.1) == [None, None]


@pytest.mark.parametrize("equation", ["7 + 3 * 7 max 8", r"$\frac{a}{b} \leq \sqrt{c} \cdot \sin d \cos e$"])
def test_an_equation_of_the_prompt_may_be_copied(equation):
    assert reasons(f"{equation}\n#### 7", f"Let us look at {equation} now.\n") == [None, None]


def test_the_longest_step_admitted_has_as_many_characters_as_the_setting_says():
    # the newline is not counted
    assert reasons("x" * 30 + "\n#### 4", guard_max_step_chars=30) == [None, None]
    assert reasons("x" * 31 + "\n#### 4", guard_max_step_chars=30) == ["max_step_chars", None]


def test_what_is_named_first():
    text = "Okay\n#### 4\nOkay\n" + "x" * 1001
    assert reasons(text, guard_max_steps=2) == ["filler", None, "after_answer", "after_answer"]
    assert reasons(text, guard_max_steps=3, guard_after_answer=False) == ["filler", None, "filler", "max_steps"]
    assert reasons(text, guard_after_answer=False) == ["filler", None, "filler", "max_step_chars"]


# --- The answer, and whole completions.


def test_the_answer_is_where_one_first_stands():
    completion = "7 + 3 = 10\nAnswer: 3\nNo, wait.\nAnswer: 10"
    steps = line_steps(completion)
    assert guarding.answer_step(completion, steps, extract) == 1
    assert guarding.answer_step(completion, steps, lambda text: "10" if text.endswith("Answer: 10") else None) == 3
    assert guarding.answer_step(completion[:10], line_steps(completion[:10]), extract) is None
    assert guarding.answer_step("", [], extract) is None


def test_the_answer_is_not_looked_for_behind_the_step_that_gives_it():
    asked = []
    completion = "7 + 3 = 10\nAnswer: 3\nNo, wait."
    guarding.answer_step(completion, line_steps(completion), lambda text: asked.append(text) or extract(text))
    assert asked == ["7 + 3 = 10\n", "7 + 3 = 10\nAnswer: 3\n"]


@pytest.mark.parametrize(
    ("found", "answer", "changes", "expected"),
    [
        ([None, None], 1, {}, None),
        ([None, None], None, {}, "no_answer"),
        ([None, None], None, {"guard_no_answer": False}, None),
        ([None], 0, {}, "min_steps"),
        ([None], 0, {"guard_min_steps": 0}, None),
        # steps without reasoning are not steps before the answer
        (["filler", "restated", None], 2, {}, "min_steps"),
        ([None, "max_step_chars", None], 2, {}, "max_step_chars"),
        ([None, "max_steps"], 1, {}, "max_steps"),
        ([None, "max_steps"], None, {"guard_no_answer": False}, "max_steps"),
        # behind the answer, the answer does not rest on it
        ([None, None, "max_steps"], 1, {}, None),
    ],
)
def test_when_a_whole_completion_is_withheld(found, answer, changes, expected):
    assert guarding.completion_guard(found, answer, Guards(**changes)) == expected


def test_credit_is_given_to_all_but_steps_without_reasoning():
    found = [None, "filler", "repeats", "restated", "max_step_chars", None, "after_answer", "max_steps"]
    assert guarding.scored_steps(found) == [0, 4, 5, 7]


# --- What is paid.


def test_withheld_rewards_lose_what_is_positive_alone():
    found = [None, "max_steps", "max_steps", None]
    guards = Guards(guard_no_answer=False, guard_reward_clip=None)
    assert guarding.apply_guards([0.5, 0.5, -0.5, -2.0], found, 0, Guards(guard_min_steps=0)) == [0.5, 0.0, -0.5, -1.0]
    assert guarding.apply_guards([0.5, 0.5, -0.5, -2.0], found, None, guards) == [0.0, 0.0, -0.5, -2.0]
    assert guarding.apply_guards([0.5, -0.25, 0.5], [None] * 3, None, Guards()) == [0.0, -0.25, 0.0]


def test_rewards_of_fewer_steps_than_there_are():
    assert guarding.apply_guards([0.5, -0.5], [None] * 4, 3, Guards()) == [0.5, -0.5]
    assert guarding.apply_guards([], [], None, Guards()) == []


def test_each_reward_is_cut():
    assert guarding.clip_rewards([0.5, 3.0, -3.0, 1.0], Guards()) == [0.5, 1.0, -1.0, 1.0]
    assert guarding.clip_rewards([0.5, 3.0, -3.0], Guards(guard_reward_clip=2.0)) == [0.5, 2.0, -2.0]
    assert guarding.clip_rewards([0.5, 3.0, -3.0], Guards(guard_reward_clip=None)) == [0.5, 3.0, -3.0]


# --- Settings.


def test_all_faults_are_named_at_once():
    with pytest.raises(UserError) as raised:
        Guards(
            guard_max_steps=0,
            guard_max_step_chars=-1,
            guard_restated=1.5,
            guard_min_steps=-1,
            guard_reward_clip=0.0,
        )
    for name in ("max_steps is 0", "max_step_chars is -1", "restated is 1.5", "min_steps is -1", "reward_clip is 0.0"):
        assert f"guard_{name}; it must be" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guard_restated": math.nan}, "guard_restated is nan"),
        ({"guard_restated": 0.0}, "above 0 and up to 1, or null"),
        ({"guard_reward_clip": math.inf}, "guard_reward_clip is inf; it must be above 0 and finite"),
        ({"guard_reward_clip": math.nan}, "guard_reward_clip is nan"),
        ({"guard_max_steps": 3, "guard_min_steps": 3}, "guard_min_steps 3 and guard_max_steps 3, which counts the"),
    ],
)
def test_nonsense_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Guards(**changes)


def test_every_guard_is_an_option_that_a_recipe_can_switch_off(tmp_path):
    recipe = tmp_path / "off.yaml"
    names = ("max_steps", "max_step_chars", "restated", "reward_clip")
    recipe.write_text("".join(f"guard_{name}: null\n" for name in names) + "guard_min_steps: 0\n")
    options = [f"--guard_{name}=false" for name in ("repeats", "filler", "after_answer", "no_answer")]
    (guards,) = StrictParser([Guards]).parse(["--config", str(recipe), *options])
    assert set(vars(guards).values()) <= {None, False}  # and 0, which equals False


# --- Text that a model may write to waste time.


@pytest.mark.parametrize(
    "step",
    [
        "thank you " * 20_000 + "x",
        "let's think about the problem step by step " * 5_000 + "x",
        "here is the " * 20_000,
        "- " * 50_000 + "step",
        "1. " * 50_000,
        "." * 200_000,
        "a'" * 100_000,
    ],
)
def test_the_time_taken_grows_with_the_length_alone(step):
    start = time.monotonic()
    reasons(f"{step}\n#### 4", step, guard_max_step_chars=None)
    assert time.monotonic() - start < 5
