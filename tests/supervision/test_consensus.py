"""The stage `label --by consensus`: what two labellers agree on is kept, the rest is counted or put aside."""

from dataclasses import replace

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.label import LabelConfig, label
from rlstep.steps.records import Solution, read_solutions


def solution(name: str, labels: list, **more) -> Solution:
    """A solution of one-letter steps."""
    steps = [(k, k + 1) for k in range(len(labels))]
    return Solution(name, f"{name}?", "x" * len(labels), "1", steps=steps, labels=labels, **more)


# (labels of one, labels of the other): both see no error; both the second step; different steps; an error and none.
PAIRS = {
    "none": ([1, 1], [1, 1]),
    "second": ([1, 0, None], [0.9, 0.1, None]),
    "differ": ([0, None, None], [1, 1, 0]),
    "one": ([1, 1], [1, 0]),
}


@pytest.fixture
def config(tmp_path):
    def make(ours, others, **options) -> LabelConfig:
        for name, rows in (("a", ours), ("b", others)):
            write_rows(tmp_path / f"{name}.jsonl", (one.to_row() for one in rows))
        given = {"by": "consensus", "other": str(tmp_path / "b.jsonl")} | options
        return LabelConfig(str(tmp_path / "a.jsonl"), str(tmp_path / "kept.jsonl"), **given)

    return make


def pairs() -> tuple[list[Solution], list[Solution]]:
    return tuple([solution(name, pair[who]) for name, pair in PAIRS.items()] for who in (0, 1))


def names(path: str) -> list[str]:
    return [one.problem_id for one in read_solutions(path)]


def test_what_both_see_alike_is_kept_with_the_labels_of_the_first(config, tmp_path):
    given = config(*pairs(), disagreements=str(tmp_path / "aside.jsonl"))
    metrics = label(given)
    assert [one.to_row() for one in read_solutions(given.out)] == [one.to_row() for one in pairs()[0][:2]]
    assert names(given.disagreements) == ["differ", "one"]
    assert metrics["rows"] == metrics["agreed"] == 2
    assert (metrics["compared"], metrics["agreement"]) == (4, 0.5)
    # Steps that both label: 2, 2, 1 and 2, of which a calls 5 right and b 5; alike 2, 2, 0 and 1: p_o = 5/7.
    # p_e = (5 * 5 + 2 * 2) / 49 = 29/49, and (35 - 29) / (49 - 29) = 0.3.
    assert metrics["step_kappa"] == pytest.approx(0.3)


def test_order_and_further_rows_of_the_other_file_do_not_matter(config):
    ours, others = pairs()
    given = config(ours, [*reversed(others), solution("more", [1])])
    label(given)
    assert names(given.out) == ["none", "second"]


def test_what_the_other_lacks_or_leaves_open_is_not_kept(config, tmp_path):
    ours = [solution("a", [1, 1]), solution("b", [1, 1]), solution("c", [1, 1]), solution("d", []), solution("e", [0])]
    others = [solution("a", [1, 1]), solution("c", [1, None]), solution("d", []), solution("e", [0])]
    given = config(ours, others, disagreements=str(tmp_path / "aside.jsonl"))
    metrics = label(given)
    assert names(given.out) == ["a", "e"]
    assert names(given.disagreements) == ["b", "c", "d"]
    assert (metrics["compared"], metrics["unmatched"], metrics["undecided"]) == (2, 1, 2)


def test_an_error_before_open_steps_is_a_place_and_one_after_them_is_not(config):
    ours = [solution("a", [1, 0, None]), solution("b", [None, 0, None])]
    given = config(ours, [solution("a", [1, 0, None]), solution("b", [1, 0, None])])
    label(given)
    assert names(given.out) == ["a"]


def test_neutral_steps_are_right(config):
    given = config([solution("a", [None, 0], neutral=[0])], [solution("a", [1, 0])])
    assert label(given)["agreed"] == 1
    (kept,) = read_solutions(given.out)
    assert (kept.labels, kept.neutral) == ([None, 0], [0])


def test_samples_of_one_problem_are_told_apart(config):
    ours = [replace(solution("a", [label]), sample=sample) for sample, label in enumerate([1, 0, 1])]
    others = [replace(solution("a", [label]), sample=sample) for sample, label in enumerate([1, 1, 1])]
    given = config(ours, others)
    label(given)
    assert [one.sample for one in read_solutions(given.out)] == [0, 2]


@pytest.mark.parametrize(
    "change", [{"completion": "xy"}, {"prompt": "another?"}, {"steps": [(0, 2)], "labels": [1], "completion": "xx"}]
)
def test_another_solution_under_the_same_name_is_refused(config, change):
    with pytest.raises(UserError, match="problem 'a', sample 0: .* has another text or other steps"):
        label(config([solution("a", [1, 1])], [replace(solution("a", [1, 1]), **change)]))


@pytest.mark.parametrize("file", ["a", "b"])
def test_a_repeated_solution_is_refused(config, tmp_path, file):
    """In `data` it would be kept, and counted in the agreement, twice."""
    files = {name: [solution("a", [1])] * (2 if name == file else 1) for name in ("a", "b")}
    with pytest.raises(DataError, match=rf"{file}.jsonl, row 2, field 'sample': sample 0 of 'a' is there twice"):
        label(config(*files.values()))
    assert not (tmp_path / "kept.jsonl").exists()


def test_files_without_a_common_solution_are_refused(config):
    with pytest.raises(UserError, match=r"no solution of .*a.jsonl is in .*b.jsonl"):
        label(config([solution("a", [1])], [solution("b", [1])]))


def test_full_disagreement_is_said_and_put_aside(config, tmp_path):
    given = config([solution("a", [1])], [solution("a", [0])], disagreements=str(tmp_path / "aside.jsonl"))
    with pytest.raises(UserError, match="agree on no solution: 1 were compared, and of 0"):
        label(given)
    assert names(given.disagreements) == ["a"]


def test_a_file_without_labels_is_named(config):
    with pytest.raises(DataError, match=r"b.jsonl, row 1, field 'labels': is null"):
        label(config([solution("a", [1])], [replace(solution("a", [1]), labels=None)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"other": None}, "by 'consensus' needs other"),
        ({"task": "gsm8k"}, "by is 'consensus', so task would do nothing"),
        ({"labelled": "keep"}, "so labelled would do nothing"),
        ({"boundary": "sentence"}, "so boundary would do nothing"),
        ({"by": "checker", "task": "gsm8k"}, "by is 'checker', so other would do nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, options, message):
    with pytest.raises(UserError, match=message):
        config(*pairs(), **options)


def test_a_file_is_not_compared_with_itself(config, tmp_path):
    with pytest.raises(UserError, match="other is .*, the path that data names"):
        config(*pairs(), other=str(tmp_path / "." / "a.jsonl"))


def test_what_is_put_aside_overwrites_no_input(config, tmp_path):
    with pytest.raises(UserError, match="disagreements is .*, which data, out or other names, too"):
        config(*pairs(), disagreements=str(tmp_path / "." / "b.jsonl"))
    with pytest.raises(UserError, match=r"disagreements is .*; its rows are JSON"):
        config(*pairs(), disagreements=str(tmp_path / "aside.parquet"))


@pytest.mark.parametrize(("out", "whose"), [("a.jsonl", "data"), ("b.jsonl", "other")])
def test_what_is_kept_overwrites_no_input(config, tmp_path, out, whose):
    given = config(*pairs())
    with pytest.raises(UserError, match=f"out is .*{out}, which {whose} names, too"):
        replace(given, out=str(tmp_path / "." / out))
