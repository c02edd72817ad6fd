import gzip
import json
from dataclasses import fields

import pytest
from datasets import Dataset

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages import config_classes
from rlstep.steps.records import Solution
from rlstep.tasks import NAMES, get
from rlstep.tasks.base import checked
from rlstep.tasks.math import MATH, demonstration


def row(k: int, **more) -> dict:
    """A row with the published fields; its answer is k + 1/2."""
    return {
        "problem": f"Compute ${k} + \\frac{{1}}{{2}}$.",
        "solution": f"We add.\n\n\\begin{{align*}}\n{k} + \\frac12 &= x\\\\\n"
        f"x &= \\boxed{{\\frac{{{2 * k + 1}}}{{2}}}}\n\\end{{align*}}",
        "answer": f"\\frac{{{2 * k + 1}}}{{2}}",
        "subject": "Prealgebra",
        "level": "Level 1",
        "unique_id": f"train/prealgebra/{k}.json",
    } | more


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "train.jsonl", [row(k) for k in range(40)])
    write_rows(tmp_path / "test.jsonl", [row(k, unique_id=f"test/prealgebra/{k}.json") for k in range(100, 120)])
    return tmp_path


def check(completion: str, reference: str = "12"):
    return MATH().check("What is $3 \\cdot 4$?\n", completion, reference)


# --- The checker.


COMPLETION = "The numbers are 3 and 4.\n\nTheir product is $3 \\cdot 4 = 12$.\nSo the answer is $\\boxed{12}$."


def test_steps_are_lines_and_the_answer_alone_has_a_label():
    actual = check(COMPLETION)
    lines = ["The numbers are 3 and 4.\n\n", "Their product is $3 \\cdot 4 = 12$.\n", "So the answer is $\\boxed{12}$."]
    assert [COMPLETION[start:end] for start, end in actual.steps] == lines
    assert (actual.labels, actual.answer, actual.correct) == ([None, None, 1], "12", True)


@pytest.mark.parametrize(
    ("completion", "reference", "labels", "correct"),
    [
        ("a\n\\boxed{13}", "12", [None, 0], False),
        ("a\nb", "12", [None, None], False),
        ("\\boxed{12}\nThat was easy.", "12", [1, None], True),
        # What is stated last is the answer, and no other line is judged.
        ("\\boxed{12}\nor \\boxed{13}", "12", [None, 0], False),
        ("\\boxed{13}\nno, \\boxed{12}\nyes", "12", [None, 1, None], True),
        # Equal as mathematics, not as text.
        ("\\boxed{\\tfrac{24}{2}}", "12", [1], True),
        ("\\boxed{0.5}", "\\frac{1}{2}", [1], True),
        ("\\boxed{1+2x}", "2x+1", [1], True),
        ("\\boxed{2+2x}", "2x+1", [0], False),
        # A box over several lines is complete where it closes.
        ("a\n\\boxed{\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}\n}\nb", "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
         [None, None, None, 1, None], True),
        ("\\boxed{13}, no: \\boxed{12\n}", "12", [None, 1], True),
        # Two boxes joined by "and" are one answer, of two values.
        ("\\boxed{13} and \\boxed{12\n}", "12", [None, 0], False),
        ("\\boxed{13} and \\boxed{12\n}", "12, 13", [None, 1], True),
        # A sentence states the answer where nothing else does.
        ("The answer is 12.\nSo it is.", "12", [1, None], True),
        ("The answer is 13.\n\\boxed{12}", "12", [None, 1], True),
        ("a\nAnswer: 12", "12", [None, 1], True),
    ],
)  # fmt: skip
def test_the_step_of_the_answer_is_labelled(completion, reference, labels, correct):
    actual = check(completion, reference)
    assert (actual.labels, actual.correct) == (labels, correct)


ODD = [
    "", "\n\n", " ", "\\boxed{", "\\boxed{}", "\\boxed{\\boxed{}}", "}" * 50 + "\\boxed{", "\\boxed" * 50, "#### ####",
    "\x00\\boxed{\x00}", "\ud800\n\\boxed{\ud800}", "\\boxed{" + "{" * 500 + "}" * 501,
    "\\boxed{__import__('os').getcwd()}", "Answer:\nAnswer: \nAnswer: \t", "数学\u2028\\boxed{一}\r\n",
]  # fmt: skip


@pytest.mark.parametrize("completion", ODD)
def test_odd_completions_are_not_correct_and_raise_nothing(completion):
    actual = check(completion)
    assert len(actual.labels) == len(actual.steps)
    assert not actual.correct
    assert set(actual.labels) <= {None, 0}


def test_a_text_of_thousands_of_lines_takes_no_time(no_hang):
    actual = check("\\boxed{1}\n" * 20_000 + "\\boxed{12}\n" + "and so on\n" * 20_000)
    assert [k for k, label in enumerate(actual.labels) if label is not None] == [20_000]
    assert actual.correct


# --- The data.


def test_a_folder_gives_both_splits_with_the_published_ids(folder):
    task = get("math", str(folder))
    problems = task.problems("test", 5, seed=0)
    assert problems == MATH(str(folder)).problems("test", 5, seed=0)
    assert problems != task.problems("test", 5, seed=1)
    for problem in problems:
        k = int(problem.id.removeprefix("test/prealgebra/").removesuffix(".json"))
        assert problem.prompt == f"Compute ${k} + \\frac{{1}}{{2}}$.\n"
        assert problem.reference == f"\\frac{{{2 * k + 1}}}{{2}}"


def test_rows_without_an_answer_field_take_it_from_the_box(tmp_path):
    rows = [{name: row(k)[name] for name in ("problem", "solution", "level")} | {"type": "Algebra"} for k in range(3)]
    write_rows(tmp_path / "train.jsonl", rows)
    problems = MATH(str(tmp_path)).problems("train", 3, seed=0)
    assert {problem.reference for problem in problems} == {f"\\frac{{{2 * k + 1}}}{{2}}" for k in range(3)}
    assert len({problem.id for problem in problems}) == 3


def test_of_equal_problems_the_first_counts(tmp_path):
    """Two splits drawn from one list must not share a problem, and an id names one."""
    write_rows(tmp_path / "train.jsonl", [row(1), row(2), row(1, answer="9", unique_id="again")])
    task = MATH(str(tmp_path))
    assert {s.problem_id: s.reference for s in task.published("train")} == {
        "train/prealgebra/1.json": "\\frac{3}{2}",
        "train/prealgebra/2.json": "\\frac{5}{2}",
    }


def test_a_single_file_is_divided_the_same_way_every_time(tmp_path):
    write_rows(tmp_path / "all.jsonl", [row(k) for k in range(200)])
    task = MATH(str(tmp_path / "all.jsonl"))
    train, test = ({s.prompt for s in task.published(split)} for split in ("train", "test"))
    assert not train & test
    assert len(train | test) == 200
    assert 30 < len(test) < 70


def test_a_hub_data_set_with_a_test_split_alone_is_enough_for_tests(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, split):
        asked.append((*args, split))
        if split != "test":
            raise ValueError("Unknown split \"train\". Should be one of ['test'].")
        return [row(1), row(2)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = MATH("HuggingFaceH4/MATH-500")
    assert task.problems("train", 0, seed=0) == task.demonstrations(0, seed=0) == []
    assert {problem.reference for problem in task.problems("test", 2, seed=0)} == {"\\frac{3}{2}", "\\frac{5}{2}"}
    assert asked == [("HuggingFaceH4/MATH-500", None, "test")]
    with pytest.raises(UserError, match="split 'train': Unknown split \"train\". Should be one of"):
        task.problems("train", 1, seed=0)


def test_a_malformed_row_is_named(folder, monkeypatch):
    bad = {"problem": "?", "solution": "no answer in it"}
    write_rows(folder / "test.jsonl", [row(1), bad])
    with pytest.raises(DataError, match=r"test\.jsonl, row 2, field 'solution'"):
        MATH(str(folder)).problems("test", 1, seed=0)
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [row(1), bad])
    with pytest.raises(DataError, match=r"a/b/test, row 2, field 'solution'"):
        MATH("a/b").problems("test", 1, seed=0)


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_no_path_is_the_published_data_set(name):
    assert get(name).path == get(name, "").path == type(get(name)).hub_id


# --- Demonstrations.


def test_demonstrations_are_one_step_a_line_and_right(folder):
    task = MATH(str(folder))
    demonstrations = task.demonstrations(40, seed=0)
    assert len({solution.prompt for solution in demonstrations}) == 40
    for solution in demonstrations:
        k = int(solution.problem_id.removeprefix("train/prealgebra/").removesuffix(".json"))
        formula = f"{k} + \\frac12 &= x\\\\ x &= \\boxed{{\\frac{{{2 * k + 1}}}{{2}}}}"
        assert solution.completion == f"We add.\n\\begin{{align*}} {formula} \\end{{align*}}"
        checked(task, solution)
        assert (solution.labels, solution.correct) == ([None, 1], True)
    # Labelling a demonstration must not mark the published one.
    assert task.published("train")[0].labels is None


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "math_train.jsonl", "train.json.gz"])
def test_a_folder_of_shards_has_a_split_in_their_names(tmp_path, name):
    """As clones of hub data sets have it, whose rows are in a folder of their own."""
    table = Dataset.from_list([row(k) for k in range(3)])
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / name
    table.to_parquet(file) if name.endswith("parquet") else table.to_json(file)
    if name == "train.json.gz":
        file.write_bytes(gzip.compress(json.dumps([row(k) for k in range(3)]).encode()))
    assert len(MATH(str(tmp_path / "data")).problems("train", 3, seed=0)) == 3
    with pytest.raises(UserError, match=f"its rows are in a subfolder. Give {tmp_path}/data"):
        MATH(str(tmp_path)).problems("train", 3, seed=0)
    with pytest.raises(UserError, match=f"no file has the split 'test' in its name; there are {name}"):
        MATH(str(tmp_path / "data")).problems("test", 3, seed=0)


def test_solutions_with_a_drawing_are_no_demonstrations(folder):
    drawn = row(50, solution="[asy]\ndraw((0,0)--(1,1));\n[/asy]\nSo $\\boxed{\\frac{101}{2}}$.")
    write_rows(folder / "train.jsonl", [row(1), drawn])
    task = MATH(str(folder))
    assert [s.problem_id for s in task.demonstrations(1, seed=0)] == ["train/prealgebra/1.json"]
    assert len(task.problems("train", 2, seed=0)) == 2
    with pytest.raises(UserError, match="2 rows of the split train were asked for; there are 1"):
        task.demonstrations(2, seed=0)


@pytest.mark.parametrize(
    ("solution", "reference", "lines"),
    [
        ("a\n\n\n  b  \n\\boxed{2}", "2", ["a", "  b", "\\boxed{2}"]),
        ("Then\n\\[\nx = 2,\n\\]\nso \\boxed{2}", "2", ["Then", "\\[ x = 2, \\]", "so \\boxed{2}"]),
        ("$$\nx\n$$ \\boxed{2}", "2", ["$$ x $$ \\boxed{2}"]),
        ("if $x\n> 1$ and $y\n= 2$,\n\\boxed{2}", "2", ["if $x > 1$ and $y = 2$,", "\\boxed{2}"]),
        # Environments inside others, and a line break's own argument, which begins like a display.
        ("\\begin{align*}\n\\begin{cases}\na\\\\[2pt]\nb\n\\end{cases}\n\\end{align*}\n\\boxed{2}", "2",
         ["\\begin{align*} \\begin{cases} a\\\\[2pt] b \\end{cases} \\end{align*}", "\\boxed{2}"]),
        # Money is no formula, and a formula ends with its paragraph.
        ("It costs \\$2.\nHe has \\$3.\n\\boxed{2}", "2", ["It costs \\$2.", "He has \\$3.", "\\boxed{2}"]),
        ("A lone $ here.\n\nAnother $ there.\n\\boxed{2}", "2", ["A lone $ here.", "Another $ there.", "\\boxed{2}"]),
        # The reference is what counts, whatever the text says.
        ("It is 2.", "2", ["It is 2.", "The answer is $\\boxed{2}$."]),
        ("\\boxed{2}, then \\boxed{3}.", "2", ["\\boxed{2}, then \\boxed{3}.", "The answer is $\\boxed{2}$."]),
        ("\\boxed{0.5}", "\\frac{1}{2}", ["\\boxed{0.5}"]),
    ],
)  # fmt: skip
def test_a_demonstration_has_one_step_a_line(solution, reference, lines):
    text = demonstration(solution, reference)
    assert text.split("\n") == lines
    assert MATH().check("?\n", text, reference).correct


def test_the_tokenizer_gives_any_text_back(folder):
    tokenizer = MATH(str(folder)).tokenizer()
    for text in (COMPLETION, row(3)["solution"], "café 数 🙂\n\n  indented"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_published_solutions_are_never_changed(folder):
    task = MATH(str(folder))
    before = [Solution(**vars(s)) for s in task.published("train")]
    task.demonstrations(40, seed=0)
    assert task.published("train") == before


@pytest.mark.parametrize("command", ["prepare", "label", "ppo"])
def test_every_stage_offers_every_task(command):
    (help_text,) = [f.metadata["help"] for kind in config_classes(command) for f in fields(kind) if f.name == "task"]
    assert all(name in help_text for name in NAMES)
