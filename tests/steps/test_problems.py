"""Problems out of other people's rows: their fields' names, what travels along, ids, and what is refused."""

import datetime
import hashlib
import json
from decimal import Decimal
from unittest.mock import ANY

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.problems import read_problems
from rlstep.steps.records import Problem, Solution, read_solutions, write_solutions

CHAT = [{"role": "user", "content": "What is 2 + 3?"}]
PARTS = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 3?", "image": None}]
ASKED = [{"role": "user", "content": "2 + 3?"}]
SAID = {"role": "assistant", "content": "5"}


@pytest.fixture
def read(tmp_path):
    def read_rows(*rows: dict, **options) -> list[Problem]:
        write_rows(tmp_path / "p.jsonl", rows)
        return read_problems(tmp_path / "p.jsonl", **options)

    return read_rows


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "a", "prompt": "2 + 3\n", "reference": "5"}, ("a", "2 + 3\n", "5", {})),
        # verl
        (
            {
                "data_source": "math", "prompt": CHAT, "reward_model": {"style": "rule", "ground_truth": "5"},
                "extra_info": {"index": 7},
            },
            (None, CHAT, "5", {"data_source": "math", "reward_model": {"style": "rule"}, "extra_info": {"index": 7}}),
        ),
        # open-instruct
        ({"messages": CHAT, "ground_truth": "5", "dataset": "gsm8k"}, (None, CHAT, "5", {"dataset": "gsm8k"})),
        ({"messages": CHAT, "ground_truth": ["5"]}, (None, CHAT, "5", {})),
        # objects written out as JSON, as tables of text alone have them; contents as parts
        (
            {"prompt": json.dumps(CHAT), "reward_model": json.dumps({"ground_truth": "5", "style": "rule"})},
            (None, CHAT, "5", {"reward_model": {"style": "rule"}}),
        ),
        (
            {"prompt": [{"role": "user", "content": PARTS}], "answer": "5"},
            (None, CHAT, "5", {}),
        ),
        ({"prompt": '[{"a": 1}] has which keys?', "answer": "a"}, (None, '[{"a": 1}] has which keys?', "a", {})),
        # a column of numbers with gaps
        ({"id": 3.0, "problem": "p", "answer": 5}, ("3", "p", "5", {})),
        ({"id": float("nan"), "problem": "p", "answer": 5}, (None, "p", "5", {"id": None})),
        # AIME, AMC (its answers are a column of floats), MATH-500, DAPO as open-r1 processed it
        ({"id": 60, "problem": "2 + 3?", "answer": "025"}, ("60", "2 + 3?", "025", {})),
        ({"id": 0, "problem": "2 + 3?", "answer": 142.0, "url": "u"}, ("0", "2 + 3?", "142", {"url": "u"})),
        ({"problem": "2 + 3?", "answer": 0.5}, (None, "2 + 3?", "0.5", {})),
        (
            {"problem": "p", "solution": "s", "answer": r"\frac12", "unique_id": "test/a/1.json", "level": 2},
            ("test/a/1.json", "p", r"\frac12", {"solution": "s", "level": 2}),
        ),
        (
            {"prompt": "p", "solution": "5", "source_prompt": CHAT, "reward_model": {"ground_truth": "5"}},
            (None, "p", "5", {"solution": "5", "source_prompt": CHAT, "reward_model": {}}),
        ),
        # OpenR1-Math: a demonstration beside the problem
        ({"problem": "p", "messages": [*CHAT, SAID], "answer": "5"}, (None, "p", "5", {"messages": [*CHAT, SAID]})),
        # Skywork-OR1; OlympiadBench
        (
            {"prompt": CHAT, "reward_model": {"ground_truth": '["\\\\frac12"]'}},
            (None, CHAT, r"\frac12", {"reward_model": {}}),
        ),
        ({"id": 1, "question": "p", "final_answer": ["5"], "solution": ["s"]}, ("1", "p", "5", {"solution": ["s"]})),
        (
            {"question": "p", "final_answer": ["2", "$3$"], "is_multiple_answer": True},
            (None, "p", "2, $3$", {"is_multiple_answer": True}),
        ),
        # OlympiadBench's physics, DROP and ASDiv: what the question is about is in another field, which may be empty
        (
            {"id": 7, "context": "A ball falls.", "question": "How far?", "final_answer": ["5"], "unit": "m"},
            ("7", "A ball falls.\nHow far?", "5", {"unit": "m"}),
        ),
        ({"context": None, "question": "p", "final_answer": ["5"]}, (None, "p", "5", {"context": None})),
        ({"context": float("nan"), "question": "p", "answer": "5"}, (None, "p", "5", {"context": ANY})),
        ({"passage": "A won by 5.", "question": "By what?", "answer": "5"}, (None, "A won by 5.\nBy what?", "5", {})),
        ({"body": "2 ducks.", "question": "Legs?", "answer": "4 (legs)"}, (None, "2 ducks.\nLegs?", "4 (legs)", {})),
        # the question has it already, as a prompt of its own does
        ({"context": "A.", "question": "A. B?", "answer": "5"}, (None, "A. B?", "5", {"context": "A."})),
        ({"context": "A.", "prompt": "B?", "answer": "5"}, (None, "B?", "5", {"context": "A."})),
        # Alpaca
        ({"instruction": "Add.", "input": "2 + 3", "answer": "5"}, (None, "Add.\n2 + 3", "5", {})),
        ({"instruction": "2 + 3?", "input": "", "answer": "5"}, (None, "2 + 3?", "5", {"input": ""})),
        ({"instruction": "Be brief.", "problem": "p", "answer": "5"}, (None, "p", "5", {"instruction": "Be brief."})),
        # ShareGPT; Open-Reasoner-Zero, as tables have it
        ({"conversations": [{"from": "human", "value": "2 + 3?"}], "answer": "5"}, (None, ASKED, "5", {})),
        (
            {"0": {"from": "human", "value": "2 + 3?", "ground_truth": None}, "1": {"ground_truth": {"value": "5"}}},
            (None, ASKED, "5", {}),
        ),
        # choices that the prompt shows, and that the answer is no letter or number of
        (
            {"question": "p? A) x B) y", "options": ["x", "y"], "answer": "B"},
            (None, "p? A) x B) y", "B", {"options": ["x", "y"]}),
        ),
        ({"question": "p?", "options": ["4", "5"], "answer": "5"}, (None, "p?", "5", {"options": ["4", "5"]})),
        # what stages write goes back to where it was
        ({"id": "a", "prompt": "p", "reference": "5", "extra": {"level": 2}}, ("a", "p", "5", {"level": 2})),
    ],
)  # fmt: skip
def test_known_forms_are_recognised_and_the_rest_travels_along(read, row, expected):
    (problem,) = read(row)
    name, prompt, reference, extra = expected
    assert (problem.prompt, problem.reference, problem.extra) == (prompt, reference, extra)
    assert problem.id == name or (name is None and problem.id.startswith("problem-"))


def test_rows_that_are_lists(tmp_path):
    """Open-Reasoner-Zero's file is a list of lists."""
    truths = [{"value": n + 3, "pass_at_n": 0.5} for n in range(2)]
    rows = [
        [{"from": "human", "value": f"{n} + 3?"}, {"from": "assistant", "ground_truth": truth}]
        for n, truth in enumerate(truths)
    ]
    (tmp_path / "orz.json").write_text(json.dumps(rows))
    problems = read_problems(tmp_path / "orz.json")
    asked = [(problem.prompt[0]["content"], problem.reference) for problem in problems]
    assert asked == [("0 + 3?", "3"), ("1 + 3?", "4")]
    assert problems[0].extra == {"pass_at_n": 0.5}
    rows[1][1] = {"from": "assistant", "truth": "4"}
    (tmp_path / "orz.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="row 2, field 'prompt': missing; .* is in this row, which has 0, 1"):
        read_problems(tmp_path / "orz.json")
    fields = ["prompt=0.value,reference=1.truth"]
    (tmp_path / "orz.json").write_text(json.dumps(rows[1:]))
    assert read_problems(tmp_path / "orz.json", fields)[0].reference == "4"


def test_other_names_are_given_by_fields(read):
    row = {"Q": "2 + 3?", "meta": {"gold": 5, "year": 2024}, "key": "a-1", "answer": "never looked at"}
    (problem,) = read(row, fields=["prompt=Q,reference=meta.gold", "id=key"])
    extra = {"meta": {"year": 2024}, "answer": "never looked at"}
    assert problem == Problem("a-1", "2 + 3?", "5", extra)


def test_a_named_prompt_is_that_field_or_those(read):
    row = {"context": "A.", "Body": "2 ducks.", "question": "Legs?", "answer": "4"}
    (alone,), (both,) = (read(row, fields=[f"prompt={named}"]) for named in ("question", "Body+question"))
    assert (alone.prompt, alone.extra) == ("Legs?", {"context": "A.", "Body": "2 ducks."})
    assert (both.prompt, both.extra) == ("2 ducks.\nLegs?", {"context": "A."})


def test_a_fault_in_a_named_field_has_the_files_name_and_no_other_field_steps_in(read):
    for value, message in (
        ("", "is empty"),
        (None, "is null, and a problem needs one. It is read as reference"),
        (["1", "2"], "holds 2 answers"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read({"problem": "p", "answer": "1", "meta": {"gold": value}}, fields=["reference=meta.gold"])
        assert (caught.value.row, caught.value.field) == (1, "meta.gold")


def test_an_id_that_is_there_twice_is_named_as_the_file_does(read):
    rows = [{"unique_id": "a", "problem": f"{n}?", "answer": "5"} for n in range(2)]
    with pytest.raises(DataError, match="row 2, field 'unique_id': 'a' is already in row 1. It is read as id"):
        read(*rows)
    with pytest.raises(DataError, match="field 'problem': 'a' is already"):
        read(*({"key": f"{n}?", "problem": "a", "answer": "5"} for n in range(2)), fields=["id=problem,prompt=key"])


def test_what_is_found_in_a_problem_later_is_named_as_the_file_does(tmp_path):
    write_rows(tmp_path / "p.jsonl", [{"problem": "2 + 3?", "meta": {"gold": "5"}}])
    places = {}
    (problem,) = read_problems(tmp_path / "p.jsonl", ["reference=meta.gold"], places=places)
    faults = [places[problem.id].fault(field, "is odd.") for field in ("prompt", "reference")]
    assert [(fault.row, fault.field) for fault in faults] == [(1, "problem"), (1, "meta.gold")]
    assert str(faults[0]).endswith("row 1, field 'problem': is odd. It is read as prompt.")


def test_a_made_id_depends_on_the_problem_alone(read):
    rows = [{"problem": f"{n}?", "answer": "5"} for n in range(3)]
    ids = [problem.id for problem in read(*rows)]
    assert len(set(ids)) == 3
    backwards = read(*reversed(rows), {"problem": "3?", "answer": "5", "level": 1})
    assert [problem.id for problem in backwards][:3] == ids[::-1]
    # In every process: the hash is not salted.
    assert ids[0] == "problem-" + hashlib.sha256(b'["0?", "5"]').hexdigest()[:16]


def test_rows_that_repeat_a_problem_are_one_and_counted(read, caplog):
    rows = [{"problem": "1?", "answer": "5"}, {"problem": "2?", "answer": "5"}, {"problem": "1?", "answer": "5"}]
    assert [problem.prompt for problem in read(*rows)] == ["1?", "2?"]
    assert "1 row repeats a problem; each of 2 is taken once" in caplog.text


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"problem": "p", "answer": ""}, "answer", "is empty; it is the right answer"),
        ({"prompt": "p", "reference": " \n"}, "reference", "is empty"),
        ({"prompt": CHAT, "reward_model": {"ground_truth": ""}}, "reward_model.ground_truth", "is empty"),
        ({"problem": "p", "answer": float("nan")}, "answer", "is empty"),
        (
            {"problem": "p", "answer": None},
            "reference",
            "none of reference, .*answer is in this row",
        ),
        ({"problem": "p", "solution": "s"}, "reference", r"--fields reference=THEIRS.*tasks math and gsm8k"),
        ({"Question": "p", "answer": "5"}, "prompt", r"which has Question, answer.*--fields prompt=Question"),
        ({"Body": "b", "Question": "p", "answer": "5"}, "prompt", r"--fields prompt=Body\+Question\."),
        (
            {"context": {"a": 1}, "question": "p", "answer": "5"},
            "context",
            r"expected text.* --fields prompt=question\.",
        ),
        ({"Q": "p", "answer": "5"}, "prompt", r"which has Q, answer.*--fields prompt=THEIRS"),
        # NuminaMath; MMLU, MMLU-Pro and ARC without their choices in the prompt
        ({"problem": "p", "answer": "proof"}, "answer", "is 'proof', which stands for no answer"),
        ({"problem": "p", "answer": "notfound"}, "answer", "is 'notfound', which stands for no answer"),
        ({"question": "p", "choices": ["x", "y", "z"], "answer": 2}, "choices", "holds none of these .* reference, 2"),
        (
            {"question": "p", "options": ["x", "y"], "answer": "B"},
            "options",
            "Write them into the prompt, each with its",
        ),
        (
            {"question": "?", "choices": {"text": ["x"], "label": ["A"]}, "answer": "(A)"},
            "choices",
            "holds none of these",
        ),
        ({"question": "p", "answer": "2 + 3 = 5\n#### 5"}, "answer", "a whole solution .* --task gsm8k"),
        ({"problem": "p", "answer": ["5", "6"]}, "answer", "holds 2 answers, .*. If all .* join them"),
        ({"problem": "p", "answer": []}, "answer", r"expected the right answer as text, got \[\]"),
        ({"problem": "p", "answer": True}, "answer", "expected the right answer as text, got true"),
        ({"problem": " ", "answer": "5"}, "problem", "is blank"),
        ({"prompt": [{"role": "user"}], "answer": "5"}, "prompt", "a list of messages with a role and a content"),
        (
            {"prompt": [{"from": "human", "text": "p"}], "answer": "5"},
            "prompt",
            r"message 1 has no role \(it has from",
        ),
        ({"prompt": [*CHAT, {"role": "gpt", "content": "5"}], "answer": "5"}, "prompt", "message 2 has the role 'gpt'"),
        (
            {"prompt": [CHAT[0] | {"weight": 1}], "answer": "5"},
            "prompt",
            "message 1 has weight beside role and",
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "5"},
            "prompt",
            "message 1 has a content that is no text but of the type list",
        ),
        ({"prompt": str(CHAT), "answer": "5"}, "prompt", "is a list of messages as text, and no JSON"),
        ({"messages": [*CHAT, SAID], "answer": "5"}, "messages", "ends with the assistant's message; a prompt ends"),
        ({"prompt": [{"role": "system", "content": "S"}], "answer": "5"}, "prompt", "has no message of the user's"),
        ({"id": True, "prompt": "p", "answer": "5"}, "id", "expected text or a whole number, got true"),
    ],
)
def test_a_row_that_is_no_problem_is_named_with_its_field(read, row, field, message):
    with pytest.raises(DataError, match=message) as caught:
        read({"problem": "first", "answer": "1"}, row)
    assert (caught.value.row, caught.value.field) == (2, field)


def test_a_field_that_nothing_reads_is_refused(read):
    with pytest.raises(UserError, match="no field 'promt' is read; there are id, prompt, reference"):
        read({"q": "p", "answer": "5"}, fields=["promt=q"])


def test_parquet_with_messages_and_columns_of_other_types(tmp_path):
    messages = pa.array(
        [[{"role": "user", "content": "1?", "name": None}], [{"role": "user", "content": "2?", "name": None}]],
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])),
    )
    day = datetime.date(2024, 2, 3)
    table = pa.table(
        {"prompt": messages, "reward_model": [{"ground_truth": "1"}, {"ground_truth": "2"}], "day": [day, None]}
    )
    pq.write_table(table, tmp_path / "train.parquet")
    first, second = read_problems(tmp_path / "train.parquet")
    assert first.prompt == [{"role": "user", "content": "1?"}]
    assert (first.extra["day"], second.extra["day"]) == ("2024-02-03", None)
    json.dumps([first.extra, second.extra])


def test_parquet_with_values_that_python_or_json_lacks(tmp_path):
    prices = pa.array([Decimal("4.50"), Decimal("5.00")], pa.decimal128(5, 2))
    pq.write_table(pa.table({"question": ["a", "b"], "answer": prices}), tmp_path / "prices.parquet")
    assert [problem.reference for problem in read_problems(tmp_path / "prices.parquet")] == ["4.50", "5"]
    far = pa.array([2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"question": ["a"], "answer": ["1"], "when": far}), tmp_path / "far.parquet")
    with pytest.raises(DataError, match="row 1: in this row or soon after: date value out of range"):
        read_problems(tmp_path / "far.parquet")


def test_a_folder_of_two_splits_or_two_data_sets_needs_a_choice(tmp_path):
    for name in ("train", "test"):
        write_rows(tmp_path / f"{name}.jsonl", [{"problem": f"{name}?", "answer": "1"}])
    with pytest.raises(UserError, match=r"of the splits train, test\. Name one \(split\), or give a file"):
        read_problems(tmp_path)
    assert [problem.prompt for problem in read_problems(tmp_path, split="test")] == ["test?"]
    (tmp_path / "test.jsonl").rename(tmp_path / "more.jsonl")
    write_rows(tmp_path / "more.jsonl", [{"question": "q", "gold": "1"}])
    with pytest.raises(UserError, match="its files belong to two data sets"):
        read_problems(tmp_path)


def test_a_clone_whose_rows_are_in_data_is_pointed_to(tmp_path):
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "train-00000-of-00001.jsonl", [{"problem": "p", "answer": "1"}])
    (tmp_path / "README.md").write_text("a card")
    with pytest.raises(UserError, match=rf"its rows are in a subfolder\. Give {tmp_path / 'data'}"):
        read_problems(tmp_path)


@pytest.mark.parametrize(("splits", "asked"), [({}, ""), ({"train": 1, "test": 1}, r"\['train'\]")])
def test_what_save_to_disk_wrote_is_named(splits, asked, tmp_path):
    rows = Dataset.from_list([{"problem": "p", "answer": "1"}])
    (DatasetDict(dict.fromkeys(splits, rows)) if splits else rows).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=rf"save_to_disk.*load_from_disk\('.*saved'\){asked}\.to_parquet"):
        read_problems(tmp_path / "saved")


@pytest.mark.parametrize("name", ["s.jsonl", "s.parquet"])
def test_what_is_known_of_a_problem_is_kept_in_files_of_solutions(tmp_path, name):
    solutions = [
        Solution("a", "p", "5", "5", extra={"level": 2, "tags": ["x", None], "meta": {"year": 2024.5}, "n": "数"}),
        Solution("b", [{"role": "user", "content": "p"}], "5", "5"),
    ]
    write_solutions(tmp_path / name, solutions)
    assert read_solutions(tmp_path / name) == solutions


def test_a_parquet_file_of_an_earlier_version_is_read(tmp_path):
    write_solutions(tmp_path / "s.parquet", [Solution("a", "p", "5", "5", extra={"level": 2})])
    table = pq.read_table(tmp_path / "s.parquet").drop_columns(["extra"])
    pq.write_table(table, tmp_path / "old.parquet")
    assert read_solutions(tmp_path / "old.parquet") == [Solution("a", "p", "5", "5")]
