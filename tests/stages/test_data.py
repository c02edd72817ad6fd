"""`rlstep data`, end to end through the command line."""

import json
from typing import get_args

import datasets
import pytest

from rlstep import cli
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import read_rows, write_rows
from rlstep.stages.data import FORMAT_OPTIONS, DataConfig, Format, data
from rlstep.steps.readers import FORMATS, READERS, options_of, read
from rlstep.steps.records import Solution, read_solutions

GSM8K = {"question": "How many legs have 2 ducks?", "answer": "They have 2*2=<<2*2=4>>4 legs.\n#### 4"}
STEPWISE = {"prompt": "What is 2 + 3 * 4?", "completions": ["3 * 4 = 12", "2 + 12 = 15"], "labels": [True, 0.25]}
SHEPHERD = {"input": "How? Step 1: a ки\nStep 2: b ки", "label": "How? Step 1: a +\nStep 2: b -", "task": "MATH"}
RLHFLOW = {"conversations": [{"role": "user", "content": "How? Step 1: a"}, {"role": "assistant", "content": "+"}]}
BENCH = {
    "id": "gsm8k-7", "generator": "Qwen2-7B-Instruct", "problem": "How?", "steps": ["a", "b"],
    "final_answer_correct": False, "label": 1,
}  # fmt: skip
PRMBENCH = {
    "original_question": "How?", "modified_question": "How?", "original_process": ["a"], "modified_process": ["a", "b"],
    "modified_steps": [2], "error_steps": [2], "reason": "b", "idx": "0", "question": "How?",
    "classification": "redundency",
}  # fmt: skip
VERSA = {
    "id": "70", "cot_id": 3, "category": "law", "question": "Which? A. x B. y", "answer": "B",
    "chain_of_thoughts": "['It\\'s x.', \"So x.\"]", "labels": "[1, -1]", "parsed_answer": "A",
    "parsed_answer_correctness": False,
}  # fmt: skip
MATH = {"problem": "What is $1/2$?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "Level 1"}


def prm800k(*ratings, last="b", reason="found_error"):
    """A row with one chosen step and then, nothing chosen, a step for each rating."""
    first = {"completions": [{"text": "a", "rating": 1, "flagged": None}], "human_completion": None}
    second = [{"text": f"{last}{k}", "rating": rating, "flagged": None} for k, rating in enumerate(ratings)]
    steps = [first | {"chosen_completion": 0}]
    steps.append({"completions": second, "human_completion": None, "chosen_completion": None})
    return {
        "is_quality_control_question": False, "is_initial_screening_question": False,
        "question": {"problem": "What is 2 + 2?", "ground_truth_answer": "4"},
        "label": {"steps": steps, "finish_reason": reason},
    }  # fmt: skip


ROWS = {
    "solutions": Solution("p", "?", "a\nb", "1", steps=[(0, 2), (2, 3)], labels=[1, 0.5]).to_row(),
    "gsm8k": GSM8K,
    "math": MATH,
    "prm800k": prm800k(-1, 0),
    "math_shepherd": SHEPHERD,
    "stepwise": STEPWISE,
    "processbench": BENCH,
    "prmbench": PRMBENCH,
    "rlhflow": RLHFLOW,
    "versaprm": VERSA,
}


def rlstep_data(*words) -> int:
    return cli.main(["data", *map(str, words)])


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_configuration_knows_every_format_and_every_option():
    assert get_args(Format) == FORMATS
    assert set(FORMAT_OPTIONS) <= set(DataConfig.__dataclass_fields__)
    assert set().union(*map(options_of, FORMATS)) == set(FORMAT_OPTIONS)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_converted_to_either_file_type(tmp_path, format, suffix, capsys):
    source, out = tmp_path / "in" / "x.jsonl", tmp_path / "out" / f"x{suffix}"
    write_rows(source, [ROWS[format]])
    assert rlstep_data(format, source, "--out", out) == 0
    assert read_solutions(out) == list(read(format, source))
    assert sorted(path.name for path in out.parent.iterdir()) == [f"x{suffix}", f"x{suffix}.run.json"]
    # What was written is our own format: reading it again gives the same.
    assert rlstep_data("solutions", out, "--out", tmp_path / "again.jsonl") == 0
    assert read_solutions(tmp_path / "again.jsonl") == read_solutions(out)


def test_counts_are_printed_and_recorded(tmp_path, capsys):
    write_rows(tmp_path / "x.jsonl", [prm800k(-1, 0), prm800k(-1, reason="give_up"), prm800k(1, -1, None)])
    assert rlstep_data("prm800k", tmp_path / "x.jsonl", "--out", tmp_path / "o.jsonl") == 0
    assert lines(capsys.readouterr().out) == [
        "rows 3",
        "left out: give_up 1 33.3%",
        "alternative without a rating 1",
        "finish reason: found_error 2",
        "finish reason: give_up 1",
        "problems 1",
        "trees 2",
        "solutions 4",
        "finished 0 0.0%",
        "answer unknown 4 100.0%",
        "steps 6",
        "right 3 50.0%",
        "wrong 2 33.3%",
        "neutral 1 16.7%",
        "beginnings that branches share 2",
    ]
    record = json.loads((tmp_path / "o.jsonl.run.json").read_text())
    assert record["stage"] == "data"
    assert record["metrics"] == {
        "rows": {str(tmp_path / "x.jsonl"): 3},
        "left_out": {"give_up": 1},
        "ungraded": 0,
        "bad_rows": 0,
        "seen": {"finish reason: found_error": 2, "finish reason: give_up": 1, "alternative without a rating": 1},
        "solutions": 4,
        "problems": 1,
        "trees": 2,
        "finished": 0,
        "steps": {"right": 3, "wrong": 2, "soft": 0, "neutral": 1, "unknown": 0},
        "shared_steps": 2,
        "answers": {"right": 0, "wrong": 0, "unknown": 4},
    }


def test_without_out_rows_are_checked_and_nothing_is_written(tmp_path, capsys):
    write_rows(tmp_path / "x.jsonl", [STEPWISE])
    assert rlstep_data("stepwise", tmp_path / "x.jsonl") == 0
    assert "steps 2" in lines(capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
    write_rows(tmp_path / "x.jsonl", [STEPWISE, {**STEPWISE, "labels": [True]}])
    assert rlstep_data("stepwise", tmp_path / "x.jsonl") == 2
    assert capsys.readouterr().err == (
        f"rlstep data: error: {tmp_path / 'x.jsonl'}, row 2, field 'labels': 1 label for 2 steps.\n"
    )


def test_what_a_terminal_would_obey_or_cannot_show_is_printed_by_its_code(tmp_path, capsys):
    row = STEPWISE | {"prompt": "Half \ud83d of it?", "completions": ["\x1b[2J = 12", "\u202e15"]}
    write_rows(tmp_path / "x.jsonl", [row])
    assert rlstep_data("stepwise", tmp_path / "x.jsonl", "--show", 1) == 0
    printed = capsys.readouterr().out
    assert r"Half \ud83d of it?" in printed
    assert "right  ⟨U+001B⟩[2J = 12\n" in printed
    assert "⟨U+202E⟩15" in printed


def test_show_prints_the_first_solutions(tmp_path, capsys):
    write_rows(tmp_path / "x.jsonl", [STEPWISE, {**STEPWISE, "prompt": "Another?"}, {**STEPWISE, "prompt": "Third?"}])
    assert rlstep_data("stepwise", tmp_path / "x.jsonl", "--show", 2) == 0
    out = lines(capsys.readouterr().out)
    assert out[1:4] == ["What is 2 + 3 * 4?", "right 3 * 4 = 12", "0.25 2 + 12 = 15"]
    assert "Another?" in out
    assert "Third?" not in out


def test_skipped_rows_are_printed_and_listed_in_a_file(tmp_path, capsys):
    source, out = tmp_path / "x.jsonl", tmp_path / "out" / "o.jsonl"
    write_rows(source, [{**STEPWISE, "labels": [1, k]} for k in range(24)])
    assert rlstep_data("stepwise", source, "--out", out) == 2
    assert not list(tmp_path.glob("out/*"))
    capsys.readouterr()
    assert rlstep_data("stepwise", source, "--out", out, "--on_bad_row", "skip") == 0
    printed = capsys.readouterr().out
    assert "malformed, skipped 22 91.7%" in lines(printed)
    assert printed.endswith("and 2 more\n")
    assert f"{source}, row 3, field 'labels[1]': expected" in printed
    listed = [row for _, row in read_rows(tmp_path / "out" / "o.jsonl.bad_rows.jsonl")]
    assert [row["row"] for row in listed] == list(range(3, 25))
    assert (listed[0]["path"], listed[0]["field"]) == (str(source), "labels[1]")
    # The folder's solutions are those of one file: the list of bad rows is none of its shards.
    assert len(read_solutions(out.parent)) == 2
    # A later run without bad rows leaves no list of an earlier one.
    write_rows(source, [STEPWISE])
    assert rlstep_data("stepwise", source, "--out", out, "--on_bad_row", "skip") == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["o.jsonl", "o.jsonl.run.json"]


def test_a_failing_run_leaves_the_old_output(tmp_path):
    source, out = tmp_path / "in" / "x.jsonl", tmp_path / "o.parquet"
    write_rows(source, [STEPWISE])
    data(DataConfig("stepwise", str(source), out=str(out)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    write_rows(source, [STEPWISE] * 300 + [{}])
    with pytest.raises(DataError):
        data(DataConfig("stepwise", str(source), out=str(out)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_solutions_are_written_while_rows_are_read(tmp_path, monkeypatch):
    """Of a data set of the hub with rows of 100 kB: when the last one is asked for, most are on the disk."""
    sizes = []

    def rows():
        for _ in range(20):
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
            yield {**STEPWISE, "prompt": "x" * 100_000}

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows())
    data(DataConfig("stepwise", "owner/set", split="train", out=str(tmp_path / "o.jsonl")))
    assert len(sizes) == 20
    assert sizes[-1] > 1_500_000


@pytest.mark.parametrize("out", [True, False])
def test_no_solution_at_all_is_an_error(tmp_path, out, capsys):
    write_rows(tmp_path / "x.jsonl", [prm800k(1, reason="give_up"), {}])
    options = ["--on_bad_row", "skip"] + ["--out", tmp_path / "o.jsonl"] * out
    assert rlstep_data("prm800k", tmp_path / "x.jsonl", *options) == 2
    error = capsys.readouterr().err
    assert "its rows have no solution" in error
    assert "left out: give_up 1" in " ".join(error.split())
    assert "row 2, field 'question': missing" in error
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def convert(tmp_path, format, *rows, **options):
    write_rows(tmp_path / "x.jsonl", rows)
    metrics = data(DataConfig(format, str(tmp_path / "x.jsonl"), out=str(tmp_path / "o.jsonl"), **options))
    return read_solutions(tmp_path / "o.jsonl"), metrics


def test_grade_compares_answers_with_the_reference(tmp_path):
    wrong = Solution("p", "?", "So\n#### 5", "4").to_row()
    right, unanswered = wrong | {"completion": "\\boxed{4.0}", "sample": 1}, wrong | {"completion": "?", "sample": 2}
    ungraded, _ = convert(tmp_path, "solutions", wrong, right, unanswered)
    assert [s.correct for s in ungraded] == [None] * 3
    solutions, metrics = convert(tmp_path, "solutions", wrong, right, unanswered, grade=True)
    assert [(s.answer, s.correct) for s in solutions] == [("5", False), ("4.0", True), (None, False)]
    assert metrics["answers"] == {"right": 1, "wrong": 2, "unknown": 0}


@pytest.mark.parametrize("format", ["gsm8k", "math"])
def test_published_solutions_are_right(tmp_path, format):
    [solution], _ = convert(tmp_path, format, ROWS[format], grade=True)
    assert solution.correct is True


def test_prm800k_is_graded_where_an_attempt_came_to_its_end(tmp_path):
    answers = prm800k(-1, 1, last="So it is.\n\n# Answer\n\n")  # "0" and "1"; the reference is 4
    right = prm800k(1, last="# Answer\n\n$4$ ")
    right["label"]["steps"][1]["completions"][0]["text"] = "# Answer\n\n4.0"
    solved = prm800k(1, last="# Answer\n\n", reason="solution")  # the finish reason does not make "0" right
    solved["label"]["steps"][1]["chosen_completion"] = 0
    unanswered = prm800k(reason="solution")
    unanswered["label"]["steps"].pop()
    solutions, metrics = convert(tmp_path, "prm800k", answers, right, solved, unanswered, prm800k(-1), grade=True)
    assert [(s.answer, s.correct) for s in solutions] == [("0", False), ("1", False), ("4.0", True), ("0", False)]
    # One that states no answer and one that ends where its labelling ended are no attempts that failed.
    assert metrics["ungraded"] == 2


@pytest.mark.parametrize("format", ["math_shepherd", "stepwise", "processbench", "prmbench", "rlhflow"])
def test_grade_needs_a_format_with_references(tmp_path, format):
    with pytest.raises(UserError, match="hold no reference answer"):
        DataConfig(format, "x", grade=True)


def test_grade_needs_an_answer_as_the_reference(tmp_path):
    write_rows(tmp_path / "s.jsonl", [Solution("p", "?", "Answer: 18", "They earn 9 * 2.\n#### 18").to_row()])
    with pytest.raises(DataError, match="row 1, field 'reference': .* states the answer '18' and is no answer itself"):
        data(DataConfig("solutions", str(tmp_path / "s.jsonl"), grade=True))


def test_grade_names_the_reference_as_the_file_does(tmp_path):
    row = Solution("p", "?", "Answer: 18", "They earn 9 * 2.\n#### 18").to_row()
    row["gold"] = row.pop("reference")
    with pytest.raises(DataError, match="row 1, field 'gold': .* is no answer itself.* It is read as reference"):
        convert(tmp_path, "solutions", row, grade=True, fields=["reference=gold"])


def test_grade_needs_a_reference_in_every_row(tmp_path):
    rows = [Solution("p", "?", "Answer: 1", "1").to_row(), Solution("q", "?", "Answer: 1", " ").to_row()]
    place = "row 2, field 'reference': problem 'q' has no reference answer"
    with pytest.raises(DataError, match=place):
        convert(tmp_path, "solutions", *rows, grade=True)
    solutions, metrics = convert(tmp_path, "solutions", *rows, grade=True, on_bad_row="skip")
    assert (metrics["bad_rows"], [s.problem_id for s in solutions]) == (1, ["p"])
    (listed,) = (fault for _, fault in read_rows(next(tmp_path.glob("*.bad_rows.jsonl"))))
    assert place in listed["error"]


def test_gradings_that_failed_are_told_in_a_line(tmp_path, caplog):
    rows = [Solution(name, "?", "Answer: 3", rf"\\mystery{{{name}}}").to_row() for name in "pq"]
    _, metrics = convert(tmp_path, "solutions", *rows, grade=True)
    assert metrics["grading_errors"] == 2
    assert "answers that could not be graded count as wrong: 2 grading errors" in caplog.text
    _, metrics = convert(tmp_path, "solutions", Solution("p", "?", "Answer: 3", "3").to_row(), grade=True)
    assert "grading_errors" not in metrics


VALUES = {
    "prompt": "Q: {problem}\nA:\n",
    "separator": "\n\n",
    "keep": ["give_up", "flagged"],
    "tag": "<s>",
    "first_step": "First:",
    "close_last": True,
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("option", VALUES)
def test_an_option_that_does_nothing_for_a_format_is_an_error(format, option):
    if option in options_of(format):
        config = DataConfig(format, "x", **{option: VALUES[option]})
        assert list(config.options) == [option]
    else:
        with pytest.raises(UserError, match=f"{option}: the format '{format}' has no such option"):
            DataConfig(format, "x", **{option: VALUES[option]})


# (format, a row, the option's words, the exit status without them)
CHANGING = {
    "prompt": ("gsm8k", GSM8K, ["Q: {problem}\nA:\n"], 0),
    "separator": ("stepwise", STEPWISE, ["\n\n"], 0),
    "keep": ("prm800k", prm800k(1, reason="give_up"), ["give_up", "flagged"], 2),
    "tag": ("math_shepherd", {**SHEPHERD, "input": SHEPHERD["input"].replace("ки", "<s>")}, ["<s>"], 2),
    "first_step": ("rlhflow", RLHFLOW, ["a"], 0),
    "close_last": ("stepwise", STEPWISE, ["true"], 0),
}


@pytest.mark.parametrize("option", VALUES)
def test_every_option_of_a_format_reaches_its_reader(tmp_path, option):
    format, row, words, refused = CHANGING[option]
    write_rows(tmp_path / "x.jsonl", [row])
    plain, changed = tmp_path / "plain.jsonl", tmp_path / "changed.jsonl"
    assert rlstep_data(format, tmp_path / "x.jsonl", "--out", plain) == refused
    assert rlstep_data(format, tmp_path / "x.jsonl", f"--{option}", *words, "--out", changed) == 0
    assert (read_solutions(plain) if refused == 0 else []) != read_solutions(changed)


def test_gsm8k_takes_no_socratic_file_unless_it_is_asked_for(tmp_path, capsys):
    for name in ("train", "train_socratic", "test", "test_socratic"):
        write_rows(tmp_path / f"{name}.jsonl", [GSM8K])
    assert rlstep_data("gsm8k", tmp_path, "--split", "train") == 0
    assert lines(capsys.readouterr().out)[:2] == ["rows 1", "passed over: train_socratic.jsonl 1"]

    def read_of(**given):
        return sorted(path.rsplit("/", 1)[-1] for path in data(DataConfig("gsm8k", **given))["rows"])

    folder, socratic = str(tmp_path), ["test_socratic.jsonl", "train_socratic.jsonl"]
    assert read_of(path=folder) == ["test.jsonl", "train.jsonl"]
    assert read_of(path=folder, split="socratic") == socratic
    assert read_of(path=folder, split="train_socratic") == socratic[1:]
    assert read_of(path=f"{folder}/{socratic[0]}") == socratic[:1]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").unlink()
    assert read_of(path=folder) == socratic


def test_fields_of_other_names(tmp_path, capsys):
    theirs = {"question": STEPWISE["prompt"], "solution": {"steps": STEPWISE["completions"]}, "marks": [True, 0.25]}
    write_rows(tmp_path / "theirs.jsonl", [theirs])
    write_rows(tmp_path / "ours.jsonl", [STEPWISE])
    mapping = "prompt=question,completions=solution.steps,labels=marks"
    assert rlstep_data("stepwise", tmp_path / "theirs.jsonl", "--fields", mapping, "--out", tmp_path / "a.jsonl") == 0
    assert rlstep_data("stepwise", tmp_path / "ours.jsonl", "--out", tmp_path / "b.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    assert rlstep_data("stepwise", tmp_path / "theirs.jsonl", "--fields", "problem=question") == 2
    assert "no field 'problem' is read; there are prompt, completions, labels" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"row 1, field 'steps': missing, but fields says completions=steps"):
        data(DataConfig("stepwise", str(tmp_path / "theirs.jsonl"), fields=["completions=steps"]))
    skipping = DataConfig("stepwise", str(tmp_path / "both"), fields=[mapping], on_bad_row="skip")
    (tmp_path / "both").mkdir()
    write_rows(tmp_path / "both" / "x.jsonl", [theirs, STEPWISE])
    assert data(skipping)["bad_rows"] == 1


@pytest.mark.parametrize("format", FORMATS)
def test_every_field_of_a_format_can_have_another_name(tmp_path, format):
    row, names = ROWS[format], [name for name in READERS[format].names if name in ROWS[format]]
    assert names
    write_rows(tmp_path / "ours" / "x.jsonl", [row])
    write_rows(
        tmp_path / "theirs" / "x.jsonl", [{f"their {name}" if name in names else name: row[name] for name in row}]
    )
    mapping = [f"{name}=their {name}" for name in names]
    assert list(read(format, tmp_path / "theirs", fields=mapping)) == list(read(format, tmp_path / "ours"))


def test_own_samples_become_solutions(tmp_path):
    own = {"id": "a", "question": "2 + 2?", "response": "It is 4.", "gold": "4", "model": "m", "meta": {"k": 1}}
    write_rows(tmp_path / "own.jsonl", [own])
    names = "problem_id=id,prompt=question,completion=response,reference=gold,extra.model=model,sample=meta.k"
    config = DataConfig(
        "solutions", str(tmp_path / "own.jsonl"), str(tmp_path / "s.jsonl"), fields=[names, "extra.meta=meta"]
    )
    data(config)
    (solution,) = read_solutions(tmp_path / "s.jsonl")
    assert (solution.problem_id, solution.prompt, solution.completion) == ("a", "2 + 2?", "It is 4.")
    assert (solution.reference, solution.sample, solution.extra["model"]) == ("4", 1, "m")


def test_split_chooses_the_shards_of_a_folder(tmp_path):
    folder = tmp_path / "in"
    write_rows(folder / "train.jsonl", [GSM8K])
    write_rows(folder / "test.jsonl", [GSM8K, GSM8K])
    metrics = data(DataConfig("gsm8k", str(folder), split="test"))
    assert metrics["rows"] == {str(folder / "test.jsonl"): 2}
    assert data(DataConfig("gsm8k", str(folder)))["solutions"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gsm8k", "x.jsonl", "--path", "y"], "the path is given by position and as --path"),
        (["gsm8k", "x.jsonl", "--format=math"], "the format is given by position and as --format"),
        (["gsm8k"], "required: --path"),
        (["gsm8k", "x.jsonl", "y.jsonl"], "unexpected argument 'y.jsonl'"),
        (["gms8k", "x.jsonl"], "invalid choice: 'gms8k'"),
        (["gsm8k", "x.jsonl", "--show", "-1"], "show is -1"),
        (["gsm8k", "x.jsonl", "--out", "o.csv"], "must end in .jsonl or .parquet"),
        (["gsm8k", "x.jsonl", "--out", "x.jsonl"], "which is inside the input path"),
        (["gsm8k", "there", "--out", "there/x.jsonl"], "which is inside the input path"),
        (["gsm8k", "x.jsonl"], "x.jsonl: no such file"),
        (["gsm8k", "x.jsonl", "--config_name", "main"], "config_name is 'main'"),
        (["gsm8k", "owner/set"], "--split"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert rlstep_data(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_format_and_path_may_stand_in_a_recipe(tmp_path, capsys):
    write_rows(tmp_path / "x.jsonl", [GSM8K])
    (tmp_path / "r.yaml").write_text(f"format: gsm8k\npath: {tmp_path / 'x.jsonl'}\ngrade: true\n")
    assert rlstep_data("--config", tmp_path / "r.yaml") == 0
    assert "answer right 1 100.0%" in lines(capsys.readouterr().out)
    # Words on the command line override the recipe.
    write_rows(tmp_path / "y.jsonl", [GSM8K, GSM8K])
    assert rlstep_data("gsm8k", tmp_path / "y.jsonl", "--config", tmp_path / "r.yaml") == 0
    assert "rows 2" in lines(capsys.readouterr().out)


def test_the_published_gsm8k_is_right_by_its_own_references(gsm8k_dir):
    metrics = data(DataConfig("gsm8k", str(gsm8k_dir), split="test", grade=True))
    assert metrics["answers"] == {"right": 1319, "wrong": 0, "unknown": 0}
