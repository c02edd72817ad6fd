import subprocess
import sys

import pytest

from rlstep.runtime.errors import UserError
from rlstep.stages.example import ExampleConfig, example
from rlstep.steps.records import Solution
from rlstep.supervision.side_by_side import compare, side_by_side
from rlstep.tasks.base import checked
from rlstep.tasks.increasing import Increasing


def solution(*verdicts: str) -> Solution:
    """3 8 12 7 with the given verdicts."""
    steps = ["3: ", "8 > 3: ", "12 > 8: ", "7 > 12: ", "Answer: "]
    text = "\n".join(step + verdict for step, verdict in zip(steps, verdicts, strict=True))
    return checked(Increasing(), Solution("p", "Increasing? 3 8 12 7\n", text, "no"))


CLEAN = solution("yes", "yes", "yes", "no", "no")
LUCKY = solution("yes", "yes", "no", "no", "no")
WRONG = solution("yes", "yes", "yes", "yes", "yes")


def test_both_accuracies_by_hand():
    assert compare([CLEAN, LUCKY, WRONG]) == {
        "process_accuracy": 13 / 15,
        "outcome_accuracy": 2 / 3,
        "right_on_wrong_step": 1 / 2,
    }


def test_no_right_answers_rest_on_nothing():
    assert compare([WRONG])["right_on_wrong_step"] == 0


def test_every_step_has_a_label_and_the_answer_two():
    assert side_by_side(LUCKY).splitlines() == [
        "Increasing? 3 8 12 7  (in truth: no)",
        "  step          process  outcome",
        "  3: yes              1",
        "  8 > 3: yes          1",
        "  12 > 8: no          0",
        "  7 > 12: no          1",
        "  Answer: no          1        1   right, on a wrong step",
    ]
    assert side_by_side(WRONG).splitlines()[-1] == "  Answer: yes         1        0"
    assert "wrong step" not in side_by_side(CLEAN)


def test_what_is_printed_is_what_is_returned(capsys):
    actual = example(ExampleConfig(sequences=2, length=5, n=200, seed=3))
    out = capsys.readouterr().out
    assert out.count("Increasing? ") == 2
    for share in actual.values():
        assert f"{share:.1%}" in out
    assert actual["process_accuracy"] > actual["outcome_accuracy"]
    assert 0 < actual["right_on_wrong_step"] < 1
    assert example(ExampleConfig(sequences=2, length=5, n=200, seed=3)) == actual
    assert example(ExampleConfig(sequences=2, length=5, n=200, seed=4)) != actual


@pytest.mark.parametrize("wrong", [{"length": 1}, {"length": 21}, {"n": 0}, {"sequences": -1}])
def test_numbers_out_of_range_are_user_errors(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))} "):
        example(ExampleConfig(**wrong))


def test_the_example_needs_no_deep_learning_library():
    heavy = "import sys, rlstep.stages.example; print({'torch', 'transformers', 'trl'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "set()\n"
