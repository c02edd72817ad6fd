from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from rlstep.policy.continuations import Continuations
from rlstep.runtime.errors import UserError
from rlstep.runtime.resumable_rows import ResumableRows
from rlstep.steps.boundaries import line_steps
from rlstep.steps.records import Solution
from rlstep.supervision.monte_carlo import MonteCarlo
from rlstep.supervision.options import MonteCarloOptions

# An answer is right where the completion ends as the reference does.
TASK = SimpleNamespace(
    check=lambda prompt, completion, reference: SimpleNamespace(correct=completion.endswith(reference))
)


class Policy:
    """A policy written by hand: of each beginning its continuations in turn, one character each, a token a character.

    Attributes:
        asked: of each batch the beginnings, without line breaks, with the number of continuations asked of each.
    """

    def __init__(self, **texts: str):
        self.texts, self.drawn, self.asked, self.seeds = texts, dict.fromkeys(texts, 0), [], []

    def __call__(self, beginnings, numbers, seed) -> Continuations:
        names = [begun.replace("\n", "") for _, begun in beginnings]
        self.asked.append(dict(zip(names, numbers, strict=True)))
        self.seeds.append(seed)
        drawn = []
        for name, number in zip(names, numbers, strict=True):
            start = self.drawn[name]
            self.drawn[name] += number
            drawn.append(list(self.texts[name][start : start + number]))
        return Continuations(drawn, [[True] * number for number in numbers], sum(numbers), len(names))

    @property
    def rollouts(self) -> int:
        return sum(self.drawn.values())


def solution(text: str, reference: str = "!", problem: str = "P", **more) -> Solution:
    """One step per character of the text."""
    text = "\n".join(text)
    correct = text.endswith(reference)
    return Solution(problem, problem, text, reference, steps=line_steps(text), correct=correct, **more)


@pytest.fixture
def monte_carlo(tmp_path):
    def make(policy: Policy, solutions: Sequence[Solution], **options) -> MonteCarlo:
        given = MonteCarloOptions(by="monte_carlo", policy="p", **{"rollouts": 4} | options)
        return MonteCarlo(TASK, solutions, given, policy, ResumableRows(tmp_path / "out.jsonl", "f"))

    return make


def labels(run: MonteCarlo) -> list[list[float | None]]:
    for _ in run.run():
        pass
    return run.labels()


# Two of four continuations of "a" reach the answer, one of "ab", none of "ac".
TREE = {"a": "x!!x", "ab": "xxx!", "ac": "xxxx", "acd": "x!xx"}
ROWS = ["abc!", "acd!", "abx", "!", ""]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1, 1, 1, 1], [1, 0, None, None], [1, 1, 0], [1], []]),
        ({"labels": "soft"}, [[0.5, 0.25, 1, 1], [0.5, 0, None, None], [0.5, 0.25, 0], [1], []]),
        ({"after_first_error": "label"}, [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0], [1], []]),
        (
            {"labels": "soft", "after_first_error": "label"},
            [[0.5, 0.25, 1, 1], [0.5, 0, 0.25, 1], [0.5, 0.25, 0], [1], []],
        ),
        # The second ends right, so all of it counts as right.
        ({"search": "binary"}, [[1] * 4, [1] * 4, [1, 1, 0], [1], []]),
    ],
)
def test_labels_by_hand(monte_carlo, options, expected):
    policy = Policy(**TREE, abc="!!!!")
    assert labels(monte_carlo(policy, [solution(row) for row in ROWS], **options)) == expected


def test_a_state_gets_no_further_rollout_once_one_reached_the_answer(monte_carlo):
    """1, 1, 2, 4, ... at a time: of "a" the third is right, and comes with the fourth; of "b" none is."""
    policy = Policy(a="xx!xxxxx", b="xxxxxxxx")
    assert labels(monte_carlo(policy, [solution("a!"), solution("bx")], rollouts=8)) == [[1, 1], [0, None]]
    of = {name: [batch.get(name, 0) for batch in policy.asked] for name in "ab"}
    assert of == {"a": [1, 1, 2, 0], "b": [1, 1, 2, 4]}


def test_soft_labels_take_all_rollouts(monte_carlo):
    policy = Policy(a="!!xx", b="xxxx")
    labels(monte_carlo(policy, [solution("a!"), solution("bx")], labels="soft"))
    assert policy.asked == [{"a": 4, "b": 4}]


def test_the_number_of_rollouts_is_not_exceeded(monte_carlo):
    policy = Policy(a="xxxxxxx")
    assert labels(monte_carlo(policy, [solution("ax")], rollouts=5)) == [[0, None]]
    assert policy.rollouts == 5


@pytest.mark.parametrize("first_error", range(8))
def test_halves_find_the_same_first_error_with_fewer_states(monte_carlo, first_error, tmp_path):
    steps = "abcdefgx"
    texts = {steps[: k + 1]: "!!!!" if k < first_error else "xxxx" for k in range(8)}
    actual, states = {}, {}
    for search in ("linear", "binary"):
        run = monte_carlo(Policy(**texts), [solution(steps)], search=search)
        actual[search], states[search] = labels(run), run.metrics()["states"]
        run.journal.finish([])
    assert actual["binary"] == actual["linear"] == [[1] * first_error + [0] + [None] * (7 - first_error)]
    # The step that ends the solution is graded as it stands.
    assert states == {"linear": min(first_error + 1, 7), "binary": 3}


def test_states_that_solutions_share_are_rolled_out_once(monte_carlo):
    """The same beginning of another problem, or with another reference, is another state."""
    policy = Policy(a="!" * 9)
    rows = [solution("a!"), solution("ax"), solution("a!", problem="Q"), solution("a?", reference="?")]
    run = monte_carlo(policy, rows, labels="soft", rollouts=3)
    assert labels(run) == [[1, 1], [1, 0], [1, 1], [0, None]]
    assert (policy.rollouts, run.metrics()["states"]) == (9, 3)


def test_a_step_that_was_cut_off_is_continued(monte_carlo):
    policy = Policy(a="!!!!", ab="xx!x")
    assert labels(monte_carlo(policy, [solution("ab", finished=False)])) == [[1, 1]]


def test_a_batch_holds_rollouts_of_many_solutions_and_no_more_than_its_size(monte_carlo):
    """Requests of two batches and a part of the third, the longest beginnings first."""
    texts = {name: "xxxx" for name in ("a", "bb", "ccc")}
    rows = [Solution(n, "P", n + "\nx", "!", steps=line_steps(n + "\nx"), correct=False) for n in texts]
    policy = Policy(**texts)
    assert labels(monte_carlo(policy, rows, labels="soft", batch_size=5)) == [[0, None]] * 3
    assert policy.asked == [{"ccc": 4, "bb": 1}, {"bb": 3, "a": 2}, {"a": 2}]
    assert len(set(policy.seeds)) == 3


def test_the_first_solutions_of_the_file_are_asked_first(monte_carlo):
    """A round is four batches: the fifth solution is begun when one before it is done."""
    policy = Policy(**{name: "xx" for name in "abcde"})
    labels(monte_carlo(policy, [solution(name + "x") for name in "abcde"], rollouts=2, batch_size=1))
    order = [name for batch in policy.asked for name in batch]
    assert set(order[:4]) == set("abcd") == set(order[4:8])
    assert order[8:] == ["e", "e"]


def test_a_solution_whose_labels_the_budget_leaves_open_has_none(monte_carlo):
    """Not those steps alone that were quick to be found right: what is left would tell of right steps only."""
    policy = Policy(a="!!", ab="xx", d="xx")
    rows = [solution("abx"), solution("dx"), solution("")]
    run = monte_carlo(policy, rows, rollouts=2, batch_size=2, token_budget=3)
    assert labels(run) == [[None] * 3, [0, None], []]
    # Batches of two: it is spent within the second, and none is begun after it.
    assert policy.asked == [{"a": 1, "d": 1}, {"ab": 1, "d": 1}]
    metrics = run.metrics()
    assert (metrics["rollout_tokens"], metrics["left_by_budget"]) == (4, 1)


def test_metrics_by_hand(monte_carlo):
    run = monte_carlo(Policy(a="!!xx", ab="xxxx"), [solution("abx")], labels="soft")
    labels(run)
    assert run.metrics() == {
        "states": 2, "rollouts": 8, "rollouts_right": 0.25, "rollout_tokens": 8, "prefix_tokens": 2,
        "left_by_budget": 0,
    }  # fmt: skip


def test_without_rollouts_a_share_is_null(monte_carlo):
    run = monte_carlo(Policy(), [solution("!"), solution("")])
    assert labels(run) == [[1], []]
    assert run.metrics()["rollouts_right"] is None


def test_progress_adds_up_to_the_solutions(monte_carlo):
    run = monte_carlo(Policy(**TREE, abc="!"), [solution(row) for row in ROWS], batch_size=1)
    assert sum(run.run()) == len(ROWS)


def test_a_journal_of_other_requests_is_refused(monte_carlo):
    earlier = monte_carlo(Policy(a="!"), [solution("a!")])
    earlier.journal.append([{"states": [["other", 1, 1]], "tokens": 1, "prefix_tokens": 1}])
    run = monte_carlo(Policy(a="!"), [solution("a!")])
    with pytest.raises(UserError, match="its batch 0 asked other states"):
        labels(run)
