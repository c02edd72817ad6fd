"""The queue of a server: which rows are scored together, and who is refused."""

import gc
import weakref

import pytest

from rlstep.verifiers.serving import batching
from rlstep.verifiers.serving.batching import BatchQueue, Unanswered
from rlstep.verifiers.serving.messages import ScoreRequest


def request(rows: int, name: str = "a", length: int = 1) -> ScoreRequest:
    return ScoreRequest(prompts=[""] * rows, completions=[name * length] * rows)


def queue(max_rows: int = 1000, batch_rows: int = 10, **options) -> BatchQueue:
    return BatchQueue(max_rows, batch_rows, **options)


def taken(queue: BatchQueue) -> list[tuple[str, int, int]]:
    """(request, first row, row after the last) of each part of the next batch."""
    return [(part.job.rows[0][1][:1], part.start, part.stop) for part in queue.take(0)]


def test_requests_are_taken_together_in_their_order_up_to_the_budget():
    waiting = queue()
    for rows, name in ((4, "a"), (3, "b"), (3, "c"), (1, "d")):
        waiting.put(request(rows, name))
    assert waiting.rows == 11
    assert taken(waiting) == [("a", 0, 4), ("b", 0, 3), ("c", 0, 3)]
    assert taken(waiting) == [("d", 0, 1)]
    assert taken(waiting) == []
    assert (waiting.rows, waiting.unfinished) == (0, 4)


def test_a_request_that_fits_into_a_batch_is_not_split():
    waiting = queue()
    waiting.put(request(4, "a"))
    waiting.put(request(7, "b"))
    assert taken(waiting) == [("a", 0, 4)]
    assert taken(waiting) == [("b", 0, 7)]


def test_a_long_request_is_split_and_others_have_their_turn():
    waiting = queue()
    waiting.put(request(25, "a"))
    waiting.put(request(2, "b"))
    assert taken(waiting) == [("a", 0, 10)]
    assert taken(waiting) == [("b", 0, 2)]
    assert taken(waiting) == [("a", 10, 20)]
    assert taken(waiting) == [("a", 20, 25)]


def test_long_rows_make_short_batches(monkeypatch):
    monkeypatch.setattr(batching, "BATCH_CHARACTERS", 100)
    waiting = queue()
    waiting.put(request(2, "a", 30))
    waiting.put(request(1, "b", 41))
    waiting.put(request(3, "c", 120))
    waiting.put(ScoreRequest(prompts=[[{"role": "user", "content": "x" * 90}]], completions=["d" * 10]))
    waiting.put(request(1, "e"))
    assert taken(waiting) == [("a", 0, 2)]
    assert taken(waiting) == [("b", 0, 1)]
    assert taken(waiting) == [("c", 0, 1)], "one row is scored, however long it is"
    assert taken(waiting) == [("d", 0, 1)], "exactly the budget, of which a message's text is a part"
    assert taken(waiting) == [("e", 0, 1)]
    assert taken(waiting) == [("c", 1, 2)]


def test_requests_are_taken_alone_where_clients_do_not_share_batches():
    waiting = queue(across_clients=False)
    for name in "abc":
        waiting.put(request(2, name))
    assert [taken(waiting) for _ in range(3)] == [[("a", 0, 2)], [("b", 0, 2)], [("c", 0, 2)]]


def test_parts_are_put_together_whichever_is_scored_first():
    waiting = queue(batch_rows=2)
    job = waiting.put(request(5))
    parts = [waiting.take(0)[0] for _ in range(3)]
    for part in reversed(parts):
        assert not job.answer.done()
        job.fill(part.start, [[float(row)] for row in range(part.start, part.stop)])
    assert job.answer.result(0) == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    assert waiting.unfinished == 0


def test_no_rows_have_no_scores():
    waiting = queue()
    assert waiting.put(request(0)).answer.result(0) == []
    assert waiting.unfinished == 0


@pytest.mark.parametrize(
    ("rows", "seconds", "workers", "retry_after"),
    [
        (10, 4.0, 1, 4),  # 2.5 rows/s: 10 rows wait
        (10, 4.5, 1, 5),  # rounded up
        (10, 4.0, 2, 2),
        (1000, 1.0, 1, 1),
        (1, 100.0, 1, 60),
    ],
)
def test_beyond_its_length_the_queue_refuses_and_says_when_to_come_back(rows, seconds, workers, retry_after):
    waiting = queue(max_rows=12, workers=workers)
    waiting.put(request(10))
    waiting.scored(rows, seconds)
    with pytest.raises(
        Unanswered, match="10 rows are waiting, and with the request's 3 they would be more than 12"
    ) as e:
        waiting.put(request(3))
    assert (e.value.status, e.value.retry_after) == (429, retry_after)
    waiting.put(request(2))
    assert waiting.rows == 12


def test_speed_is_an_average_of_late_batches():
    waiting = queue(max_rows=10)
    waiting.put(request(10))
    waiting.scored(10, 1.0)  # 10 rows/s
    waiting.scored(10, 10.0)  # 0.8 * 10 + 0.2 * 1 = 8.2
    waiting.scored(0, 1.0)  # 6.56
    with pytest.raises(Unanswered) as error:
        waiting.put(request(1))
    assert error.value.retry_after == 2  # 10 / 6.56 = 1.52


def test_before_anything_is_scored_a_refused_client_comes_back_in_a_second():
    waiting = queue(max_rows=1)
    waiting.put(request(1))
    with pytest.raises(Unanswered) as error:
        waiting.put(request(1))
    assert error.value.retry_after == 1


def test_a_request_longer_than_the_queue_is_taken_when_nothing_waits():
    waiting = queue(max_rows=5)
    waiting.put(request(20))
    with pytest.raises(Unanswered):
        waiting.put(request(1))


def test_what_nobody_waits_for_is_not_taken_and_takes_no_room():
    waiting = queue(max_rows=4)
    first, second = waiting.put(request(2, "a")), waiting.put(request(2, "b"))
    first.answer.cancel()
    assert (waiting.rows, waiting.unfinished) == (2, 1)
    waiting.put(request(2, "c"))
    assert taken(waiting) == [("b", 0, 2), ("c", 0, 2)]
    second.answer.cancel()
    second.fill(0, [[], []])  # a worker had it in hand


def test_the_text_of_what_nobody_waits_for_is_given_up():
    """Also behind others, as where clients come and go while a worker computes for long."""
    waiting = queue()
    waiting.put(request(2, "a"))
    gone = waiting.put(request(2, "b"))
    gone.answer.cancel()
    gone = weakref.ref(gone)
    gc.collect()
    assert gone() is None
    waiting.put(request(2, "c"))
    assert taken(waiting) == [("a", 0, 2), ("c", 0, 2)]


def test_a_request_that_is_refused_in_part_is_not_scored_any_further():
    waiting = queue(batch_rows=2)
    job = waiting.put(request(6))
    waiting.take(0)
    job.refuse(Unanswered(422, "too long"))
    assert taken(waiting) == []
    assert waiting.rows == 0
    with pytest.raises(Unanswered, match="too long"):
        job.answer.result(0)


def test_what_a_worker_did_not_score_is_next_and_alone_if_it_may_be_its_fault():
    waiting = queue()
    for name in "abc":
        waiting.put(request(1, name))
    first, second, _ = waiting.take(0)
    waiting.put(request(1, "d"))
    waiting.put_back(second)
    waiting.put_back(first.by_itself())
    assert waiting.rows == 3
    assert taken(waiting) == [("a", 0, 1)]
    assert taken(waiting) == [("b", 0, 1), ("d", 0, 1)]
    waiting.put(request(1, "e"))
    waiting.put(request(1, "f"))
    (part, _) = waiting.take(0)
    waiting.put(request(1, "g"))
    waiting.put_back(part.by_itself())
    part.job.refuse(Unanswered(500, "no"))
    waiting.put_back(part)
    assert taken(waiting) == [("g", 0, 1)]


def test_a_stopped_queue_gives_what_it_has_and_takes_no_more():
    waiting = queue()
    waiting.put(request(1))
    waiting.stop()
    with pytest.raises(Unanswered, match="stopping") as error:
        waiting.put(request(1))
    assert error.value.status == 503
    assert len(waiting.take(0)) == 1
    waiting.close()
    assert waiting.take(0) is None


def test_all_that_is_unfinished_can_be_refused():
    waiting = queue(batch_rows=1)
    in_hand, queued = waiting.put(request(1)), waiting.put(request(1))
    waiting.take(0)
    waiting.abandon(Unanswered(503, "over"))
    for job in (in_hand, queued):
        with pytest.raises(Unanswered, match="over"):
            job.answer.result(0)
    in_hand.fill(0, [[0.5]])
    assert (waiting.rows, waiting.unfinished) == (0, 0)


def test_what_is_to_be_scored_alone_joins_no_batch_before_it():
    waiting = queue()
    for name in "abc":
        waiting.put(request(1, name))
    (part, *others) = waiting.take(0)
    for other in others:
        waiting.put_back(other.by_itself())
    waiting.put_back(part)
    assert [taken(waiting) for _ in range(3)] == [[("a", 0, 1)], [("c", 0, 1)], [("b", 0, 1)]]
