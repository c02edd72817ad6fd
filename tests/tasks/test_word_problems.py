"""Word problems: stories read and checked against calculations done by hand."""

import operator
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlstep.runtime.errors import UserError
from rlstep.steps.prompts import problem_text
from rlstep.tasks.stories import SENTENCES, draw_story, read_story
from rlstep.tasks.word_problems import WordProblems

TASK = WordProblems()
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
STORY = (
    "Mia has 3 bags with 4 apples in each. Then Mia finds 6 more. Mia is 9 years old. Then Mia gives half of them "
    "away. If Mia sells each of them for 2 dollars, how many dollars does Mia get?"
)
RIGHT = ["Mia has 3 * 4 = 12 apples.\n", "There are 12 + 6 = 18.\n", "18 / 2 = 9\n", "9 * 2 = 18\n", "Answer: 18"]
BOXES = (
    "Ben had 20 cards and lost 4 of them. Then Ben buys 3 boxes with 5 cards in each. How many cards does Ben have now?"
)


def check(*lines: str, story: str = STORY, reference: str = "18"):
    return TASK.check([{"role": "user", "content": story}], "".join(lines), reference)


def test_the_worked_example():
    result = check(*RIGHT)
    assert ["".join(RIGHT)[start:end] for start, end in result.steps] == RIGHT
    assert (result.labels, result.answer, result.correct) == ([1, 1, 1, 1, 1], "18", True)


@pytest.mark.parametrize(
    ("lines", "labels", "answer"),
    [
        ([], [], None),
        (["\n \n"], [], None),
        (RIGHT[:4], [1, 1, 1, 1], None),
        # False arithmetic; what follows is judged on the number that it was given.
        ([RIGHT[0], "12 + 6 = 19\n", "19 / 2 = 9\n", "9 * 2 = 18\n", RIGHT[4]], [1, 0, 0, 1, 1], "18"),
        ([RIGHT[0], "12 + 6 = 20\n", "20 / 2 = 10\n", "10 * 2 = 20\n", "Answer: 20"], [1, 0, 1, 1, 1], "20"),
        # True arithmetic that the story does not ask for, in the place of what it asks for.
        ([RIGHT[0], "12 - 6 = 6\n", "6 / 2 = 3\n", "3 * 2 = 6\n", "Answer: 6"], [1, 0, 1, 1, 1], "6"),
        ([RIGHT[0], "12 + 9 = 21\n", *RIGHT[2:]], [1, 0, 0, 1, 1], "18"),
        # The factors either way round, but not the parts of a quotient or a difference.
        (["4 * 3 = 12\n", "6 + 12 = 18\n", *RIGHT[2:]], [1, 1, 1, 1, 1], "18"),
        ([*RIGHT[:2], "2 / 18 = 9\n", *RIGHT[3:]], [1, 1, 0, 1, 1], "18"),
        # A calculation that was left out.
        ([*RIGHT[:3], "Answer: 9"], [1, 1, 1, 0], "9"),
        ([*RIGHT[:2], RIGHT[3], RIGHT[4]], [1, 1, 0, 0], "18"),
        # One more than the story has.
        ([*RIGHT[:4], "18 * 2 = 36\n", RIGHT[4]], [1, 1, 1, 1, 0, 1], "18"),
        # Lines that are no step.
        (["Let us see.\n", *RIGHT], [0, 1, 1, 1, 1, 1], "18"),
        (["3 * 4 = 12 + 6 = 18\n", *RIGHT[2:]], [0, 0, 0, 0], "18"),
        (["3 * 4 = 12 and 12 + 6 = 18\n"], [0], None),
        (["3 bags: 3 * 4 = 12\n"], [0], None),
        (["3*4=12\n"], [0], None),
        (["3 * 4 = 12.5\n"], [0], None),
        (["\u0663 * 4 = 12\n"], [0], None),
        ([f"3 * 4 = {'9' * 5000}\n", f"Answer: {'9' * 5000}"], [0, 0], None),
        ([f"{RIGHT[0]}12 / 0 = 1\n", "Answer: 1"], [1, 0, 0], "1"),
        # The answer.
        ([*RIGHT[:4], "Answer: 18.\n"], [1, 1, 1, 1, 1], "18"),
        ([*RIGHT[:4], "Answer: 17"], [1, 1, 1, 1, 0], "17"),
        ([*RIGHT[:4], "Answer: eighteen"], [1, 1, 1, 1, 0], None),
        ([*RIGHT, "\n9 * 2 = 18\n", "Answer: 3"], [1, 1, 1, 1, 1, 0, 0], "18"),
    ],
)
def test_odd_completions_are_labelled_line_by_line(lines, labels, answer):
    result = check(*lines)
    assert (result.labels, result.answer) == (labels, answer)
    assert result.correct == (answer == "18")


def test_a_calculation_is_due_when_what_it_needs_is_there():
    """20 - 4 and 3 * 5 need nothing, so either comes first; their sum needs both."""
    first, boxes, both, answer = "20 - 4 = 16\n", "3 * 5 = 15\n", "16 + 15 = 31\n", "Answer: 31"
    for order in ((first, boxes, both), (boxes, first, both)):
        assert check(*order, answer, story=BOXES, reference="31").labels == [1, 1, 1, 1]
    assert check(first, both, boxes, answer, story=BOXES, reference="31").labels == [1, 0, 0, 0]


@given(st.text(alphabet=st.sampled_from("0123456789 +-*/=.\nAnswer:é"), max_size=80))
@settings(max_examples=300, deadline=None)
def test_no_completion_makes_the_checker_raise(text):
    result = check(text)
    assert len(result.labels) == len(result.steps)
    assert set(result.labels) <= {0, 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Increasing? 1 2 3\n",
        "Mia has 3 bags with 4 apples in each.",
        "How many apples does Mia have now?",
        "Then Mia finds 6 more. How many apples does Mia have now?",
        STORY.replace("Mia", "Zoe"),
        STORY + " Then Mia finds 6 more.",
    ],
)
def test_a_prompt_of_another_task_is_refused(text):
    with pytest.raises(ValueError, match="not a problem of the task word_problems"):
        TASK.check(text, "", "1")


def test_a_story_is_read_as_it_was_written_and_its_system_message_is_not():
    assert [operation.operator for operation in read_story(STORY)] == ["*", "+", "/", "*"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": STORY}]
    assert TASK.check(messages, "".join(RIGHT), "18").labels == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(("split", "low", "high"), [("train", 2, 4), ("test", 2, 4), ("ood", 5, 6)])
def test_problems_are_seeded_and_have_the_steps_of_their_split(split, low, high):
    problems = TASK.problems(split, 60, seed=1)
    steps = [len(read_story(problem_text(problem.prompt))) for problem in problems]
    lengths = range(low, high + 1)
    assert [steps.count(n) for n in lengths] == [60 // len(lengths)] * len(lengths)
    assert len({problem_text(p.prompt) for p in problems}) == len({p.id for p in problems}) == 60
    assert problems == TASK.problems(split, 60, seed=1)
    assert problems != TASK.problems(split, 60, seed=2)


def test_train_and_test_never_overlap():
    train = {problem_text(p.prompt) for seed in range(3) for p in TASK.problems("train", 200, seed)}
    assert not train & {problem_text(p.prompt) for p in TASK.problems("test", 200, seed=7)}


def test_every_kind_of_sentence_is_drawn():
    rng = random.Random(0)
    stories = " ".join(draw_story(rng, steps) for steps in (2, 3, 4) for _ in range(60))
    openings = [sentence.text.split("}")[-1].rstrip(".?") for sentence in SENTENCES]
    assert all(ending in stories for ending in openings)


@pytest.mark.parametrize(("split", "n"), [("validation", 1), ("train", 10_000_000)])
def test_what_the_task_does_not_have_is_a_user_error(split, n):
    with pytest.raises(UserError, match="word_problems has"):
        TASK.problems(split, n, seed=0)


def test_demonstrations_are_right_and_their_answers_follow_from_the_story():
    for solution in TASK.demonstrations(100, seed=0):
        result = TASK.check(solution.prompt, solution.completion, solution.reference)
        assert result.correct
        assert set(result.labels) == {1}
        equations = re.findall(r"(\d+) (.) (\d+) = (\d+)", solution.completion)
        assert len(equations) == len(result.labels) - 1
        assert all(OPERATORS[sign](int(a), int(b)) == int(c) for a, sign, b, c in equations)


def test_the_tokenizer_speaks_in_turns():
    tokenizer = TASK.tokenizer()
    solution = TASK.demonstrations(1, seed=0)[0]
    text = tokenizer.apply_chat_template(solution.prompt, tokenize=False, add_generation_prompt=True)
    story = problem_text(solution.prompt)
    assert text == f"<|im_start|>user\n{story}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer(text)["input_ids"][0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert tokenizer.eos_token == "<|im_end|>" != tokenizer.pad_token
