from dataclasses import fields

import pytest

from rlstep.policy.refresh.labels import CheckerLabels, MonteCarloLabels, RefreshOptions, TeacherLabels, make_labeler
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import line_steps

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
RIGHT = "7 + 3 = 10\n10 * 7 = 10\nAnswer: 10"


# --- Options


def test_without_options_the_prm_is_frozen():
    assert RefreshOptions().refresh_every == 0
    assert all("help" in option.metadata for option in fields(RefreshOptions))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refresh_every": -1}, "refresh_every is -1; it must be at least 0"),
        ({"refresh_rows": 5, "refresh_epochs": 2}, "refresh_every is 0, so refresh_rows, refresh_epochs would do noth"),
        ({"refresh_labels": "teacher"}, "refresh_every is 0, so refresh_labels would do nothing"),
        ({"refresh_every": 3, "refresh_labels": "teacher"}, "'teacher' needs refresh_teacher"),
        ({"refresh_every": 3, "refresh_labels": "people"}, "'people'; it must be one of checker, teacher, monte_carlo"),
        (
            {"refresh_every": 3, "refresh_teacher": "prm"},
            "so refresh_teacher would do nothing; set refresh_labels to 'teacher'",
        ),
        (
            {"refresh_every": 3, "refresh_rollouts": 4},
            "so refresh_rollouts would do nothing; set refresh_labels to 'monte_carlo'",
        ),
        (
            {"refresh_every": 3, "refresh_monte_carlo": "soft"},
            "so refresh_monte_carlo would do nothing",
        ),
        ({"refresh_every": 3, "refresh_monte_carlo": "any"}, "'any'; it must be one of hard, soft"),
        (
            {"refresh_every": 3, "refresh_replay_share": 0.2},
            "refresh_replay is null, so refresh_replay_share would do nothing",
        ),
        (
            {"refresh_every": 3, "refresh_replay": "x", "refresh_replay_share": 0.0},
            "share is 0.0; it must be above 0 and below 1",
        ),
        (
            {"refresh_every": 3, "refresh_replay": "x", "refresh_replay_share": 1.0},
            "share is 1.0; it must be above 0 and below 1",
        ),
        ({"refresh_every": 3, "refresh_rows": 0}, "refresh_rows is 0; it must be at least 1"),
        ({"refresh_every": 3, "refresh_epochs": 0}, "refresh_epochs is 0; it must be at least 1"),
        ({"refresh_every": 3, "refresh_batch_size": 0}, "refresh_batch_size is 0; it must be at least 1"),
        (
            {"refresh_every": 3, "refresh_labels": "monte_carlo", "refresh_rollouts": 0},
            "refresh_rollouts is 0; it must",
        ),
        ({"refresh_every": 3, "refresh_learning_rate": 0.0}, "refresh_learning_rate is 0.0; it must be above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        RefreshOptions(**options)


def test_all_faults_are_shown_at_once():
    with pytest.raises(
        UserError, match="refresh_rows is 0.*; .*so refresh_teacher would.*; .*so refresh_replay_share would"
    ):
        RefreshOptions(refresh_every=2, refresh_rows=0, refresh_teacher="prm", refresh_replay_share=0.25)


# --- Labelers


def test_the_checker_labels_its_own_steps_and_no_others(task):
    wrong = "7 + 3 = 12\n12 * 7 = 4\nAnswer: 4"
    halves = [(0, 5), (5, 11), (11, 23), (23, 33)]
    actual = CheckerLabels(task).labels(
        [PROMPT] * 3, [RIGHT, wrong, RIGHT], ["10"] * 3, [line_steps(RIGHT), line_steps(wrong)[:1], halves]
    )
    assert actual == [[1, 1, 1], [0], [None, None, 1, 1]]


class Scores:
    """Stands for a teacher: gives its rows in turn."""

    kind, gives = "prm", "probability"

    def __init__(self, *rows: list[float]):
        self.rows = rows

    def score(self, prompts, completions, steps, cut=False):
        return [list(row) for row in self.rows]


def test_a_teacher_labels_up_to_the_first_step_that_it_finds_wrong():
    rows = [0.9, 0.5, 0.25, 0.75], [0.9, 0.8], []
    asked = [""] * 3, [""] * 3, [""] * 3, [[(0, 1)] * 4, [(0, 1)] * 2, []]
    assert TeacherLabels(Scores(*rows)).labels(*asked) == [[0.9, 0.5, 0.25, None], [0.9, 0.8], []]
    assert TeacherLabels(Scores(*rows), threshold=0.85).labels(*asked) == [[0.9, 0.5, None, None], [0.9, 0.8], []]
    assert TeacherLabels(Scores(*rows), threshold=None).labels(*asked) == [*rows]


def test_steps_that_do_not_fit_into_the_teacher_have_no_label():
    asked = [""] * 2, [""] * 2, [""] * 2, [[(0, 1)] * 3] * 2
    assert TeacherLabels(Scores([0.9, 0.8], [0.25])).labels(*asked) == [[0.9, 0.8, None], [0.25, None, None]]


def test_an_orm_is_no_teacher():
    teacher = Scores()
    teacher.kind = "orm"
    with pytest.raises(UserError, match="refresh_teacher is an ORM: it scores prefixes, not steps"):
        TeacherLabels(teacher)


class Rollouts:
    """Rollouts written by hand: of what is written, the text of each of its continuations in turn."""

    def __init__(self, **texts: str):
        self.texts, self.asked = texts, []

    def __call__(self, prefixes, n):
        self.asked.append((list(prefixes), n))
        return [[c for c in self.texts[begun.replace("\n", "")]][:n] for _, begun in prefixes]


def solved(prompt, completion, reference) -> bool:
    return completion.endswith(reference)


def monte_carlo(rollouts: Rollouts, completions, soft: bool = False, steps=None):
    steps = steps or [line_steps(text) for text in completions]
    count = len(completions)
    return MonteCarloLabels(rollouts, solved, 4, soft).labels(["P"] * count, completions, ["!"] * count, steps)


# Two of four rollouts from "a" end in "!", as the answer does, one from "ab", none from "ac".
TREE = {"a": "!x!x", "ab": "xxx!", "ac": "xxxx"}


@pytest.mark.parametrize(
    ("soft", "expected"),
    [
        (False, [[1, 1, 1], [1, 0, None, None], [1, 1, 0], [1], []]),
        (True, [[0.5, 0.25, 1], [0.5, 0, None, None], [0.5, 0.25, 0], [1], []]),
    ],
)
def test_monte_carlo_labels_are_those_of_the_rollouts_from_each_step(soft, expected):
    rollouts = Rollouts(**TREE)
    rows = ["a\nb\nc!", "a\nc\nd\n!", "a\nb\nx", "!", ""]
    assert monte_carlo(rollouts, rows, soft) == expected
    # Each prefix once, nothing behind a step with the value 0, and no rollout from the step that ends the completion.
    assert rollouts.asked == [([("P", "a\n")], 4), ([("P", "a\nb\n"), ("P", "a\nc\n")], 4)]


def test_the_last_step_of_a_completion_that_was_cut_off_is_rolled_out():
    """Steps are given up to where text follows: that was cut off and is not judged."""
    rollouts = Rollouts(**TREE)
    assert monte_carlo(rollouts, ["a\nb\nc"], steps=[[(0, 2), (2, 4)]]) == [[1, 1]]
    assert [prefixes for prefixes, _ in rollouts.asked] == [[("P", "a\n")], [("P", "a\nb\n")]]


def test_a_wrong_number_of_rollouts_is_an_error():
    with pytest.raises(ValueError, match="3 rollouts came from a prefix; 4 were requested"):
        monte_carlo(Rollouts(a="xxx"), ["a\nb"])


def test_rollouts_are_graded_against_their_own_reference():
    rollouts = Rollouts(a="!x?x")
    labeler = MonteCarloLabels(rollouts, solved, 4, soft=True)
    rows = ["a\nb!", "a\nb!", "a\nb!"]
    assert labeler.labels(["P"] * 3, rows, ["!", "?", "x"], [line_steps(row) for row in rows]) == [
        [0.25, 1],
        [0.25, 0],
        [0.5, 0],
    ]
    assert rollouts.asked == [([("P", "a\n")], 4)]


def test_rollouts_of_a_chat_go_on_from_its_messages():
    """The checker reads the problem; the policy's prompt is written by whoever samples."""
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "P"}]
    rollouts, problems = Rollouts(a="!xxx"), []

    def solved_problem(problem, completion, reference):
        problems.append(problem)
        return solved(problem, completion, reference)

    labeler = MonteCarloLabels(rollouts, solved_problem, 4)
    assert labeler.labels([chat], ["a\nb"], ["!"], [line_steps("a\nb")]) == [[1, 0]]
    assert rollouts.asked == [([(chat, "a\n")], 4)]
    assert set(problems) == {"P"}


def test_options_choose_the_labeler(task):
    def labels(teacher=None, rollout=None, **options):
        labeler = make_labeler(RefreshOptions(refresh_every=1, **options), task, teacher, rollout)
        return labeler.labels([PROMPT], [RIGHT], ["10"], [line_steps(RIGHT)])[0]

    asked = []

    def rollout(prefixes, n):
        asked.append(n)
        return [["10 * 7 = 10\nAnswer: 10", *["nothing"] * (n - 1)] for _ in prefixes]

    assert labels() == [1, 1, 1]
    teacher = Scores([0.75, 0.7, 0.6])
    assert labels(teacher, refresh_labels="teacher", refresh_teacher="prm") == [0.75, 0.7, 0.6]
    # From the second step on, the first rollout repeats a line and its answer still counts.
    assert labels(rollout=rollout, refresh_labels="monte_carlo") == [1, 1, 1]
    soft = {"refresh_labels": "monte_carlo", "refresh_monte_carlo": "soft", "refresh_rollouts": 4}
    assert labels(rollout=rollout, **soft) == [0.25, 0.25, 1]
    assert asked == [8, 8, 4, 4]
