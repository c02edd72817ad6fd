import math

import pytest

from rlstep.core.step_search import BinarySearch, LinearSearch


def asked(search, shares) -> list[list[int]]:
    """What a search wants to know, round by round, when it is told the shares."""
    rounds = []
    while wanted := search.wanted():
        rounds.append(wanted)
        for step in wanted:
            search.tell(step, shares[step])
    return rounds


SHARES = [0.5, 0.25, 0.0, 0.75]


@pytest.mark.parametrize(
    ("options", "rounds", "labels"),
    [
        ({}, [[0], [1], [2]], [1, 1, 0, None]),
        ({"soft": True}, [[0], [1], [2]], [0.5, 0.25, 0, None]),
        ({"past_error": True}, [[0, 1, 2, 3]], [1, 1, 0, 1]),
        ({"soft": True, "past_error": True}, [[0, 1, 2, 3]], [0.5, 0.25, 0, 0.75]),
    ],
)
def test_step_by_step(options, rounds, labels):
    search = LinearSearch(4, **options)
    assert asked(search, SHARES) == rounds
    assert search.labels() == labels


def test_by_halves_by_hand():
    search = BinarySearch(8)
    # The last step first; then the middle of those between the last right one and the first wrong one.
    assert asked(search, [0.5, 0.5, 0.25, 0, 0, 0, 0, 0]) == [[7], [3], [1], [2]]
    assert search.labels() == [1, 1, 1, 0, None, None, None, None]


def test_where_the_last_step_reaches_the_answer_all_are_right():
    search = BinarySearch(5)
    assert asked(search, [0, 0, 0, 0, 1.0]) == [[4]]
    assert search.labels() == [1] * 5


@pytest.mark.parametrize("steps", range(12))
def test_halves_find_what_step_by_step_finds_wherever_shares_are_monotone(steps):
    for first_error in range(steps + 1):
        shares = [0.5] * first_error + [0.0] * (steps - first_error)
        linear, binary = LinearSearch(steps), BinarySearch(steps)
        one_by_one, by_halves = asked(linear, shares), asked(binary, shares)
        assert binary.labels() == linear.labels()
        assert len(one_by_one) == min(first_error + 1, steps)
        assert len(by_halves) <= 1 + math.ceil(math.log2(max(steps, 1)))


def test_a_search_that_is_not_over_gives_what_it_knows():
    linear, binary = LinearSearch(3), BinarySearch(4)
    linear.tell(0, 0.5)
    assert linear.labels() == [1, None, None]
    binary.tell(3, 0.0)
    binary.tell(1, 0.5)
    assert binary.labels() == [1, 1, None, None]


@pytest.mark.parametrize("search", [LinearSearch(0), LinearSearch(0, past_error=True), BinarySearch(0)])
def test_without_steps_there_is_nothing_to_ask(search):
    assert (search.wanted(), search.labels()) == ([], [])
