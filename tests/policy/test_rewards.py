import pytest

from rlstep.policy.rewards import TaskRewards
from rlstep.runtime.errors import UserError

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
RIGHT = "7 + 3 = 10\n10 * 7 = 10\nAnswer: 10"
WRONG_STEP = "7 + 3 = 12\n12 * 7 = 4\nAnswer: 10"


class PRM:
    """Gives every completion the same step scores."""

    kind = "prm"

    def __init__(self, *scores: float):
        self.scores = list(scores)

    def score(self, prompts, completions, steps):
        return [self.scores[: len(spans)] for spans in steps]


def judge(rewards, *completions: str):
    return rewards([PROMPT] * len(completions), completions, ["10"] * len(completions))


def step_rewards(task, scores, **options) -> list[float]:
    return judge(TaskRewards(task, PRM(*scores), **options), RIGHT)[0].step_rewards


def test_without_a_verifier_the_outcome_alone_is_paid(task):
    right, wrong_step, wrong, nothing = judge(TaskRewards(task), RIGHT, WRONG_STEP, "7 + 3 = 10\nAnswer: 3", "")
    assert [row.outcome for row in (right, wrong_step, wrong, nothing)] == [1.0, 1.0, 0.0, 0.0]
    assert [row.correct for row in (right, wrong_step, wrong, nothing)] == [True, True, False, False]
    assert [row.clean for row in (right, wrong_step, wrong, nothing)] == [True, False, False, False]
    assert right.step_rewards == [0.0, 0.0, 0.0]
    assert (right.step_scores, nothing.steps, nothing.step_rewards) == (None, [], [])
    assert [RIGHT[start:end] for start, end in right.steps] == ["7 + 3 = 10\n", "10 * 7 = 10\n", "Answer: 10"]


def test_a_completion_cut_off_before_its_answer_has_its_steps_rewards_and_no_outcome(task):
    (row,) = judge(TaskRewards(task, PRM(0.9, 0.8)), "7 + 3 = 10\n10 *")
    assert row.step_rewards == pytest.approx([0.8, 0.6])
    assert (row.outcome, row.correct) == (0.0, False)


def test_a_completion_without_steps_has_no_process_reward(task):
    (row,) = judge(TaskRewards(task, PRM(0.9), credit="min_form", first_error_threshold=0.5), "\n\n")
    assert (row.steps, row.step_rewards, row.step_scores, row.outcome) == ([], [], [], 0.0)


def test_weights_scale_their_own_part(task):
    (row,) = judge(TaskRewards(task, PRM(0.9, 0.5, 0.2), process_weight=0.5, outcome_weight=3.0), RIGHT)
    assert row.step_rewards == pytest.approx([0.4, 0.0, -0.3])
    assert row.outcome == 3.0
    assert row.step_scores == [0.9, 0.5, 0.2]


def test_sum_is_centred_unless_it_is_told_otherwise(task):
    assert step_rewards(task, [0.9, 0.5, 0.2]) == pytest.approx([0.8, 0.0, -0.6])
    assert step_rewards(task, [0.9, 0.5, 0.2], credit_parameters={"centered": False}) == pytest.approx([0.9, 0.5, 0.2])
    paid = step_rewards(task, [0.9, 0.5, 0.2], credit="clip", credit_parameters={"eta": 0.7})
    assert paid == pytest.approx([0.0, -0.2, -0.5])


def test_nothing_is_judged_after_the_first_error(task):
    assert step_rewards(task, [0.9, 0.3, 0.9], first_error_threshold=0.5) == pytest.approx([0.8, -0.4])
    assert step_rewards(task, [0.9, 0.5, 0.9], first_error_threshold=0.5) == pytest.approx([0.8, 0.0, 0.8])
    assert step_rewards(task, [0.1, 0.9, 0.9], first_error_threshold=0.5) == pytest.approx([-0.8])


@pytest.mark.parametrize(
    ("credit", "parameters", "expected"),
    [
        # p = 0.9, 0.3: the first error is the last step there is, so its reward is delta's 0
        ("delta", {}, [0.9, 0.0]),
        # p - 0.7, at most 0: 0, -0.4
        ("clip_delta", {"eta": 0.7}, [0.0, 0.0]),
        ("progress", {"p0": 0.5}, [0.4, -0.6]),
    ],
)
def test_what_comes_after_the_first_error_does_not_leak(task, credit, parameters, expected):
    options = {"credit": credit, "credit_parameters": parameters, "first_error_threshold": 0.5}
    paid = [step_rewards(task, [0.9, 0.3, last], **options) for last in (0.0, 0.6, 1.0)]
    assert paid[0] == pytest.approx(expected)
    assert paid[0] == paid[1] == paid[2]


def test_min_form_weighs_the_steps_up_to_the_first_error_alone(task):
    options = {"credit": "min_form", "first_error_threshold": 0.5}
    paid = [step_rewards(task, [0.9, 0.3, last], **options) for last in (0.0, 1.0)]
    assert paid[0] == paid[1]
    assert sum(paid[0]) == pytest.approx(-0.4, abs=0.01)
    assert step_rewards(task, [0.9, 0.3, 0.0], credit="min_form")[1] == pytest.approx(0.0, abs=0.01)


def test_an_orm_is_no_source_of_step_rewards(task):
    orm = PRM(0.5)
    orm.kind = "orm"
    with pytest.raises(UserError, match="is an ORM: it values prefixes, not steps"):
        TaskRewards(task, orm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit": "product"}, "unknown reward scheme 'product'; choose one of sum, log"),
        ({"credit": "clip"}, "'clip' needs 'eta'"),
        ({"credit": "delta", "credit_parameters": {"eta": 0.5}}, "'delta' has no parameter 'eta'; it takes no"),
    ],
)
def test_wrong_credit_shows_at_the_start(task, options, message):
    with pytest.raises(UserError, match=message):
        TaskRewards(task, PRM(0.5), **options)
