import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.records import Solution
from rlstep.tasks import get
from rlstep.tasks.base import checked
from rlstep.tasks.gsm8k import GSM8K

COMPLETION = "She sells 16-3-4=<<16-3-4=9>>9 eggs.\nThat is a lot.\nShe makes 9*2=$<<9*2=18>>18.\n#### 18"


def row(k: int) -> dict:
    return {"question": f"What is {k} and 1?", "answer": f"{k}+1=<<{k}+1={k + 1}>>{k + 1}\n#### {k + 1}"}


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "train.jsonl", [row(k) for k in range(40)])
    write_rows(tmp_path / "test.jsonl", [row(k) for k in range(100, 120)])
    return tmp_path


def check(completion: str, reference: str = "18"):
    return GSM8K().check("Question: ?\nAnswer:\n", completion, reference)


def test_steps_are_lines_labelled_by_their_annotations():
    actual = check(COMPLETION)
    assert [COMPLETION[start:end] for start, end in actual.steps] == COMPLETION.splitlines(keepends=True)
    assert (actual.labels, actual.answer, actual.correct) == ([1, None, 1, 1], "18", True)


@pytest.mark.parametrize(
    ("old", "new", "labels", "correct"),
    [
        ("4=9>>", "4=8>>", [0, None, 1, 1], True),
        ("#### 18", "#### 17", [1, None, 1, 0], False),
        ("#### 18", "#### $18.00", [1, None, 1, 1], True),
        ("#### 18", "9*2=<<9*2=19>> #### 18", [1, None, 1, 0], True),
        ("\n#### 18", "", [1, None, 1], False),
        ("<<9*2=18>>", "<<9^9^9^9=18>>", [1, None, 0, 1], True),
        ("<<9*2=18>>", "<<9*2=18", [1, None, 0, 1], True),
        ("#### 18", "#### 18\n#### 19", [1, None, 1, 1, 0], False),
    ],
)
def test_wrong_steps_and_answers_are_told_apart(old, new, labels, correct):
    actual = check(COMPLETION.replace(old, new))
    assert (actual.labels, actual.correct) == (labels, correct)


@pytest.mark.parametrize("completion", ["", "\n\n"])
def test_a_completion_without_steps_is_not_correct(completion):
    actual = check(completion)
    assert (actual.steps, actual.labels, actual.answer, actual.correct) == ([], [], None, False)


def test_a_folder_gives_both_splits_with_stable_ids(folder):
    task = get("gsm8k", str(folder))
    problems = task.problems("test", 5, seed=0)
    assert problems == GSM8K(str(folder)).problems("test", 5, seed=0)
    assert problems != task.problems("test", 5, seed=1)
    for problem in problems:
        k = 99 + int(problem.id.removeprefix("gsm8k-test-"))
        assert problem.prompt == f"Question: What is {k} and 1?\nAnswer:\n"
        assert problem.reference == str(k + 1)


def test_demonstrations_are_published_solutions_of_training_rows(folder):
    task = GSM8K(str(folder))
    demonstrations = task.demonstrations(40, seed=0)
    assert len({solution.prompt for solution in demonstrations}) == 40
    assert all(solution.problem_id.startswith("gsm8k-train-") for solution in demonstrations)
    assert all(checked(task, solution).clean for solution in demonstrations)
    # Labelling a demonstration must not mark the published one.
    assert task.published("train")[0].labels is None


def test_a_single_file_is_divided_the_same_way_every_time(tmp_path):
    write_rows(tmp_path / "all.jsonl", [row(k) for k in range(200)])
    task = GSM8K(str(tmp_path / "all.jsonl"))
    train, test = ({s.prompt for s in task.published(split)} for split in ("train", "test"))
    assert not train & test
    assert len(train | test) == 200
    assert 30 < len(test) < 70


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda task: task.problems("test", 21, seed=0), "there are 20"),
        (lambda task: task.demonstrations(41, seed=0), "there are 40"),
        (lambda task: task.problems("ood", 1, seed=0), "no split 'ood'"),
    ],
)
def test_what_is_not_there_is_a_user_error(folder, ask, reason):
    with pytest.raises(UserError, match=reason):
        ask(GSM8K(str(folder)))


@pytest.mark.parametrize("path", ["nowhere/train.jsonl", "/no/such/folder", "./no/such/folder"])
def test_a_path_that_is_no_hub_id_is_not_looked_up(path):
    with pytest.raises(UserError, match="no such file or folder"):
        GSM8K(path).problems("test", 1, seed=0)


def test_a_malformed_row_is_named(folder):
    write_rows(folder / "test.jsonl", [row(1), {"question": "?"}])
    with pytest.raises(DataError, match="row 2, field 'answer'"):
        GSM8K(str(folder)).problems("test", 1, seed=0)


def test_a_hub_id_is_loaded_in_its_main_configuration(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, **options):
        asked.append((*args, options))
        return [row(1), row(2)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    problems = GSM8K().problems("test", 2, seed=0)
    assert asked == [("openai/gsm8k", "main", {"split": "test"})]
    assert {problem.id for problem in problems} == {"gsm8k-test-1", "gsm8k-test-2"}


def test_a_hub_that_does_not_answer_is_a_user_error_in_one_line(monkeypatch):
    import datasets

    def load_dataset(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match="no route") as caught:
        GSM8K("someone/something").problems("test", 1, seed=0)
    assert "\n" not in str(caught.value)


def test_checking_reads_no_data():
    assert GSM8K("nowhere").check("", "#### 4", "4").correct


def test_the_tokenizer_gives_any_text_back_and_splits_digits(folder):
    tokenizer = GSM8K(str(folder)).tokenizer()
    for text in (COMPLETION, "Janet\u2019s café 数 🙂\n\n  indented"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("<<120/4=30>>\n")["input_ids"])
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("120430")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_published_solutions_pass_their_own_checker(gsm8k_dir):
    """All answers are right; two rows of 7,473 write Python's // where the checker reads division as / alone."""
    task = GSM8K(str(gsm8k_dir))
    for split, rows, wrong in (("train", 7473, 2), ("test", 1319, 0)):
        solutions = [Solution(**vars(s)) for s in task.published(split)]
        assert len(solutions) == rows
        assert all(checked(task, solution).correct for solution in solutions)
        assert sum(0 in solution.labels for solution in solutions) == wrong
        labels = [label for solution in solutions for label in solution.labels]
        assert labels.count(None) / len(labels) < 0.1
