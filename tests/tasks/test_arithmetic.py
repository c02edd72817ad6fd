import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlstep.tasks import get
from rlstep.tasks.arithmetic import (
    HOURS,
    LENGTHS,
    OPERATIONS,
    Arithmetic,
    buggy,
    read_problem,
    right,
    write_solution,
)
from rlstep.tasks.base import checked

TASK = Arithmetic()
PROMPT = "Left to right, mod 20: 7 + 3 * 7 max 8 - 5\n"
RIGHT = ["7 + 3 = 10\n", "10 * 7 = 10\n", "10 max 8 = 10\n", "10 - 5 = 5\n", "Answer: 5"]
FACTS = [(a, operator, b) for a in range(HOURS) for operator, b in OPERATIONS]


def check(*lines: str):
    return TASK.check(PROMPT, "".join(lines), "5")


@pytest.mark.parametrize(
    ("fact", "true", "pupils"),
    [
        # past the end of the clock the pupil stops at its last hour
        ((17, "+", 7), 4, 19),
        ((19, "+", 1), 0, 19),
        ((12, "+", 7), 19, 19),
        ((10, "+", 9), 19, 19),
        # the smaller from the larger
        ((2, "-", 5), 17, 3),
        ((0, "-", 6), 14, 6),
        ((5, "-", 5), 0, 0),
        ((9, "-", 2), 7, 7),
        # the neighbouring row of the table
        ((6, "*", 7), 2, 15),
        ((7, "*", 3), 1, 18),
        ((2, "*", 7), 14, 14),
        ((6, "*", 3), 18, 18),
        # the second number
        ((15, "max", 8), 15, 8),
        ((14, "max", 8), 14, 14),
        ((3, "max", 8), 8, 8),
        ((4, "min", 12), 4, 12),
        ((5, "min", 12), 5, 5),
        ((17, "min", 12), 12, 12),
    ],
)
def test_each_rule_by_hand(fact, true, pupils):
    assert (right(*fact), buggy(*fact)) == (true, pupils)


def test_a_third_of_the_facts_is_touched():
    touched = {operator: 0 for operator, _ in OPERATIONS}
    for fact in FACTS:
        assert 0 <= right(*fact) < HOURS
        assert 0 <= buggy(*fact) < HOURS
        touched[fact[1]] += right(*fact) != buggy(*fact)
    # Counted by hand: 1 + 3 + 7 + 9 sums pass the end, 2 + 5 + 6 differences and 13 + 17 products do.
    assert touched == {"+": 20, "-": 13, "*": 30, "max": 5, "min": 5}
    assert len(FACTS) == 220


def test_the_worked_example():
    actual = check(*RIGHT)
    assert ["".join(RIGHT)[start:end] for start, end in actual.steps] == RIGHT
    assert (actual.labels, actual.answer, actual.correct) == ([1, 1, 1, 1, 1], "5", True)


def test_a_right_answer_may_rest_on_a_wrong_step():
    actual = TASK.check("Left to right, mod 20: 1 + 3 max 8\n", "1 + 3 = 5\n5 max 8 = 8\nAnswer: 8", "8")
    assert (actual.labels, actual.correct) == ([0, 1, 1], True)


def test_steps_after_a_wrong_result_are_judged_on_the_number_they_were_given():
    actual = check("7 + 3 = 11\n", "11 * 7 = 17\n", "17 max 8 = 17\n", "17 - 5 = 12\n", "Answer: 12")
    assert (actual.labels, actual.answer, actual.correct) == ([0, 1, 1, 1, 1], "12", False)


@pytest.mark.parametrize(
    ("lines", "labels", "answer"),
    [
        ([], [], None),
        (["\n \n"], [], None),
        (["Answer: 5"], [0], "5"),
        # the answer is missing
        (RIGHT[:4], [1, 1, 1, 1], None),
        ([*RIGHT[:3], "10 - 5 ="], [1, 1, 1, 0], None),
        # a wrong operand copied: the number before, the operation, its operand
        ([RIGHT[0], "9 * 7 = 3\n", "3 max 8 = 8\n", "8 - 5 = 3\n", "Answer: 3"], [1, 0, 1, 1, 1], "3"),
        ([RIGHT[0], "10 + 7 = 17\n", "17 max 8 = 17\n", "17 - 5 = 12\n", "Answer: 12"], [1, 0, 1, 1, 1], "12"),
        (["7 + 9 = 16\n", "16 * 7 = 12\n", "12 max 8 = 12\n", "12 - 5 = 7\n", "Answer: 7"], [0, 1, 1, 1, 1], "7"),
        # a step skipped, one too many, one twice
        ([*RIGHT[:2], *RIGHT[3:]], [1, 1, 0, 0], "5"),
        ([*RIGHT[:4], "5 + 1 = 6\n", "Answer: 6"], [1, 1, 1, 1, 0, 0], "6"),
        ([RIGHT[0], *RIGHT], [1, 0, 0, 0, 0, 0], "5"),
        # the answer does not follow from the last step, or is none of the clock's
        ([*RIGHT[:4], "Answer: 6"], [1, 1, 1, 1, 0], "6"),
        ([*RIGHT[:4], "Answer: 25"], [1, 1, 1, 1, 0], "25"),
        ([*RIGHT[:4], "Answer: 105"], [1, 1, 1, 1, 0], None),
        ([*RIGHT[:4], "Answer: five"], [1, 1, 1, 1, 0], None),
        # lines after the answer
        ([*RIGHT, "\n5 + 1 = 6\n"], [1, 1, 1, 1, 1, 0], "5"),
        ([*RIGHT, "\nAnswer: 6"], [1, 1, 1, 1, 1, 0], "5"),
        # no steps of this task
        (["hello\n", *RIGHT], [0, 1, 1, 1, 1, 1], "5"),
        (["\u0667 + \u0663 = 10\n", *RIGHT[1:]], [0, 0, 0, 0, 0], "5"),
        ([" 7 + 3 = 10\n", *RIGHT[1:]], [0, 0, 0, 0, 0], "5"),
        ([RIGHT[0][:-1] + " because\n", *RIGHT[1:]], [0, 0, 0, 0, 0], "5"),
    ],
)
def test_odd_completions_are_labelled_line_by_line(lines, labels, answer):
    actual = check(*lines)
    assert (actual.labels, actual.answer) == (labels, answer)
    assert actual.correct == (answer == "5")


PIECES = [*"0123456789", *RIGHT, " + 3", " = ", "\n", "\n\n", "Answer: ", "Left to right, mod 20: ", "max", " ", "-"]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=20).map("".join)))
@settings(max_examples=150, deadline=None)
def test_the_checker_never_raises(completion):
    actual = TASK.check(PROMPT, completion, "5")
    assert len(actual.labels) == len(actual.steps)
    assert set(actual.labels) <= {0, 1}
    assert actual.answer is not None or not actual.correct


def test_a_prompt_of_another_task_is_refused():
    for prompt in ("Increasing? 3 8\n", "Left to right, mod 20: 7 +\n", "Left to right, mod 20: seven + 3\n", ""):
        with pytest.raises(ValueError, match="not a prompt of the task arithmetic"):
            TASK.check(prompt, "", "5")


@given(st.lists(st.integers(0, 2**32), min_size=2, max_size=2))
@settings(max_examples=10, deadline=None)
def test_no_seeds_make_two_splits_overlap(seeds):
    drawn = {split: {p.prompt for seed in seeds for p in TASK.problems(split, 150, seed)} for split in TASK.splits}
    assert len(set().union(*drawn.values())) == sum(map(len, drawn.values()))


def test_the_chain_alone_decides_between_train_and_test(monkeypatch):
    """Chance would hardly draw one chain of eight operations twice, so the chains are of one or two here: 2,640."""
    for split in ("train", "test"):
        monkeypatch.setitem(LENGTHS, split, (1, 2))
    drawn = {s: {p.prompt for seed in range(8) for p in TASK.problems(s, 150, seed)} for s in ("train", "test")}
    assert min(map(len, drawn.values())) > 150
    assert not drawn["train"] & drawn["test"]


@pytest.mark.parametrize("split", TASK.splits)
def test_problems_are_seeded_distinct_and_right(split):
    problems = TASK.problems(split, 300, seed=1)
    assert len({p.prompt for p in problems}) == len({p.id for p in problems}) == 300
    chains = [read_problem(p.prompt) for p in problems]
    assert {len(operations) for _, operations in chains} == set(range(LENGTHS[split][0], LENGTHS[split][1] + 1))
    for problem, (start, operations) in zip(problems, chains, strict=True):
        actual = TASK.check(problem.prompt, write_solution(start, operations, right), problem.reference)
        assert (set(actual.labels), actual.correct) == ({1}, True)
    assert problems == TASK.problems(split, 300, seed=1)
    assert problems[:100] == TASK.problems(split, 100, seed=1)
    assert problems != TASK.problems(split, 300, seed=2)


def test_short_chains_have_problems_and_lengths_of_their_own():
    short = get("arithmetic_short")
    for split, lengths in {"train": (5, 8), "test": (5, 8), "ood_long": (9, 12), "ood_mix": (5, 8)}.items():
        problems = short.problems(split, 200, seed=0)
        assert {len(read_problem(p.prompt)[1]) for p in problems} == set(range(lengths[0], lengths[1] + 1))
        assert problems[0].id == f"arithmetic_short-{split}-0-0"
    assert short.problems("test", 5, seed=0) != TASK.problems("test", 5, seed=0)
    demonstration = short.demonstrations(1, seed=0)[0]
    assert 5 <= len(short.check(demonstration.prompt, demonstration.completion, demonstration.reference).steps) - 1 <= 8


def test_the_able_pupil_errs_in_sums_and_differences_alone():
    easy = get("arithmetic_easy")
    wrong = set()
    for demonstration in easy.demonstrations(500, seed=0):
        actual = easy.check(demonstration.prompt, demonstration.completion, demonstration.reference)
        lines = demonstration.completion.split("\n")
        wrong |= {line.split()[1] for line, label in zip(lines, actual.labels, strict=True) if not label}
    assert wrong == {"+", "-"}
    assert [p.prompt for p in easy.problems("test", 9, 1)] == [
        p.prompt for p in get("arithmetic_short").problems("test", 9, 1)
    ]


def test_the_other_mix_has_none_of_the_operations_that_every_training_chain_has():
    def steady(split: str) -> list[bool]:
        chains = [read_problem(p.prompt)[1] for p in TASK.problems(split, 300, seed=0)]
        return [any(operator in "+-" for operator, _ in operations) for operations in chains]

    assert not any(steady("ood_mix"))
    assert all(steady("train"))
    assert all(steady("test"))


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split 'validation'; there are train, test"):
        TASK.problems("validation", 1, seed=0)


def test_demonstrations_slip_on_touched_facts_three_times_in_five_and_nowhere_else():
    demonstrations = [checked(TASK, solution) for solution in TASK.demonstrations(500, seed=0)]
    slips = chances = 0
    for solution in demonstrations:
        value, operations = read_problem(solution.prompt)
        for (operator, b), text, label in zip(operations, solution.step_texts, solution.labels, strict=False):
            touched = right(value, operator, b) != buggy(value, operator, b)
            assert label or touched
            slips, chances = slips + (label == 0), chances + touched
            value = int(text.split("=")[1])
        assert solution.labels[-1] == 1
    # Five standard deviations of some 1,100 draws.
    assert slips / chances == pytest.approx(0.6, abs=0.075)
    assert [s.completion for s in demonstrations] == [s.completion for s in TASK.demonstrations(500, seed=0)]
    correct = [solution for solution in demonstrations if solution.correct]
    assert len(correct) < 0.5 * len(demonstrations)
    assert sum(not solution.clean for solution in correct) > 0.1 * len(correct)
