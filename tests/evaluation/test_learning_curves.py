import pytest

from rlstep.evaluation.learning_curves import compare_arms, over_seeds, read_history, samples_to_reach
from rlstep.runtime.errors import DataError
from rlstep.runtime.rows import write_rows


def history(*values: float, every: int = 100) -> list[dict]:
    return [
        {"samples": every * k, "update": k, "accuracy": value, "clean_accuracy": value - 0.1}
        for k, value in enumerate(values)
    ]


def test_samples_to_reach_is_the_first_point_at_or_above():
    curve = history(0.3, 0.5, 0.4, 0.7)
    assert samples_to_reach(curve, 0.5) == 100
    assert samples_to_reach(curve, 0.51) == 300
    assert samples_to_reach(curve, 0.3) == 0
    assert samples_to_reach(curve, 0.71) is None
    assert samples_to_reach(curve, 0.5, "clean_accuracy") == 300


def test_compare_arms_by_hand():
    actual = compare_arms(history(0.3, 0.8, 0.9), history(0.3, 0.4, 0.5, 0.75, 0.7))
    # The outcome arm ends on 0.7, which it first met after 300 samples; the process arm after 100.
    assert (actual["level"], actual["outcome_samples"], actual["process_samples"], actual["ratio"]) == (
        0.7,
        300,
        100,
        3.0,
    )
    assert (actual["final_samples"], actual["process_final"], actual["outcome_final"]) == (200, 0.9, 0.5)


def test_compare_arms_gives_no_ratio_where_there_is_none():
    never = compare_arms(history(0.3, 0.2), history(0.3, 0.9))
    assert (never["process_samples"], never["ratio"]) == (None, None)
    at_once = compare_arms(history(0.3, 0.8), history(0.3, 0.2))
    assert (at_once["process_samples"], at_once["ratio"]) == (0, None)


def test_over_seeds_is_a_t_interval_at_each_place():
    actual = over_seeds([[0.5, 1], [0.5, 2], [0.5, 3]])
    # mean 2, s = 1, t_{0.975,2} = 4.302653 (table), half = 4.302653 / sqrt(3)
    assert actual == {
        "mean": [0.5, 2],
        "low": [0.5, pytest.approx(2 - 2.484138, abs=1e-5)],
        "high": [0.5, pytest.approx(2 + 2.484138, abs=1e-5)],
    }
    assert over_seeds([[0.5, 1]]) == {"mean": [0.5, 1], "low": [None, None], "high": [None, None]}
    with pytest.raises(ValueError, match="zip"):
        over_seeds([[1, 2], [1]])


def test_read_history_sorts_and_lets_the_later_row_stand(tmp_path):
    rows = history(0.1, 0.2, 0.3)
    write_rows(tmp_path / "eval.jsonl", [rows[1], rows[0], {**rows[1], "accuracy": 0.9}, rows[2]])
    assert [(row["samples"], row["accuracy"]) for row in read_history(tmp_path / "eval.jsonl")] == [
        (0, 0.1),
        (100, 0.9),
        (200, 0.3),
    ]


@pytest.mark.parametrize("bad", [None, "0.5", True, float("nan")])
def test_read_history_names_a_bad_field(tmp_path, bad):
    rows = history(0.1, 0.2)
    rows[1]["accuracy"] = bad
    write_rows(tmp_path / "eval.jsonl", rows)
    with pytest.raises(DataError, match=r"eval\.jsonl, row 2, field 'accuracy': expected a number"):
        read_history(tmp_path / "eval.jsonl")
