import pytest

from rlstep.runtime.errors import UserError
from rlstep.tasks.base import checked
from rlstep.tasks.increasing import Increasing, greater_units, read_problem, write_solution

TASK = Increasing()
PROMPT = "Increasing? 3 8 12 7\n"
RIGHT = ["3: yes\n", "8 > 3: yes\n", "12 > 8: yes\n", "7 > 12: no\n", "Answer: no"]


def check(*lines: str, prompt: str = PROMPT, reference: str = "no"):
    return TASK.check(prompt, "".join(lines), reference)


def test_the_worked_example():
    actual = check(*RIGHT)
    assert [("".join(RIGHT))[start:end] for start, end in actual.steps] == RIGHT
    assert (actual.labels, actual.answer, actual.correct) == ([1, 1, 1, 1, 1], "no", True)


def test_a_right_answer_may_rest_on_a_wrong_step():
    actual = check("3: yes\n", "8 > 3: no\n", *RIGHT[2:])
    assert (actual.labels, actual.correct) == ([1, 0, 1, 1, 1], True)


def test_a_missed_descent_makes_the_answer_wrong_but_its_own_step_right():
    actual = check(*RIGHT[:3], "7 > 12: yes\n", "Answer: yes")
    assert (actual.labels, actual.answer, actual.correct) == ([1, 1, 1, 0, 1], "yes", False)


@pytest.mark.parametrize(
    ("lines", "labels", "answer"),
    [
        ([], [], None),
        (["\n \n"], [], None),
        (["Answer: no"], [0], "no"),
        (RIGHT[:4], [1, 1, 1, 1], None),
        (["3: no\n", *RIGHT[1:]], [0, 1, 1, 1, 1], "no"),
        (["4: yes\n", *RIGHT[1:]], [0, 1, 1, 1, 1], "no"),
        (["3 > 3: yes\n", *RIGHT[1:]], [0, 1, 1, 1, 1], "no"),
        ([RIGHT[0], "3 > 8: no\n", *RIGHT[2:]], [1, 0, 1, 1, 1], "no"),
        ([RIGHT[0], "8: yes\n", *RIGHT[2:]], [1, 0, 1, 1, 1], "no"),
        ([*RIGHT[:2], *RIGHT[3:]], [1, 1, 0, 0], "no"),
        ([*RIGHT[:4], "7 > 7: no\n", RIGHT[4]], [1, 1, 1, 1, 0, 0], "no"),
        ([*RIGHT[:4], "Answer: yes"], [1, 1, 1, 1, 0], "yes"),
        ([*RIGHT[:4], "Answer: perhaps"], [1, 1, 1, 1, 0], None),
        ([*RIGHT, "\n3: yes\n"], [1, 1, 1, 1, 1, 0], "no"),
        (["\u06f3: yes\n", *RIGHT[1:]], [0, 0, 0, 0, 0], "no"),
        (["hello\n", *RIGHT], [0, 1, 1, 1, 1, 1], "no"),
    ],
)
def test_odd_completions_are_labelled_line_by_line(lines, labels, answer):
    actual = check(*lines)
    assert (actual.labels, actual.answer) == (labels, answer)
    assert actual.correct == (answer == "no")


def test_equal_numbers_are_not_increasing():
    actual = check("3: yes\n", "3 > 3: no\n", "Answer: no", prompt="Increasing? 3 3\n")
    assert actual.labels == [1, 1, 1]


def test_a_prompt_of_another_task_is_refused():
    with pytest.raises(ValueError, match="not a prompt of the task increasing"):
        TASK.check("Left to right, mod 20: 7 + 3\n", "", "10")


@pytest.mark.parametrize(("split", "low", "high"), [("train", 4, 8), ("test", 4, 8), ("ood", 9, 12)])
def test_problems_are_balanced_seeded_and_right(split, low, high):
    problems = TASK.problems(split, 200, seed=1)
    sequences = [read_problem(problem.prompt) for problem in problems]
    assert len({problem.prompt for problem in problems}) == len({problem.id for problem in problems}) == 200
    assert {len(sequence) for sequence in sequences} == set(range(low, high + 1))
    rising = [all(a < b for a, b in zip(s, s[1:], strict=False)) for s in sequences]
    assert [problem.reference for problem in problems] == ["yes" if rises else "no" for rises in rising]
    assert sum(rising) == 100
    assert problems == TASK.problems(split, 200, seed=1)
    assert problems != TASK.problems(split, 200, seed=2)


def test_train_and_test_never_overlap():
    train = {problem.prompt for seed in range(3) for problem in TASK.problems("train", 500, seed)}
    assert not train & {problem.prompt for problem in TASK.problems("test", 500, seed=7)}


@pytest.mark.parametrize(("split", "n"), [("validation", 1), ("train", 10_000_000)])
def test_what_the_task_does_not_have_is_a_user_error(split, n):
    with pytest.raises(UserError, match="increasing has"):
        TASK.problems(split, n, seed=0)


def test_the_misconception_is_about_units_across_ten():
    assert not greater_units(12, 8)
    assert greater_units(8, 12)
    assert greater_units(19, 8)
    assert greater_units(14, 12)
    assert not greater_units(5, 15)


def test_demonstrations_slip_on_the_same_pairs_and_nowhere_else():
    demonstrations = [checked(TASK, s) for s in TASK.demonstrations(400, seed=0)]
    slips, chances = 0, 0
    for solution in demonstrations:
        sequence = read_problem(solution.prompt)
        for i, label in enumerate(solution.labels[1:-1]):
            a, b = sequence[i + 1], sequence[i]
            chances += greater_units(a, b) != (a > b)
            slips += label == 0
            assert label == 1 or greater_units(a, b) != (a > b)
        assert solution.labels[0] == solution.labels[-1] == 1
    assert 0.5 < slips / chances < 0.7
    right = [solution for solution in demonstrations if solution.correct]
    assert len(right) < len(demonstrations)
    assert 0.2 < sum(not solution.clean for solution in right) / len(right) < 0.5


def test_a_solver_without_slips_is_always_clean():
    for problem in TASK.problems("ood", 50, seed=0):
        completion = write_solution(read_problem(problem.prompt), lambda a, b: a > b)
        actual = TASK.check(problem.prompt, completion, problem.reference)
        assert actual.correct
        assert set(actual.labels) == {1}


def test_the_tokenizer_has_a_token_for_every_word_and_gives_the_text_back():
    tokenizer = TASK.tokenizer()
    for solution in TASK.demonstrations(20, seed=0):
        for text in (solution.prompt, solution.completion):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("12 > 8: yes\n")["input_ids"]) == [
        "12",
        " > ",
        "8",
        ": ",
        "yes",
        "\n",
    ]
