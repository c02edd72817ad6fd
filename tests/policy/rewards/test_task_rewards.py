from dataclasses import replace

import pytest

from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.own import OwnReward
from rlstep.policy.rewards.task_rewards import TaskRewards
from rlstep.runtime.errors import UserError

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
RIGHT = "7 + 3 = 10\n10 * 7 = 10\nAnswer: 10"
WRONG_STEP = "7 + 3 = 12\n12 * 7 = 4\nAnswer: 10"


class PRM:
    """Gives every completion the same step scores."""

    kind, gives = "prm", "probability"

    def __init__(self, *scores: float):
        self.scores = list(scores)

    def score(self, prompts, completions, steps=None, cut=False):
        return [self.scores[: len(spans)] for spans in steps]


def judge(rewards, *completions: str):
    return rewards([PROMPT] * len(completions), completions, ["10"] * len(completions))


# The credit schemes' own numbers are tested without guards, which have tests of their own.
UNGUARDED = Guards(
    guard_max_steps=None, guard_max_step_chars=None, guard_repeats=False, guard_filler=False, guard_restated=None,
    guard_after_answer=False, guard_no_answer=False, guard_min_steps=0, guard_reward_clip=None,
)  # fmt: skip


def paid_by_prm(task, scores, **options) -> TaskRewards:
    """The PRM and the verified answer pay, without guards unless they are given."""
    return TaskRewards(
        task,
        {"prm": 1.0, "outcome": 1.0},
        {"prm": PRM(*scores)},
        **({"credit": "sum", "guards": UNGUARDED} | options),
    )


def step_rewards(task, scores, **options) -> list[float]:
    return judge(paid_by_prm(task, scores, **options), RIGHT)[0].step_rewards


def test_without_a_verifier_the_outcome_alone_is_paid(task):
    right, wrong_step, wrong, nothing = judge(TaskRewards(task), RIGHT, WRONG_STEP, "7 + 3 = 10\nAnswer: 3", "")
    assert [row.outcome for row in (right, wrong_step, wrong, nothing)] == [1.0, 1.0, 0.0, 0.0]
    assert [row.correct for row in (right, wrong_step, wrong, nothing)] == [True, True, False, False]
    assert [row.clean for row in (right, wrong_step, wrong, nothing)] == [True, False, False, False]
    assert right.step_rewards == [0.0, 0.0, 0.0]
    assert [(row.answer, row.withheld_by) for row in (right, nothing)] == [("10", None), (None, None)]
    assert (right.step_scores, nothing.steps, nothing.step_rewards) == (None, [], [])
    assert [RIGHT[start:end] for start, end in right.steps] == ["7 + 3 = 10\n", "10 * 7 = 10\n", "Answer: 10"]


def test_a_completion_cut_off_before_its_answer_has_its_steps_rewards_and_no_outcome(task):
    (row,) = judge(paid_by_prm(task, [0.9, 0.8]), "7 + 3 = 10\n10 *")
    assert row.step_rewards == pytest.approx([0.8, 0.6])
    assert (row.outcome, row.correct) == (0.0, False)


def test_a_completion_without_steps_has_no_process_reward(task):
    (row,) = judge(paid_by_prm(task, [0.9], credit="min_form", first_error_threshold=0.5), "\n\n")
    assert (row.steps, row.step_rewards, row.step_scores, row.outcome) == ([], [], [], 0.0)


def test_weights_scale_their_own_part(task):
    (row,) = judge(paid_by_prm(task, [0.9, 0.5, 0.2], process_weight=0.5, outcome_weight=3.0), RIGHT)
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


WRONG = "7 + 3 = 10\n10 * 7 = 11\nAnswer: 11"


@pytest.mark.parametrize(
    ("scores", "parameters", "expected"),
    [
        # VPPO: the last step before the first error, of which the PRM says nothing more
        ([0.9, 0.3, 0.9], {"margin": "none"}, [0.5, 0.0, 0.0]),
        ([0.6, 0.6, 0.1], {"margin": "none"}, [0.0, 0.5, 0.0]),
        # two good steps end after 23 characters; a tenth of the completion's 33 is taken off, and 11 are left
        ([0.6, 0.6, 0.1], {"margin": "partial"}, [0.5, 0.0, 0.0]),
        # the problem is longer than the prefix
        ([0.6, 0.6, 0.1], {}, [0.0, 0.0, 0.0]),
        # no error is located
        ([0.9, 0.9, 0.9], {"margin": "none"}, [0.0, 0.0, 0.0]),
    ],
)
def test_a_wrong_solution_keeps_credit_up_to_its_first_error(task, scores, parameters, expected):
    options = {"credit": "first_error", "credit_parameters": parameters, "first_error_threshold": 0.5}
    rewards = paid_by_prm(task, scores, process_weight=0.5, **options)
    wrong, right = judge(rewards, WRONG, RIGHT)
    assert (wrong.step_rewards, wrong.outcome) == (expected, 0.0)
    assert (right.step_rewards, right.outcome) == ([0.0, 0.0, 0.0], 1.0)


def test_a_withheld_completion_keeps_no_prefix(task):
    options = {"credit": "first_error", "credit_parameters": {"margin": "none"}, "first_error_threshold": 0.5}
    cut_off = "7 + 3 = 10\n10 * 7 = 11"
    (row,) = judge(
        paid_by_prm(task, [0.9, 0.1], **options | {"guards": replace(UNGUARDED, guard_no_answer=True)}), cut_off
    )
    assert row.step_rewards == [0.0, 0.0]
    (row,) = judge(paid_by_prm(task, [0.9, 0.1], **options), cut_off)
    assert row.step_rewards == [1.0, 0.0]


def test_the_first_error_has_to_be_told_from_the_scores(task):
    with pytest.raises(UserError, match="needs first_error_threshold"):
        paid_by_prm(task, [0.9], credit="first_error")


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
    with pytest.raises(UserError, match="is an ORM: it scores prefixes, not steps"):
        TaskRewards(task, {"prm": 1.0}, {"prm": orm})


def test_min_form_pays_the_lowest_score_exactly_unless_it_is_told_otherwise(task):
    """q = 0.8, 0.2, 0.6 and T = 0.1: softmax(-q/T) is 0.00243, 0.97968 and 0.01794."""
    exact = step_rewards(task, [0.9, 0.6, 0.8], credit="min_form")
    assert exact == pytest.approx([0.00049, 0.19594, 0.00359], abs=1e-4)
    assert sum(exact) == pytest.approx(0.2)
    soft = step_rewards(task, [0.9, 0.6, 0.8], credit="min_form", credit_parameters={"total": "soft"})
    assert soft == pytest.approx([0.00194, 0.19594, 0.01077], abs=1e-4)
    default = TaskRewards(task, {"prm": 1.0}, {"prm": PRM(0.9, 0.6, 0.8)})
    assert judge(default, RIGHT)[0].step_rewards == exact


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit": "min_form", "credit_parameters": {"total": "sum"}}, "total='sum' is not one of soft, exact"),
        ({"credit": "product"}, "unknown reward scheme 'product'; choose one of sum, log"),
        ({"credit": "clip"}, "'clip' needs 'eta'"),
        ({"credit": "delta", "credit_parameters": {"eta": 0.5}}, "'delta' has no parameter 'eta'; it takes no"),
    ],
)
def test_wrong_credit_shows_at_the_start(task, options, message):
    with pytest.raises(UserError, match=message):
        paid_by_prm(task, [0.5], **options)


# --- Several sources, the checker, ORMs and implicit PRMs.


class Implicit:
    """Gives every completion the same step rewards."""

    kind, gives = "orm", "reward"

    def __init__(self, *rewards: float):
        self.rewards = list(rewards)

    def score(self, prompts, completions, steps=None, cut=False):
        return [self.rewards[: len(spans)] for spans in steps]


def orm(*values: float) -> PRM:
    verifier = PRM(*values)
    verifier.kind = "orm"
    return verifier


def test_the_checker_pays_for_its_labels(task):
    (right, wrong) = judge(TaskRewards(task, {"checker": 1.0}, credit="sum"), RIGHT, WRONG_STEP)
    assert right.step_rewards == [1.0, 1.0, 1.0]
    # The first step's result is wrong, the second is right for what it was given, the answer is not what was found.
    assert wrong.step_rewards == [-1.0, 1.0, -1.0]
    assert (right.outcome, wrong.outcome, right.step_scores) == (0.0, 0.0, None)


def test_a_step_that_the_checker_cannot_tell_is_worth_nothing_when_centred(task):
    class Unsure:
        def check(self, prompt, completion, reference):
            return replace(task.check(prompt, completion, reference), labels=[1, None, 0])

    assert judge(TaskRewards(Unsure(), {"checker": 1.0}, credit="sum"), RIGHT)[0].step_rewards == [1.0, 0.0, -1.0]
    assert not judge(TaskRewards(Unsure(), {"checker": 1.0}, credit="sum"), RIGHT)[0].checked


def test_an_orm_pays_its_value_at_the_end_as_outcome(task):
    rewards = TaskRewards(task, {"orm": 1.0}, {"orm": orm(0.2, 0.4, 0.9)}, outcome_weight=2.0)
    right, silent, short = judge(rewards, RIGHT, "7 + 3 = 10", "Answer: 10")
    assert right.outcome == pytest.approx(1.8)
    assert right.step_rewards == [0.0, 0.0, 0.0]
    assert silent.outcome == 0.0  # no answer, whatever the ORM says of it
    assert short.outcome == pytest.approx(0.4)


def test_an_implicit_prm_pays_its_rewards_as_they_are(task):
    rewards = TaskRewards(task, {"implicit": 0.5}, {"implicit": Implicit(0.4, -0.2, 3.0)})
    # each is cut to 1 after its weight
    assert judge(rewards, RIGHT)[0].step_rewards == pytest.approx([0.2, -0.1, 1.0])


def test_sources_add_up_by_their_weights(task):
    rewards = TaskRewards(
        task,
        {"prm": 1.0, "checker": 0.5, "outcome": 1.0, "orm": 0.25},
        {"prm": PRM(0.75, 0.5, 0.25), "orm": orm(0.0, 0.0, 0.8)},
        process_weight=2.0,
        credit="sum",
        guards=UNGUARDED,
    )
    (row,) = judge(rewards, RIGHT)
    # 2 (2p - 1 + 0.5 * 1)
    assert row.step_rewards == pytest.approx([2.0, 1.0, 0.0])
    assert row.outcome == pytest.approx(1 + 0.25 * 0.8)


def test_a_missing_answer_has_its_own_price(task):
    rewards = TaskRewards(task, {"outcome": 1.0}, missing_answer_reward=-0.5, outcome_weight=2.0)
    silent, wrong = judge(rewards, "7 + 3 = 10\n", "7 + 3 = 10\n10 * 7 = 10\nAnswer: 3")
    assert (silent.outcome, wrong.outcome) == (-1.0, 0.0)
    assert (silent.answered, wrong.answered) == (False, True)


@pytest.mark.parametrize(
    ("sources", "verifiers", "message"),
    [
        ({"prm": 1.0}, {}, r"need verifiers for \['prm'\]"),
        ({"steps": 1.0}, {}, "no reward source 'steps'"),
        ({"orm": 1.0}, {"orm": PRM(0.5)}, "the orm given is a PRM: it scores steps"),
        ({"implicit": 1.0}, {"implicit": PRM(0.5)}, "needs an implicit PRM"),
        ({"orm": 1.0}, {"orm": Implicit(0.5)}, "the orm given was opened for rewards, and the source needs prob"),
    ],
)
def test_sources_and_verifiers_that_do_not_fit(task, sources, verifiers, message):
    with pytest.raises(UserError, match=message):
        TaskRewards(task, sources, verifiers)


# --- Guards.


def test_guarded_steps_are_paid_nothing_and_credit_does_not_see_them(task):
    """The second line repeats the first: delta goes from the first to the third as if it were not there."""
    text = "7 + 3 = 10\n7 + 3 = 10\n10 * 7 = 10\nAnswer: 10"
    options = {"credit": "progress", "credit_parameters": {"p0": 0.5}}
    scores = [0.9, 0.99, 0.6, 0.7]
    (row,) = judge(paid_by_prm(task, scores, guards=Guards(), **options), text)
    assert row.step_rewards == pytest.approx([0.4, 0.0, -0.3, 0.1])
    assert row.guards == [None, "repeats", None, None]
    assert row.step_scores == scores
    (row,) = judge(paid_by_prm(task, scores, **options), text)
    assert row.step_rewards == pytest.approx([0.4, 0.09, -0.39, 0.1])


def test_without_an_answer_nothing_is_gained_and_what_was_lost_stays(task):
    (row,) = judge(paid_by_prm(task, [0.9, 0.2], guards=Guards()), "7 + 3 = 10\n10 *")
    assert (row.answer, row.withheld_by) == (None, "no_answer")
    assert row.step_rewards == pytest.approx([0.0, -0.6])


def test_guards_cut_a_first_error_where_it_stands_among_all_steps(task):
    """A repeated step before the first error does not shift it."""
    text = "7 + 3 = 10\n7 + 3 = 10\n10 * 7 = 11\nAnswer: 11"
    (row,) = judge(paid_by_prm(task, [0.9, 0.9, 0.1, 0.9], guards=Guards(), first_error_threshold=0.5), text)
    assert row.step_rewards == pytest.approx([0.8, 0.0, -0.8])


def own(pays, *values):
    """A reward of one's own that gives these values, one per completion."""
    return OwnReward("mine", lambda prompts, completions, references: list(values), frozenset(), pays)


def test_an_outcome_of_ones_own_is_paid_without_an_answer_too(task):
    options = {"outcome_weight": 2.0, "missing_answer_reward": -1.0}
    rewards = TaskRewards(task, {"outcome": 1.0, "mine": 0.5}, own={"mine": own("outcome", 0.25, 0.75)}, **options)
    right, nothing = judge(rewards, RIGHT, "7 + 3 = 10\n")
    assert (right.outcome, nothing.outcome) == (2 * (1 + 0.125), 2 * (-1 + 0.375))
    assert (right.own, nothing.own) == ({"mine": 0.25}, {"mine": 0.75})


def test_step_rewards_of_ones_own_are_added_without_a_credit_scheme_and_guarded(task):
    given = own("steps", [0.5, -0.25, 1.0])
    rewards = TaskRewards(task, {"prm": 1.0, "mine": 2.0}, {"prm": PRM(0.9, 0.5, 0.2)}, "sum", own={"mine": given},
                          guards=UNGUARDED)  # fmt: skip
    assert judge(rewards, RIGHT)[0].step_rewards == pytest.approx([0.8 + 1.0, 0.0 - 0.5, -0.6 + 2.0])
    alone = TaskRewards(task, {"mine": 2.0}, own={"mine": own("steps", [0.5, 0.5])}, guards=Guards())
    # No answer: the guard that is on by default takes what the steps are paid.
    (row,) = judge(alone, "7 + 3 = 10\n10 * 7 = 10\n")
    assert (row.step_rewards, row.own) == ([0.0, 0.0], {"mine": 1.0})


# --- Completions that are longer than a verifier.


class Short(PRM):
    """Reads the first steps alone, wherever it may cut."""

    def __init__(self, *scores: float, reads: int):
        super().__init__(*scores)
        self.reads = reads

    def score(self, prompts, completions, steps=None, cut=False):
        assert cut
        return [values[: self.reads] for values in super().score(prompts, completions, steps)]


def cut_short(task, verifier, source="prm", **options):
    given = {"credit": "sum", "guards": UNGUARDED} | options
    rewards = TaskRewards(task, {source: 1.0, "outcome": 1.0}, {source: verifier}, **given)
    return judge(rewards, RIGHT)[0]


def test_steps_that_do_not_fit_have_no_score_and_no_reward(task):
    row = cut_short(task, Short(0.9, 0.2, 0.7, reads=2))
    assert row.step_rewards == pytest.approx([0.8, -0.6])
    assert (row.step_scores, len(row.steps), row.cut_by) == ([0.9, 0.2], 3, ["prm"])
    assert row.outcome == 1.0, "the verified answer needs no verifier"
    whole = cut_short(task, Short(0.9, 0.2, 0.7, reads=3))
    assert (whole.step_rewards, whole.cut_by) == (pytest.approx([0.8, -0.6, 0.4]), [])
    nothing = cut_short(task, Short(0.9, 0.2, 0.7, reads=0))
    assert (nothing.step_rewards, nothing.step_scores, nothing.cut_by) == ([], [], ["prm"])
    assert judge(TaskRewards(task), RIGHT)[0].cut_by is None, "no verifier reads it"


@pytest.mark.parametrize(
    ("credit", "options", "expected"),
    [
        ("min_form", {}, [0.0, 0.0]),
        ("coherence", {}, [0.0, 0.0]),
        ("delta", {}, [0.3, 0.0]),
        ("clip_delta", {"credit_parameters": {"eta": 0.7}}, [0.1, -0.1]),
        ("clip", {"credit_parameters": {"eta": 0.7}}, [0.0, -0.1]),
        ("progress", {"credit_parameters": {"p0": 0.5}}, [0.4, -0.3]),
        # No error is located in what was read.
        ("first_error", {"first_error_threshold": 0.5}, [0.0, 0.0]),
        ("min_form", {"first_error_threshold": 0.5}, [0.0, 0.0]),
    ],
)
def test_what_a_cut_completion_is_paid(task, credit, options, expected):
    row = cut_short(task, Short(0.9, 0.6, 0.7, reads=2), credit=credit, **options)
    assert row.step_rewards == pytest.approx(expected)


@pytest.mark.parametrize("credit", ["min_form", "delta", "sum"])
def test_a_first_error_that_was_read_makes_the_unread_rest_irrelevant(task, credit):
    paid = [
        cut_short(task, Short(0.9, 0.2, 0.7, reads=reads), credit=credit, first_error_threshold=0.5).step_rewards
        for reads in (2, 3)
    ]
    assert paid[0] == paid[1]
    assert len(paid[0]) == 2


def test_unread_steps_that_the_scheme_would_not_see_change_nothing(task):
    """All that was not read comes after the answer, and a guard withholds it."""
    guards = replace(UNGUARDED, guard_after_answer=True)
    rewards = TaskRewards(task, {"prm": 1.0}, {"prm": Short(0.9, 0.8, 0.7, 0.1, reads=3)}, "min_form", guards=guards)
    (row,) = judge(rewards, RIGHT + "\n7 + 3 = 10")
    # q = 0.8, 0.6, 0.4: the lowest in all
    assert sum(row.step_rewards) == pytest.approx(0.4)
    assert row.cut_by == ["prm"]


def test_an_implicit_prm_pays_for_what_it_read(task):
    verifier = Short(0.5, -0.25, 2.0, reads=2)
    verifier.kind, verifier.gives = "orm", "reward"
    assert cut_short(task, verifier, source="implicit", credit="min_form").step_rewards == [0.5, -0.25]


def test_an_orm_that_did_not_read_the_end_pays_nothing(task):
    """What it says in the middle is the value of another, unfinished solution."""
    for reads, expected in ((2, 1.0), (3, 1.7)):
        verifier = Short(0.9, 0.8, 0.7, reads=reads)
        verifier.kind = "orm"
        assert cut_short(task, verifier, source="orm").outcome == pytest.approx(expected)


def test_a_completion_that_is_too_long_is_scored_as_far_as_it_fits(task, verifier_paths):
    """By a verifier with 512 positions, through the cache; the others of the batch are scored as alone."""
    from rlstep.policy.rewards.score_cache import ScoreCache
    from rlstep.verifiers.scoring.reward_model import RewardModel

    verifier = RewardModel.from_pretrained(verifier_paths["prm"])
    rewards = TaskRewards(task, {"prm": 1.0}, {"prm": ScoreCache(verifier, 100)}, "sum", guards=UNGUARDED)
    long = RIGHT + "\n7 + 3 = 10" * 200
    short, cut = judge(rewards, RIGHT, long)
    assert (short.cut_by, cut.cut_by) == ([], ["prm"])
    assert 3 < len(cut.step_rewards) < 203
    n = len(cut.step_scores)
    beginning, one_more = (long[: cut.steps[count - 1][1]] for count in (n, n + 1))
    assert cut.step_scores == pytest.approx(verifier.score([PROMPT], [beginning], [cut.steps[:n]])[0], abs=1e-5)
    with pytest.raises(UserError, match="exceed the verifier's 512 positions"):
        verifier.score([PROMPT], [one_more], [cut.steps[: n + 1]])
    assert short.step_scores == pytest.approx(verifier.score([PROMPT], [RIGHT], [short.steps])[0], abs=1e-5)
    assert judge(rewards, long)[0].step_scores == cut.step_scores
