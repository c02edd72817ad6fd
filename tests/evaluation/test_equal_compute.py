import pytest

from rlstep.evaluation.equal_compute import at_equal_compute, training_seconds
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows

# Two optimizer steps of each update of 96 samples; a row has the mean of the steps since the last.
LOG = [
    {"step": 0, "samples": 0, "eval_accuracy": 0.1, "eval_runtime": 50.0},
    {"step": 2, "samples": 96, "loss": 0.1, "processor_step_time": 1.5},
    {"step": 4, "samples": 192, "loss": 0.1, "processor_step_time": 0.5},
    {"step": 4, "samples": 192, "eval_accuracy": 0.2, "eval_runtime": 50.0},
    {"step": 8, "samples": 384, "loss": 0.1, "processor_step_time": 2.0},
]


@pytest.fixture
def log(tmp_path):
    def written(rows):
        write_rows(tmp_path / "metrics.jsonl", rows)
        return tmp_path / "metrics.jsonl"

    return written


def test_seconds_add_up_over_steps_and_evaluations_are_not_counted(log):
    # 2 * 1.5, + 2 * 0.5, + 4 * 2.0; half of the last row's steps take half of its time
    assert training_seconds(log(LOG), [0, 96, 192, 288, 384]) == [0.0, 3.0, 4.0, 8.0, 12.0]


def test_of_two_steps_on_the_same_samples_both_count(log):
    rows = [{"step": step, "samples": 96, "processor_step_time": 1.0} for step in (1, 2)]
    assert training_seconds(log(rows), [0, 96]) == [0.0, 2.0]


def test_a_row_that_was_logged_again_takes_the_place_of_the_first(log):
    again = [*LOG[:3], {"step": 4, "samples": 192, "loss": 0.1, "processor_step_time": 1.0}]
    assert training_seconds(log(again), [192]) == [5.0]


def test_logs_that_cannot_tell_are_refused(log, tmp_path):
    with pytest.raises(UserError, match=r"ends at 384 samples, before the evaluation at 480\. Let logging"):
        training_seconds(log(LOG), [480])
    with pytest.raises(UserError, match="has no processor_step_time: an older version wrote it"):
        training_seconds(log([{"step": 2, "samples": 96, "step_time": 1.0}]), [96])
    with pytest.raises(UserError, match="no such file"):
        training_seconds(tmp_path / "none.jsonl", [96])


def test_curves_are_read_where_the_shorter_one_ends():
    # 15 of 20 seconds: half way from 0.2 to 0.6
    assert at_equal_compute([0, 10, 20], [0.1, 0.2, 0.6], [0, 15], [0.1, 0.5]) == pytest.approx((15.0, 0.4, 0.5))
    assert at_equal_compute([0, 15], [0.1, 0.5], [0, 10, 20], [0.1, 0.2, 0.6]) == pytest.approx((15.0, 0.5, 0.4))


def test_a_run_that_begins_later_is_until_then_where_it_began():
    # at 20 the second has had 5 of its 10 seconds; at 10 it has not begun
    assert at_equal_compute([0, 20], [0.1, 0.5], [15, 25], [0.1, 0.7]) == pytest.approx((20.0, 0.5, 0.4))
    assert at_equal_compute([0, 10], [0.1, 0.5], [15, 25], [0.1, 0.7]) == pytest.approx((10.0, 0.5, 0.1))
