import math

import pytest

from rlstep.policy.rewards.guards import Guards, answer_step
from rlstep.policy.rewards.task_rewards import TaskRewards
from rlstep.runtime.config import StrictParser
from rlstep.runtime.errors import UserError
from rlstep.steps.answers import extract
from rlstep.steps.boundaries import line_steps
from rlstep.tasks.base import Check
from rlstep.tasks.increasing import Increasing

PROMPT = (
    "Question: Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting. "
    "How much did she earn?\nAnswer:\n"
)


class Lines:
    """The task: lines are steps, all of them right, and what is stated last is the answer."""

    def check(self, prompt, completion, reference):
        steps, answer = line_steps(completion), extract(completion)
        return Check(steps, [1] * len(steps), answer, answer == reference)


class Scores:
    """A PRM that gives its scores, whatever it is asked of."""

    kind, gives = "prm", "probability"

    def __init__(self, *scores: float):
        self.scores = scores

    def score(self, prompts, completions, steps, cut=False):
        return [list(self.scores[: len(spans)]) for spans in steps]


def reasons(completion: str, prompt: str = PROMPT, **changes) -> list[str | None]:
    """For each line the guard that withholds its reward."""
    return TaskRewards(Lines(), {"checker": 1.0}, guards=Guards(**changes))([prompt], [completion], ["?"])[0].guards


def paid(completion: str, prompt: str = PROMPT, scores: list[float] | None = None, **changes) -> list[float]:
    """Each line's reward: 1 for every line, or 2 p - 1 of the scores."""
    source, verifiers = ("prm", {"prm": Scores(*scores)}) if scores else ("checker", {})
    rewards = TaskRewards(Lines(), {source: 1.0}, verifiers, credit="sum", guards=Guards(**changes))
    return rewards([prompt], [completion], ["?"])[0].step_rewards


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
    lines = completion.count("\n") + 1
    assert reasons(completion, prompt) == [None] * lines
    assert paid(completion, prompt) == [1.0] * lines


def test_no_default_guard_hits_the_solutions_of_the_worked_example():
    task = Increasing()
    actual = [reasons(solution.completion, solution.prompt) for solution in task.demonstrations(20, seed=0)]
    assert {reason for row in actual for reason in row} == {None}


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
    assert reasons(completion) == [None, None, "after_answer", "after_answer"]
    assert reasons(completion, guard_after_answer=False) == [None] * 4
    assert reasons(completion[:10]) == [None]
    assert reasons("") == []


def test_the_answer_is_not_looked_for_behind_the_step_that_gives_it():
    asked = []
    completion = "7 + 3 = 10\nAnswer: 3\nNo, wait."
    answer_step(completion, line_steps(completion), lambda text: asked.append(text) or extract(text))
    assert asked == ["7 + 3 = 10\n", "7 + 3 = 10\nAnswer: 3\n"]


SUM, LONG, DONE = "7 + 3 = 10", "x" * 31, "#### 10"
SHORT = {"guard_max_step_chars": 30}


@pytest.mark.parametrize(
    ("lines", "changes", "keeps"),
    [
        ([SUM, DONE], {}, [0, 1]),
        # no_answer
        ([SUM, "3 * 3 = 9"], {}, []),
        ([SUM, "3 * 3 = 9"], {"guard_no_answer": False}, [0, 1]),
        # min_steps, of which steps without reasoning are none
        ([DONE], {}, []),
        ([DONE], {"guard_min_steps": 0}, [0]),
        (["Thank you", "So, here is", DONE], {}, []),
        (["Thank you", SUM, DONE], {}, [1, 2]),
        ([SUM, DONE], {"guard_min_steps": 2}, []),
        # max_step_chars and max_steps, up to the answer
        ([SUM, LONG, DONE], SHORT, []),
        ([SUM, "3 * 3 = 9", DONE], {"guard_max_steps": 2}, []),
        ([SUM, "3 * 3 = 9"], {"guard_max_steps": 2, "guard_no_answer": False}, [0, 1]),
        ([SUM, "3 * 3 = 9", "4 + 4 = 8"], {"guard_max_steps": 2, "guard_no_answer": False}, []),
        # behind the answer, the answer does not rest on it
        ([SUM, DONE, LONG], SHORT | {"guard_after_answer": False}, [0, 1]),
        ([SUM, DONE, "4 + 4 = 8"], {"guard_max_steps": 2, "guard_after_answer": False}, [0, 1]),
    ],
)
def test_when_a_whole_completion_is_withheld(lines, changes, keeps):
    assert paid("\n".join(lines), **changes) == [float(k in keeps) for k in range(len(lines))]


def test_credit_is_given_to_all_but_steps_without_reasoning():
    """`progress` pays p_k - p_{k-1}, p_0 = 0.5: steps that credit does not see are passed over, and paid nothing."""
    lines = [SUM, "Thank you", SUM, "Weng earns $12 an hour for babysitting.", LONG * 2, "3 * 3 = 9", DONE, "4 + 4 = 8"]
    scores = [0.25, 0.75, 0.75, 0.75, 0.125, 0.0625, 0.03125, 0.75]
    rewards = TaskRewards(
        Lines(), {"prm": 1.0}, {"prm": Scores(*scores)}, "progress", {"p0": 0.5}, guards=Guards(guard_max_step_chars=60)
    )
    (row,) = rewards([PROMPT], ["\n".join(lines)], ["?"])
    assert row.guards == [None, "filler", "repeats", "restated", "max_step_chars", None, None, "after_answer"]
    assert row.step_rewards == [-0.25, 0.0, 0.0, 0.0, -0.125, -0.0625, -0.03125, 0.0]


# --- What is paid.


def test_withheld_rewards_lose_what_is_positive_alone():
    lines = [f"{SUM} {DONE}", "3 * 3 = 9", LONG, "5 + 5 = 10"]
    # The third line alone is withheld: the answer, which stands in the first one, does not rest on it.
    options = SHORT | {"guard_after_answer": False, "guard_min_steps": 0}
    assert paid("\n".join(lines), scores=[0.75, 0.25, 0.75, 0.0], **options) == [0.5, -0.5, 0.0, -1.0]
    assert paid("\n".join(lines), scores=[0.75, 0.75, 0.25, 0.75], **options) == [0.5, 0.5, -0.5, 0.5]
    # Without an answer no line keeps what it gained.
    lines[0] = SUM
    assert paid("\n".join(lines), scores=[0.75, 0.25, 0.75, 0.0]) == [0.0, -0.5, 0.0, -1.0]


def test_rewards_of_fewer_steps_than_there_are():
    """None behind the first step below the threshold; none at all of no step."""
    rewards = TaskRewards(
        Lines(), {"prm": 1.0}, {"prm": Scores(0.75, 0.25, 0.75)}, "sum", first_error_threshold=0.5, guards=Guards()
    )
    some, none = rewards([PROMPT] * 2, [f"{SUM}\n3 * 3 = 9\n{DONE}", ""], ["?"] * 2)
    assert (some.step_rewards, none.step_rewards) == ([0.5, -0.5], [])


@pytest.mark.parametrize(
    ("clip", "expected"), [(1.0, [0.5, 1.0, -1.0]), (2.0, [0.5, 2.0, -2.0]), (None, [0.5, 3.0, -3.0])]
)
def test_each_reward_is_cut(clip, expected):
    # Its weight makes 1 and -1 of the scores to 6 and -6.
    rewards = TaskRewards(
        Lines(), {"prm": 6.0}, {"prm": Scores(13 / 24, 0.75, 0.25)}, "sum", guards=Guards(guard_reward_clip=clip)
    )
    (row,) = rewards([PROMPT], [f"{SUM}\n3 * 3 = 9\n{DONE}"], ["?"])
    assert row.step_rewards == pytest.approx(expected)


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
        ({"guard_restated": 0.0}, "above 0 and at most 1, or null"),
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
def test_the_time_taken_grows_with_the_length_alone(step, no_hang):
    assert len(reasons(f"{step}\n#### 4", step, guard_max_step_chars=None)) == 2


def test_what_is_tried_in_thought_is_no_answer_yet():
    """Otherwise the first try would make everything after it `after_answer`."""
    completion = "Answer: 3\nNo, that is wrong.\n</think>\nIt is 4.\nAnswer: 4\nThank you"
    steps = line_steps(completion)
    assert answer_step(completion, steps, extract) == 4
    assert answer_step(completion[: completion.index("</think>")], steps[:2], extract) == 0
