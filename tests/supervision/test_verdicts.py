import pytest

from rlstep.supervision.verdicts import Ballot, question, verdict


def test_the_judge_reads_the_problem_and_every_step_with_its_number():
    text = question("What is {1 + 1}?\n", ["1 + 1 = 3.\n\n", "So it is \\boxed{3}."])
    assert "<problem>\nWhat is {1 + 1}?\n</problem>" in text
    assert "<paragraph_0>\n1 + 1 = 3.\n</paragraph_0>\n<paragraph_1>\nSo it is \\boxed{3}.\n</paragraph_1>" in text
    assert text.endswith(r"\boxed{number}")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r"\boxed{0}", 0),
        (r"\boxed{-1}", -1),
        (r"It is \boxed { 2 }.", 2),
        # An answer that thinks aloud may change its mind: the last box counts.
        (r"Perhaps \boxed{0}? No: \boxed{1}", 1),
        ("\\boxed{1}\nand so on", 1),
        (r"\boxed{3}", None),
        (r"\boxed{-2}", None),
        (r"\boxed{1.0}", None),
        (r"\boxed{paragraph_1}", None),
        (r"\boxed{1, 2}", None),
        (r"\boxed{}", None),
        (r"\boxed{1} or rather \boxed{none}", None),
        (r"\boxed{\text{1}}", None),
        (r"\boxed{1", None),
        (r"\boxed{__import__('os')}", None),
        (r"\boxed{²}", None),
        (r"\boxed{99999999999999}", None),
        ("1", None),
        ("", None),
    ],
)
def test_an_answer_is_its_last_box_or_nothing(answer, expected):
    assert verdict(answer, steps=3) == expected


def box(*places: int | str) -> list[str]:
    return [rf"\boxed{{{place}}}" for place in places]


@pytest.mark.parametrize(
    ("seats", "given", "wanted", "first_error"),
    [
        (1, [], 1, None),
        (1, box(2), 0, 2),
        (1, ["?"], 0, None),
        (3, [], 2, None),
        (3, box(1, 1), 0, 1),
        (3, box(1, 0), 1, None),
        (3, box(1, 0, -1), 0, None),
        (3, [*box(1), "?"], 1, None),
        # A second vote that cannot be read leaves no majority of three within reach.
        (3, ["?", "?"], 0, None),
        (4, [], 3, None),
        # Two of four are no majority.
        (4, box(1, 1, 0, 0), 0, None),
        (4, box(-1, -1, 0), 1, None),
        (5, box(0, 1, 2), 2, None),
        (5, box(0, 1, 2, 0), 1, None),
    ],
)
def test_no_more_is_asked_for_than_can_decide(seats, given, wanted, first_error):
    ballot = Ballot(steps=3, seats=seats)
    ballot.add(given)
    assert (ballot.wanted, ballot.first_error) == (wanted, first_error)
    assert ballot.unread == given.count("?")


def test_labels_go_up_to_the_first_wrong_step():
    def labels(*given: str) -> list:
        ballot = Ballot(steps=3, seats=1)
        ballot.add(list(given))
        return ballot.labels()

    assert labels(*box(1)) == [1, 0, None]
    assert labels(*box(0)) == [0, None, None]
    assert labels(*box(-1)) == [1, 1, 1]
    assert labels("?") == [None, None, None]
