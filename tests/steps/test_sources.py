"""Rows from files, folders of shards and the hub (which the tests never reach)."""

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError

from rlstep.runtime.errors import UserError
from rlstep.runtime.manifest import MANIFEST
from rlstep.runtime.output import Output
from rlstep.runtime.processes import Alone
from rlstep.runtime.rows import write_rows
from rlstep.runtime.unit_files import Done
from rlstep.runtime.units import Unit
from rlstep.steps.readers import ReadReport, read
from rlstep.steps.records import Solution, write_solution_rows
from rlstep.steps.sources import BAD_ROWS, is_hub_id, iter_rows, shards, stem

ROW = {"prompt": "What?", "completions": ["a", "b"], "labels": [1, 0.5]}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/phase1_train.jsonl", "phase1_train"),
        ("x.jsonl.gz", "x"),
        ("x.json", "x"),
        ("a.b/train-00000-of-00002.parquet", "train-00000-of-00002"),
        ("owner/set.v2 train", "set.v2 train"),
    ],
)
def test_the_stem_of_a_source(source, name):
    assert stem(source) == name


def test_shards_are_the_data_files_in_order(tmp_path):
    names = ["b.jsonl", "a.parquet", "c.json", "d.jsonl.gz"]
    others = ["README.md", "b.jsonl.run.json", "run.json", "b.jsonl" + BAD_ROWS, "e.jsonl.partial", "f.jsonl.tmp"]
    for name in names + others:
        (tmp_path / name).touch()
    (tmp_path / "g.jsonl").mkdir()
    assert [shard.name for shard in shards(tmp_path)] == ["a.parquet", "b.jsonl", "c.json", "d.jsonl.gz"]


def test_a_folder_without_shards_is_an_error(tmp_path):
    (tmp_path / "x.csv").touch()
    with pytest.raises(UserError, match="no file in this folder ends in"):
        shards(tmp_path)


def test_the_rows_of_a_clone_of_the_hub_are_found_below_it(tmp_path):
    write_rows(tmp_path / ".git" / "x.jsonl", [ROW])
    (tmp_path / "README.md").touch()
    (tmp_path / "dataset_infos.json").write_text("{}")
    with pytest.raises(UserError, match=r"no file in this folder ends in .*; it has \.git, README.md, dataset_infos"):
        shards(tmp_path)
    write_rows(tmp_path / "data" / "train-00000-of-00001.jsonl", [ROW])
    with pytest.raises(UserError, match=f"its rows are in a subfolder. Give {tmp_path}/data.$"):
        shards(tmp_path)
    write_rows(tmp_path / "extra" / "train" / "0.jsonl", [ROW])
    with pytest.raises(UserError, match=f"Give {tmp_path}/data or {tmp_path}/extra/train.$"):
        list(iter_rows(tmp_path))


def test_descriptions_and_hidden_files_are_no_shards(tmp_path):
    for name in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "._a.jsonl", "a.jsonl"):
        (tmp_path / name).touch()
    assert [shard.name for shard in shards(tmp_path)] == ["a.jsonl"]


@pytest.mark.parametrize("how", ["error", "skip"])
def test_a_folder_of_two_data_sets_is_refused_before_a_row_is_read(tmp_path, how):
    write_rows(tmp_path / "a.jsonl", [ROW])
    write_rows(tmp_path / "b.jsonl", [{"problem": "What?", "solution": "x"}])
    refused = "The rows of a.jsonl have completions, labels, prompt; those of b.jsonl have problem, solution."
    solutions = read("stepwise", tmp_path, on_bad_row=how)
    with pytest.raises(UserError, match=refused):
        next(solutions)
    assert len(list(read("stepwise", tmp_path / "a.jsonl"))) == 1


def test_shards_of_one_data_set_may_have_more_fields_than_others(tmp_path):
    write_rows(tmp_path / "a.jsonl", [ROW])
    write_rows(tmp_path / "b.jsonl", [ROW | {"source": "x"}])
    (tmp_path / "c.jsonl").write_text("7\n" + (tmp_path / "a.jsonl").read_text())
    report = ReadReport()
    assert len(list(read("stepwise", tmp_path, on_bad_row="skip", report=report))) == 3
    assert report.bad_rows == 1


def test_a_split_chooses_shards_by_a_word_of_their_names(tmp_path):
    names = ["phase1_test.jsonl", "phase1_train.jsonl", "test-00000-of-00001.parquet", "latest.jsonl", "test2.jsonl"]
    for name in names:
        (tmp_path / name).touch()
    assert [shard.name for shard in shards(tmp_path, "test")] == ["phase1_test.jsonl", "test-00000-of-00001.parquet"]
    with pytest.raises(UserError, match="no file has the split 'validation'.*phase1_test.jsonl"):
        shards(tmp_path, "validation")
    with pytest.raises(UserError, match="is one file"):
        shards(tmp_path / "test2.jsonl", "test")


def test_rows_of_shards_name_their_file(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"i": 1}, {"i": 2}])
    write_rows(tmp_path / "b.jsonl", [{"i": 3}])
    actual = [(row.source, row.number, row.values["i"]) for row in iter_rows(tmp_path)]
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    assert actual == [(a, 1, 1), (a, 2, 2), (b, 1, 3)]


def test_what_looks_like_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    assert is_hub_id("peiyi9979/Math-Shepherd")
    for path in ("runs/demo", "runs/x.jsonl", "x", "/a/b", "a/b/c", "./a"):
        assert not is_hub_id(path)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub that keeps what it was asked."""
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        if args[0] == "owner/none":
            raise DatasetNotFoundError("Dataset 'owner/none' doesn't exist.")
        return datasets.Dataset.from_list([ROW, {**ROW, "labels": [1, 2.0]}]).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_hub_data_set_is_streamed(hub):
    solutions = read("stepwise", "owner/set", split="train", config_name="main", revision="v1", on_bad_row="skip")
    assert [s.labels for s in solutions] == [[1, 0.5]]
    assert hub == [(("owner/set", "main"), {"split": "train", "revision": "v1", "streaming": True})]


def test_a_fault_in_a_hub_data_set_names_it(hub):
    with pytest.raises(UserError, match=r"owner/set train, row 2, field 'labels\[1\]'"):
        list(read("stepwise", "owner/set", split="train"))


def test_the_hub_needs_a_split(hub):
    with pytest.raises(UserError, match="not a local file.*--split"):
        read("stepwise", "owner/set")
    assert hub == []


def test_an_unknown_data_set_says_both(hub):
    with pytest.raises(UserError, match="no such file or folder here, and the hub does not serve it: Dataset 'owner/n"):
        read("stepwise", "owner/none", split="train")


@pytest.mark.parametrize("option", ["config_name", "revision"])
def test_what_only_the_hub_has_is_an_error_for_a_file(tmp_path, option):
    write_rows(tmp_path / "x.jsonl", [ROW])
    with pytest.raises(UserError, match=f"{option} is 'main', but .*x.jsonl is not a data set on the hub"):
        read("stepwise", tmp_path / "x.jsonl", **{option: "main"})


# --- folders that a stage has filled


@pytest.fixture
def filled(tmp_path):
    """A folder of three shards with two solutions each, and a manifest."""

    def work(mine):
        for unit in mine:
            rows = [Solution(f"p{unit.number}", "p?", "x", "1", sample=k).to_row() for k in range(2)]
            yield Done(unit, rows)

    folder = tmp_path / "filled"
    units = [Unit(number, f"key{number}", 2) for number in range(3)]
    Output(folder, "sample", {}, write_solution_rows, Alone()).fill(units, work)
    return folder


NAMES = [f"p{number}" for number in (0, 0, 1, 1, 2, 2)]


def test_a_filled_folder_is_read_in_the_manifests_order(filled):
    assert [row.values["problem_id"] for row in iter_rows(filled)] == NAMES
    assert [solution.problem_id for solution in read("solutions", filled)] == NAMES
    (filled / "README.md").touch()
    (filled / "._part-00000.parquet").touch()
    assert len(shards(filled)) == 3
    text = (filled / MANIFEST).read_text()
    (filled / MANIFEST).write_text(text.replace("00000", "x").replace("00002", "00000").replace("x", "00002"))
    assert [row.values["problem_id"] for row in iter_rows(filled)] == NAMES[::-1]


def test_a_filled_folder_is_read_by_others_too(filled):
    import pandas
    import pyarrow.dataset

    assert pyarrow.dataset.dataset(filled).to_table()["problem_id"].to_pylist() == NAMES
    assert pandas.read_parquet(filled)["problem_id"].tolist() == NAMES


def test_a_filled_folder_of_which_something_is_missing_is_refused(filled):
    shard = filled / "part-00001.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"part-00001.parquet: [\d,]+ bytes, and the manifest says"):
        list(iter_rows(filled))
    shard.unlink()
    with pytest.raises(UserError, match=r"part-00001.parquet is missing, which the manifest names. Copy the folder"):
        list(iter_rows(filled))


def test_a_file_that_somebody_put_into_a_filled_folder_is_refused(filled):
    write_rows(filled / "more.jsonl", [ROW])
    with pytest.raises(UserError, match=r"more.jsonl is not in the folder's manifest"):
        list(iter_rows(filled))


def test_a_manifest_names_files_of_its_own_folder(filled):
    text = (filled / MANIFEST).read_text()
    (filled / MANIFEST).write_text(text.replace("part-00000.parquet", "../secret.parquet"))
    with pytest.raises(UserError, match=r"secret.parquet is not a name in this folder"):
        list(iter_rows(filled))
