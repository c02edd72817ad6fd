"""Who gets what, what is kept, and what is refused; files included, without HTTP."""

import json
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlstep.annotation.desk import Desk, Refused
from rlstep.annotation.items import Item, item_id
from rlstep.annotation.reservations import RESERVED_S
from rlstep.annotation.rows import Marks
from rlstep.annotation.store import ChangedOutside
from rlstep.runtime.errors import DataError, UserError
from tests.annotation.conftest import read_back, rows


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_desk(items, out, clock):
    """Makes a desk over the four solutions; closes the one before, as a restart does."""
    made = []

    def make(*labellers, items=items, **options) -> Desk:
        if made:
            made.pop().close()
        made.append(Desk(items, out, labellers or ("ada",), clock=clock, **options))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


def whole(steps: int) -> Marks:
    return Marks((1,) * steps, "solution", 1000 * steps)


def finish(desk, labeller, marks=None, browser="tab"):
    """Finishes the labeller's current solution; returns its id and the next assignment."""
    at = desk.open(labeller, browser)
    marks = marks or whole(len(at.item.steps))
    return at.item.id, desk.save(labeller, browser, at.item.id, at.revision + 1, marks)


def undo(desk, labeller="ada"):
    last = desk.last_finished(labeller)
    return desk.reopen(labeller, "tab", last.item, last.revision + 1)


def test_the_queue_is_the_order_of_the_file(make_desk, items):
    desk = make_desk()
    seen = [finish(desk, "ada")[0] for _ in items]
    assert seen == [item.id for item in items]
    assert desk.open("ada", "tab") is None
    progress = desk.progress("ada")
    assert (progress.needed, progress.done, progress.mine, progress.open) == (4, 4, 4, 0)


def test_a_row_is_on_disk_when_its_solution_is_finished(make_desk, out):
    desk = make_desk()
    desk.open("ada", "tab")
    finish(desk, "ada", Marks((1, -1), "found_error", 2500))
    (row,) = rows(out)
    assert (row["labeler"], row["label"]["finish_reason"], row["label"]["total_time"]) == ("ada", "found_error", 2500)
    assert [solution.labels for solution in read_back(out)] == [[1, 0]]


def test_marks_survive_a_restart(make_desk, out):
    desk = make_desk()
    first, at = finish(desk, "ada")
    desk.save("ada", "tab", at.item.id, 1, Marks((1,), None, 700))
    again = make_desk().open("ada", "another tab")
    assert (again.item.id, again.revision, again.marks) == (at.item.id, 1, Marks((1,), None, 700))
    assert len(rows(out)) == 1


def test_a_mark_is_on_disk_before_the_answer(make_desk, out):
    desk = make_desk()
    at = desk.open("ada", "tab")
    desk.save("ada", "tab", at.item.id, 1, Marks((0,), None, 5))
    (line,) = out.with_name("labels.jsonl.journal").read_text().splitlines()
    assert json.loads(line) == {
        "labeller": "ada", "item": at.item.id, "revision": 1, "ratings": [0], "milliseconds": 5,
    }  # fmt: skip


def test_a_double_submit_is_one_row(make_desk, out):
    desk = make_desk()
    at = desk.open("ada", "tab")
    nexts = [desk.save("ada", "tab", at.item.id, 1, Marks((-1,), "found_error", ms)) for ms in (10, 10, 12)]
    assert len({one.item.id for one in nexts}) == 1
    assert len(rows(out)) == 1
    # The page may send it again after a restart, of which it knows nothing.
    assert make_desk().save("ada", "tab", at.item.id, 1, Marks((-1,), "found_error", 10)) == nexts[0]
    assert len(rows(out)) == 1


def test_the_same_marks_twice_are_kept_once(make_desk):
    desk = make_desk()
    at = desk.open("ada", "tab")
    for _ in range(2):
        assert desk.save("ada", "tab", at.item.id, 1, Marks((1,))).revision == 1


@pytest.mark.parametrize("revision", [1, 4])
def test_marks_on_an_older_state_are_refused(make_desk, revision):
    desk = make_desk()
    at = desk.open("ada", "tab")
    desk.save("ada", "tab", at.item.id, 1, Marks((1,)))
    desk.save("ada", "tab", at.item.id, 2, Marks((1, 1)))
    with pytest.raises(Refused, match="marked elsewhere") as refusal:
        desk.save("ada", "tab", at.item.id, revision, Marks((0,)))
    assert (refusal.value.status, refusal.value.why) == (409, "revision")
    assert desk.open("ada", "tab").marks.ratings == (1, 1)


def test_other_marks_on_a_finished_solution_are_refused(make_desk, out):
    desk = make_desk()
    item, _ = finish(desk, "ada", Marks((-1,), "found_error"))
    before = out.read_bytes()
    with pytest.raises(Refused, match="finished this solution already"):
        desk.save("ada", "tab", item, 2, Marks((1, -1), "found_error"))
    assert out.read_bytes() == before


def test_marks_against_the_protocol_are_refused(make_desk, out):
    desk = make_desk()
    at = desk.open("ada", "tab")
    with pytest.raises(Refused, match="after the first negative") as refusal:
        desk.save("ada", "tab", at.item.id, 1, Marks((-1, 1)))
    assert refusal.value.status == 422
    assert rows(out) == []


def test_a_stranger_is_refused(make_desk):
    desk = make_desk("ada", "ben")
    for request in (
        lambda: desk.open("eve", "tab"), lambda: desk.reopen("eve", "tab", "p0", 1), lambda: desk.last_finished("eve"),
    ):  # fmt: skip
        with pytest.raises(Refused, match="'eve' is no labeller of this server; it was started for ada, ben"):
            request()
    with pytest.raises(Refused, match="there is no solution nowhere"):
        desk.save("ada", "tab", "nowhere", 1, Marks((1,)))


def test_the_browser_opened_last_has_the_solution_and_its_marks(make_desk):
    desk = make_desk()
    at = desk.open("ada", "old")
    desk.save("ada", "old", at.item.id, 1, Marks((1,)))
    taken = desk.open("ada", "new")
    assert (taken.item.id, taken.marks.ratings) == (at.item.id, (1,))
    for request in (
        lambda: desk.save("ada", "old", at.item.id, 2, Marks((1, 1))),
        lambda: desk.reopen("ada", "old", at.item.id, 3),
    ):
        with pytest.raises(Refused, match="another browser or tab") as refusal:
            request()
        assert (refusal.value.status, refusal.value.why) == (409, "browser")
    assert desk.save("ada", "new", at.item.id, 2, Marks((1, 0))).marks.ratings == (1, 0)


def test_two_labellers_get_different_solutions(make_desk, items):
    desk = make_desk("ada", "ben")
    assert desk.open("ada", "a").item.id == items[0].id
    assert desk.open("ben", "b").item.id == items[1].id
    assert desk.open("ada", "a").item.id == items[0].id


def test_what_is_left_for_long_goes_to_others_and_is_still_taken(make_desk, items, clock, out):
    desk = make_desk("ada", "ben", items=items[:1])
    desk.open("ada", "a")
    assert desk.open("ben", "b") is None
    assert desk.progress("ben").open == 1
    clock.now += RESERVED_S + 1
    assert desk.open("ben", "b").item.id == items[0].id
    # Ada comes back: her label counts as well.
    desk.save("ada", "a", items[0].id, 1, whole(3))
    desk.save("ben", "b", items[0].id, 1, Marks((1, -1), "found_error"))
    assert [row["labeler"] for row in rows(out)] == ["ada", "ben"]
    assert desk.progress("ada").done == 1


def test_work_keeps_a_reservation(make_desk, items, clock):
    desk = make_desk("ada", "ben", items=items[:1])
    desk.open("ada", "a")
    for revision, ratings in ((1, (1,)), (2, (1, 1))):
        clock.now += 0.6 * RESERVED_S
        desk.save("ada", "a", items[0].id, revision, Marks(ratings))
    assert desk.open("ben", "b") is None


def test_labellers_at_the_same_time_leave_nothing_out_and_label_nothing_twice(make_desk, out):
    problems, steps = [f"What is {k}?" for k in range(60)], ("one", "two")
    items = [Item(item_id(problem, list(steps)), problem, steps, None, None) for problem in problems]
    names = ("ada", "ben", "cyd", "dan")
    desk = make_desk(*names, items=items)

    def work(name: str) -> None:
        while at := desk.open(name, "tab"):
            desk.save(name, "tab", at.item.id, at.revision + 1, Marks((1,)))
            desk.save(name, "tab", at.item.id, at.revision + 2, whole(2))

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(work, names))
    assert sorted(row["question"]["problem"] for row in rows(out)) == sorted(problems)
    assert len(read_back(out)) == 60


@pytest.mark.parametrize(("overlap", "twice"), [(0.0, []), (0.25, [3]), (0.5, [1, 3]), (1.0, [0, 1, 2, 3])])
def test_the_overlap_is_labelled_by_two(make_desk, items, overlap, twice):
    desk = make_desk("ada", "ben", "cyd", overlap=overlap)
    labelled = {name: [] for name in desk.labellers}
    for name in ("ada", "ben", "cyd"):
        while desk.open(name, "tab"):
            labelled[name].append(finish(desk, name)[0])
    numbers = {item.id: place for place, item in enumerate(items)}
    assert labelled["ada"] == [item.id for item in items]
    assert [numbers[item] for item in labelled["ben"]] == twice
    assert labelled["cyd"] == []
    assert desk.progress("ada").needed == 4 + len(twice)


def test_undo_takes_the_last_solution_up_again(make_desk, out):
    desk = make_desk("ada", "ben")
    first, _ = finish(desk, "ada", Marks((1, -1), "found_error", 900))
    finish(desk, "ben")
    kept = rows(out)[1]
    at = undo(desk)
    assert (at.item.id, at.marks) == (first, Marks((1,), None, 900))
    assert rows(out) == [kept]
    assert desk.progress("ada").done == 1
    desk.save("ada", "tab", first, at.revision + 1, Marks((1, 1, 1), "solution", 1500))
    assert [row["labeler"] for row in rows(out)] == ["ben", "ada"]


def test_undo_goes_on_to_earlier_solutions(make_desk, items):
    desk = make_desk()
    for _ in items:
        finish(desk, "ada")
    assert [undo(desk).item.id for _ in items] == [item.id for item in reversed(items)]
    with pytest.raises(Refused, match="nothing to undo"):
        desk.reopen("ada", "tab", items[0].id, 99)


def test_an_undo_whose_answer_is_lost_may_be_asked_for_again(make_desk, out):
    desk = make_desk()
    first, _ = finish(desk, "ada", Marks((1, -1), "found_error", 900))
    second, _ = finish(desk, "ada")
    revision = desk.last_finished("ada").revision + 1
    lost = desk.reopen("ada", "tab", second, revision)
    assert desk.reopen("ada", "tab", second, revision) == lost
    # Nor does it matter that the server has been started anew since.
    desk = make_desk()
    assert desk.reopen("ada", "tab", second, revision) == lost
    assert (desk.last_finished("ada").item, len(rows(out)), desk.progress("ada").mine) == (first, 1, 1)


def test_an_undo_that_comes_late_takes_no_marks_back(make_desk):
    desk = make_desk()
    item, _ = finish(desk, "ada", Marks((1, -1), "found_error", 900))
    revision = desk.last_finished("ada").revision + 1
    at = desk.reopen("ada", "tab", item, revision)
    desk.save("ada", "tab", item, at.revision + 1, Marks((1, 0), None, 1500))
    assert desk.reopen("ada", "tab", item, revision).marks == Marks((1, 0), None, 1500)
    desk.save("ada", "tab", item, at.revision + 2, Marks((1, 0, 1), "solution", 2000))
    for late in (item, revision), (desk.open("ada", "tab").item.id, 1):
        with pytest.raises(Refused, match="another solution was finished or taken up again") as refusal:
            desk.reopen("ada", "tab", *late)
        assert (refusal.value.status, refusal.value.why) == (409, "revision")
    assert desk.progress("ada").mine == 1


def test_a_page_that_was_open_before_a_restart_can_undo(make_desk):
    item, _ = finish(make_desk(), "ada")
    # The page knows the solution by its revision, which the server no longer does.
    desk = make_desk()
    assert desk.last_finished("ada").revision == 0
    assert desk.reopen("ada", "tab", item, 2).item.id == item


@pytest.mark.parametrize(("marks", "left"), [(Marks((1,), "give_up"), (1,)), (Marks((), "bad_problem"), ())])
def test_undo_of_an_end_without_a_rating_keeps_the_ratings(make_desk, marks, left):
    desk = make_desk()
    finish(desk, "ada", marks)
    assert undo(desk).marks.ratings == left


def test_after_an_undo_the_solution_before_it_comes_first_then_the_one_that_was_open(make_desk, items):
    desk = make_desk()
    finish(desk, "ada")
    assert desk.open("ada", "tab").item.id == items[1].id
    undo(desk)
    item, following = finish(desk, "ada")
    assert (item, following.item.id) == (items[0].id, items[1].id)


def test_a_reopened_solution_survives_a_restart(make_desk, out):
    desk = make_desk()
    item, _ = finish(desk, "ada", Marks((1, -1), "found_error"))
    undo(desk)
    at = make_desk().open("ada", "tab")
    assert (at.item.id, at.marks.ratings) == (item, (1,))
    assert rows(out) == []


def test_a_finished_solution_is_no_longer_begun_after_a_kill(make_desk, out):
    desk = make_desk("ada", "ben", overlap=1.0)
    at = desk.open("ada", "tab")
    desk.save("ada", "tab", at.item.id, 1, Marks((1,)))
    desk.save("ada", "tab", at.item.id, 2, Marks((1, -1), "found_error"))
    journal = out.with_name("labels.jsonl.journal")
    left = journal.read_bytes()
    desk.close()
    journal.write_bytes(left)
    assert make_desk("ada", "ben", overlap=1.0).open("ben", "tab").item.id == at.item.id


def test_labels_survive_labellers_who_have_left(make_desk, items):
    finish(make_desk("ada", "ben"), "ben")
    desk = make_desk("ada")
    assert desk.open("ada", "tab").item.id == items[1].id
    assert [pace.labeller for pace in desk.agreement()[1]] == ["ada", "ben"]


def test_a_half_written_last_line_is_removed(make_desk, out, caplog):
    finish(make_desk(), "ada")
    whole_file = out.read_bytes()
    journal = out.with_name("labels.jsonl.journal")
    make_desk().close()
    for path in (out, journal):
        with path.open("ab") as file:
            file.write(b'{"labeler": "ada", "time')
    desk = make_desk()
    assert out.read_bytes() == whole_file
    assert "its last line was cut off" in caplog.text
    finish(desk, "ada")
    assert len(read_back(out)) == 2


def test_a_last_row_without_its_line_break_is_kept(make_desk, out):
    finish(make_desk(), "ada")
    make_desk().close()
    out.write_bytes(out.read_bytes().rstrip(b"\n"))
    finish(make_desk(), "ada")
    assert len(rows(out)) == 2


@pytest.mark.parametrize("size", range(0, 500, 37))
def test_a_kill_at_any_byte_loses_at_most_the_row_that_was_being_written(make_desk, out, items, size):
    desk = make_desk()
    finish(desk, "ada")
    first = out.read_bytes()
    finish(desk, "ada")
    desk.close()
    out.write_bytes((out.read_bytes())[: len(first) + size])
    assert make_desk().open("ada", "tab").item.id == items[1].id
    assert out.read_bytes() == first


def test_labels_of_other_data_are_refused_and_kept(make_desk, items, out):
    finish(make_desk(), "ada")
    before = out.read_bytes()
    with pytest.raises(DataError, match="row 1, field 'question': this solution is not in data"):
        make_desk(items=items[1:])
    assert out.read_bytes() == before
    assert make_desk().open("ada", "tab").item.id == items[1].id  # and the lock was given back


def test_marks_of_other_data_are_refused_and_kept(make_desk, items, out):
    desk = make_desk()
    at = desk.open("ada", "tab")
    desk.save("ada", "tab", at.item.id, 1, Marks((1,)))
    with pytest.raises(UserError, match="marks on 1 solution that is not in data"):
        make_desk(items=items[1:])
    assert make_desk().open("ada", "tab").marks.ratings == (1,)


def test_a_journal_that_is_none_is_refused_and_kept(make_desk, out):
    journal = out.with_name("labels.jsonl.journal")
    journal.write_text('{"labeller": "ada"}\n')
    with pytest.raises(DataError, match="row 1: no line of a journal"):
        make_desk()
    assert journal.read_text() == '{"labeller": "ada"}\n'


def test_longer_data_go_on_with_the_labels(make_desk, items):
    finish(make_desk(items=items[:1]), "ada")
    assert make_desk(items=[items[3], *items[:3]]).open("ada", "tab").item.id == items[3].id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("label"), "field 'label': missing"),
        (lambda row: row["label"].update(finish_reason="done"), "field 'label.finish_reason': expected found_error or"),
        (lambda row: row["label"].update(total_time="long"), "field 'label.total_time': expected whole milliseconds"),
        (lambda row: row["label"]["steps"][0].update(completions=[]), "0 completions"),
        (lambda row: row["label"]["steps"][0]["completions"][0].update(rating=5), "expected -1, 0, 1 or null, got 5"),
        (lambda row: row["label"].update(finish_reason="found_error"), "field 'label': a negative rating"),
    ],
)
def test_a_row_that_no_server_wrote(make_desk, out, change, message):
    finish(make_desk(), "ada")
    make_desk().close()
    (row,) = rows(out)
    change(row)
    out.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message) as error:
        make_desk()
    assert error.value.row == 1


def test_the_same_label_twice_is_no_file_of_ours(make_desk, out):
    finish(make_desk(), "ada")
    make_desk().close()
    out.write_bytes(2 * out.read_bytes())
    with pytest.raises(DataError, match="row 2: ada has labelled this solution in an earlier row"):
        make_desk()


def test_two_desks_on_one_file(make_desk, items, out):
    make_desk()
    with pytest.raises(UserError, match="another `rlstep annotate` has this file open"):
        Desk(items, out, ("ben",))


def test_a_full_disk_loses_nothing(make_desk, out):
    """The row is not half kept: what comes next begins on a line of its own."""
    desk = make_desk()
    finish(desk, "ada")
    at = desk.open("ada", "tab")
    size = out.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))  # the next row is cut off after 40 bytes
    try:
        with pytest.raises(OSError, match="too large"):
            desk.save("ada", "tab", at.item.id, 1, whole(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.path.getsize(out) == size
    desk.save("ada", "tab", at.item.id, 1, whole(2))
    assert len(read_back(out)) == 2


def _edit(path):
    path.write_bytes(path.read_bytes().replace(b'"rating": 1', b'"rating": 0', 1))


def _edit_as_sed_does(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


def _add(path):
    with path.open("ab") as file:
        file.write(b'{"labeler": "ben"}\n')


@pytest.mark.parametrize("change", [_edit_as_sed_does, _add])
def test_nothing_is_written_into_a_file_that_others_have_changed(make_desk, out, change):
    """An append would go into a file without a name, or follow rows that this server has not read."""
    desk = make_desk()
    finish(desk, "ada")
    change(out)
    changed, at = out.read_bytes(), desk.open("ada", "tab")
    with pytest.raises(ChangedOutside, match=r"labels.jsonl was changed by another program"):
        desk.save("ada", "tab", at.item.id, 1, whole(2))
    assert out.read_bytes() == changed
    with pytest.raises(ChangedOutside):
        undo(desk)
    assert out.read_bytes() == changed


def test_an_edit_from_outside_is_not_undone_with_a_solution(make_desk, out):
    desk = make_desk()
    finish(desk, "ada")
    os.utime(out, ns=(0, 0))  # the clock of a fast file system may not have moved since
    desk = make_desk()
    _edit(out)
    edited = out.read_bytes()
    with pytest.raises(ChangedOutside):
        undo(desk)
    assert out.read_bytes() == edited


@pytest.mark.parametrize("removed", ["labels.jsonl", "labels.jsonl.journal"])
def test_a_file_that_others_remove_is_written_anew(make_desk, out, items, removed, caplog):
    desk = make_desk()
    finish(desk, "ada")
    desk.save("ada", "tab", items[1].id, 1, Marks((1,), None, 5))
    (out.parent / removed).unlink()
    desk.save("ada", "tab", items[1].id, 2, Marks((), None, 6))
    desk.save("ada", "tab", items[1].id, 3, Marks((1, 1), "solution", 7))
    at = desk.open("ada", "tab")
    desk.save("ada", "tab", at.item.id, 1, Marks((1,), None, 5))
    assert f"{removed} was removed while this server had it open" in caplog.text
    assert len(read_back(out)) == 2
    assert make_desk().open("ada", "tab").marks == Marks((1,), None, 5)


def test_agreement_and_pace(make_desk, items):
    desk = make_desk("ada", "ben", overlap=1.0)
    error, solution = "found_error", "solution"
    ada = [Marks((1, 1, 1), solution, 9000), Marks((1, -1), error, 3000), Marks((1, -1), error), Marks((), "give_up")]
    ben = [Marks((1, 0, 1), solution), Marks((1, -1), error), Marks((-1,), error), Marks((1, 1), solution)]
    for name, marks in (("ada", ada), ("ben", ben)):
        for one in marks:
            finish(desk, name, one)
    (pair,), paces = desk.agreement()
    assert (pair.labellers, pair.solutions, pair.steps) == (("ada", "ben"), 3, 6)
    assert pair.same_first_error == pytest.approx(2 / 3)
    # Places -1, 1, 1 and -1, 1, 0: p_o = 2/3, p_e = (1 * 1 + 2 * 1) / 9 = 1/3.
    assert pair.first_error_kappa == pytest.approx(1 / 2)
    # Ratings 1 1 1 | 1 -1 | 1 and 1 0 1 | 1 -1 | -1: p_o = 4/6, p_e = (5 * 3 + 1 * 2) / 36.
    assert pair.step_kappa == pytest.approx((24 - 17) / (36 - 17))
    assert [(pace.labeller, pace.solutions, pace.steps) for pace in paces] == [("ada", 4, 7), ("ben", 4, 8)]
    assert paces[0].seconds_per_step == pytest.approx(12 / 7)


def test_nothing_in_common_has_no_agreement(make_desk):
    desk = make_desk("ada", "ben")
    finish(desk, "ada")
    finish(desk, "ben")
    pairs, paces = desk.agreement()
    assert pairs == []
    assert paces[1].solutions == 1
