import json
import logging
import math
import os
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file

from rlstep.runtime.checkpoints import (
    being_written,
    checkpoint_files,
    checkpoint_to_continue,
    commit,
    keep_only,
    newest_checkpoint,
    partial_path,
    read_state,
    remove_leftovers,
    remove_old,
    write_state,
)
from rlstep.runtime.errors import UserError


@pytest.fixture
def write(tmp_path):
    def make(name: str, complete: bool = True) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
        if complete:
            (tmp_path / name / "trainer_state.json").touch()
        return str(tmp_path / name)

    return make


def test_the_newest_is_that_of_the_highest_step(write, tmp_path):
    write("checkpoint-9")
    newest = write("checkpoint-100")
    write("checkpoint-20")
    assert newest_checkpoint(tmp_path) == newest


def test_half_written_ones_are_passed_over_and_named(write, tmp_path, caplog):
    whole = write("checkpoint-4")
    write("checkpoint-8", complete=False)
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == whole
    assert "checkpoint-8 is half-written" in caplog.text


def test_those_without_state_files_are_passed_over_where_state_is_needed(write, tmp_path, caplog):
    older, whole = write("checkpoint-9"), write("checkpoint-4")
    (tmp_path / "checkpoint-4" / "state_0.json").touch()
    assert newest_checkpoint(tmp_path) == older
    assert "checkpoint-9" not in caplog.text
    assert newest_checkpoint(tmp_path, exact=True) == whole
    assert "checkpoint-9 cannot be continued exactly (no state_*.json) and is skipped" in caplog.text


def test_other_folders_are_no_checkpoints(write, tmp_path):
    for name in ("checkpoint-best", "checkpoint-4-old", "run-4"):
        write(name)
    write("checkpoint-8", complete=False)
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "none") is None


def test_a_model_trained_again_has_other_files(write):
    path = write("model")
    before = checkpoint_files(path)
    assert [name for name, _, _ in before] == ["model.safetensors", "trainer_state.json"]
    assert checkpoint_files(path) == before
    weights = os.path.join(path, "model.safetensors")
    os.utime(weights, ns=(0, os.stat(weights).st_mtime_ns + 1))
    assert checkpoint_files(path) != before
    assert checkpoint_files("org/name-on-the-hub") == []


# --- Written whole or not at all.


def aged(write, *steps: int) -> list[str]:
    """Checkpoints that were written in this order, some seconds apart."""
    paths = [write(f"checkpoint-{step}") for step in steps]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1e9 - 10 * age, 1e9 - 10 * age))
    return paths


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [
        (None, [], {2, 4, 6, 3}),
        (0, [], {2, 4, 6, 3}),
        (2, [], {6, 3}),
        (1, [], {3}),
        (1, [2], {2, 3}),
        (3, [2], {2, 6, 3}),
    ],
)
def test_the_oldest_checkpoints_are_removed_but_for_those_to_keep(limit, keep, left, write, tmp_path):
    aged(write, 2, 4, 6, 3)  # the last one of a run that went on from the first
    remove_old(tmp_path, limit, [None, *(str(tmp_path / f"checkpoint-{step}") for step in keep)])
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in left}


@pytest.mark.parametrize(
    "remove", [lambda folder: remove_old(folder, 1), lambda folder: keep_only(folder / "checkpoint-4")]
)
def test_a_removal_that_is_interrupted_leaves_no_checkpoint_behind(remove, write, tmp_path, monkeypatch, caplog):
    aged(write, 2, 4)

    def interrupted(path, *_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlstep.runtime.checkpoints.shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-2.partial", "checkpoint-4"]
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


@pytest.fixture
def partial(tmp_path) -> Path:
    """A checkpoint that is being built, with a file and a folder as DeepSpeed writes one."""
    path = partial_path(tmp_path / "checkpoint-8")
    (path / "global_step8").mkdir(parents=True)
    (path / "trainer_state.json").write_text("new")
    (path / "global_step8" / "rank_0.pt").write_text("shard")
    return path


def test_a_checkpoint_that_is_being_built_is_no_checkpoint(partial, tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert not list(tmp_path.glob("checkpoint-*"))
    assert partial.stat().st_dev == tmp_path.stat().st_dev


def test_all_of_it_is_on_the_disk_before_it_gets_its_name(partial, tmp_path, monkeypatch):
    synced = []
    fsync, checkpoint = os.fsync, tmp_path / "checkpoint-8"

    def watch(handle):
        synced.append((os.fstat(handle).st_ino, checkpoint.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    files = {path.stat().st_ino for path in [partial, *partial.rglob("*")]}
    commit(partial, checkpoint)
    assert {inode for inode, named in synced if not named} == files
    assert [inode for inode, named in synced if named] == [tmp_path.stat().st_ino], "the new name itself is on it, too"
    assert sorted(path.name for path in checkpoint.iterdir()) == ["global_step8", "trainer_state.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]


def test_a_checkpoint_that_is_there_is_replaced_as_a_whole(partial, write, tmp_path):
    write("checkpoint-8")
    commit(partial, tmp_path / "checkpoint-8")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["rank_0.pt", "trainer_state.json"]
    assert (tmp_path / "checkpoint-8" / "trainer_state.json").read_text() == "new"


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(28, "No space left on device"), True),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), True),
        (RuntimeError("Connection closed by peer"), False),
    ],
)
def test_what_a_full_disk_raises_is_said_with_the_checkpoint(tmp_path, error, named):
    with pytest.raises(OSError if named else RuntimeError) as raised, being_written(tmp_path / "checkpoint-8"):
        raise error
    assert str(raised.value) == (f"{tmp_path}/checkpoint-8 cannot be written: {error}" if named else str(error))


def test_a_kill_while_a_checkpoint_is_replaced_loses_neither(partial, write, tmp_path, monkeypatch):
    (partial / "state_0.json").touch()
    earlier, rename = write("checkpoint-8"), Path.rename

    def killed_at_the_second(path, target):
        if path == partial:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            commit(partial, tmp_path / "checkpoint-8")
    assert not Path(earlier).exists()
    for _ in range(2):  # each process looks
        assert checkpoint_to_continue(tmp_path) == earlier
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]
    assert (Path(earlier) / "trainer_state.json").read_text() == "new"
    assert checkpoint_to_continue(tmp_path / "none") is None


def test_leftovers_are_removed_with_one_warning(partial, write, tmp_path, caplog):
    partial_path(tmp_path / "checkpoint-9").mkdir(parents=True)
    write("checkpoint-4")
    (tmp_path / ".checkpoint-best").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-best", "checkpoint-4"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert ".checkpoint-8.partial, .checkpoint-9.partial" in record.message
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "none")
    assert len(caplog.records) == 1


# --- State files.

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.complex64,
    torch.complex128,
)  # fmt: skip


@st.composite
def tensors(draw) -> torch.Tensor:
    """Any bytes in any dtype: NaNs, denormal numbers and infinities come about. Some are views of others, or empty."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        data = bytes(byte % 2 for byte in data)
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    return tensor.T if draw(st.booleans()) and tensor.dim() == 2 else tensor


KEYS = ["a", "a/b", "b", "", "~1", "$tensor", "$dict", "__metadata__", "\ud800"]

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(st.characters()), inner, max_size=3)
    ),
    max_leaves=12,
)


def exact(tree):
    """A tree as plain Python values that are equal only if every bit of every number is, except for the bits of NaN."""
    match tree:
        case torch.Tensor():
            content = tree.contiguous().reshape(-1)
            return ("tensor", tree.dtype, tuple(tree.shape), bytes(content.view(torch.uint8)) if len(content) else b"")
        case float():
            return ("float", "nan" if tree != tree else struct.pack("d", tree))
        case dict():
            return ("dict", {key: exact(value) for key, value in tree.items()})
        case list() | tuple():
            return (type(tree).__name__, [exact(item) for item in tree])
    return (type(tree).__name__, tree)


@given(tree=trees)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_state_comes_back_as_it_was(tree, tmp_path):
    write_state(tmp_path, "state_0", tree)
    assert exact(read_state(tmp_path, "state_0")) == exact(tree)


def test_state_by_hand(tmp_path):
    """The order of a dict's keys counts, too: sums and averages are taken in it."""
    rows = torch.arange(6.0).view(3, 2)
    tree = {"b": [rows[0], rows[1], None], "a": (0.1, -0.0, float("-inf")), "$float": {"x/y": torch.ones(0, 2)}}
    write_state(tmp_path, "state_3", tree)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state_3.json", "state_3.safetensors"]
    assert load_file(tmp_path / "state_3.safetensors").keys() == {"/b/0", "/b/1", "/$float/x~1y"}
    strict = json.loads((tmp_path / "state_3.json").read_text(), parse_constant=pytest.fail)
    assert strict["$dict"]["b"] == [{"$tensor": "/b/0"}, {"$tensor": "/b/1"}, None]
    read = read_state(tmp_path, "state_3")
    assert list(read) == ["b", "a", "$float"]
    assert read["b"][1].tolist() == [2.0, 3.0]
    assert math.copysign(1, read["a"][1]) == -1


def test_files_of_an_earlier_version_are_read(tmp_path):
    """The format byte by byte, as checkpoints that are kept somewhere have it."""
    document = (
        '{"loop": {"loss": {"$tensor": "/loop/loss"}, "stopped": false}, "metrics": {"train": {"kl": [0.1, '
        '{"$float": "nan"}]}}, "update": {"$tuple": [3, null]}, "registered": {"$dict": {"$x": {"$complex": '
        '"/registered/$x"}}}}\n'
    )
    header = (
        b'{"/loop/loss":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"/registered/$x":{"dtype":"F64","shape":[1,2],"data_offsets":[4,20]}}'
    )
    (tmp_path / "state_0.json").write_text(document)
    tensors = struct.pack("<f", 0.75) + struct.pack("<dd", 1.0, -2.0)
    (tmp_path / "state_0.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + tensors)
    assert exact(read_state(tmp_path, "state_0")) == exact(
        {
            "loop": {"loss": torch.tensor([0.75]), "stopped": False},
            "metrics": {"train": {"kl": [0.1, math.nan]}},
            "update": (3, None),
            "registered": {"$x": torch.tensor([1 - 2j], dtype=torch.complex128)},
        }
    )


def test_what_trainers_keep_is_kept(tmp_path):
    """Default dicts of floats, numpy's among them, which come back as plain ones."""
    tree = defaultdict(list, {"kl": [np.float64(0.1), 0.2]})
    write_state(tmp_path, "state_0", tree)
    assert exact(read_state(tmp_path, "state_0")) == ("dict", {"kl": exact([0.1, 0.2])})


def test_tensors_outlive_their_file(tmp_path):
    """The checkpoint that a run was continued from is deleted when there are enough newer ones."""
    write_state(tmp_path, "state_0", {"a": torch.zeros(1000)})
    read = read_state(tmp_path, "state_0")
    with (tmp_path / "state_0.safetensors").open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(b"\xff" * 4000)
    assert not read["a"].any()


def test_tensors_that_share_their_memory_come_back_each_for_itself(tmp_path):
    """A batch's slices are views of one tensor; a view may also be transposed, or the conjugate of what is stored."""
    rows = torch.arange(6.0).view(3, 2)
    tree = [rows, rows, rows[1:], rows.T, rows.expand(2, 3, 2), torch.tensor([1 + 2j]).conj(), rows.requires_grad_()]
    write_state(tmp_path, "state_0", tree)
    read = read_state(tmp_path, "state_0")
    assert [exact(t) for t in read] == [exact(t.detach().resolve_conj().contiguous()) for t in tree]
    read[0].zero_()
    assert read[2].tolist() == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [{1: 2}]}, "/a/0: the key 1 is not a string"),
        ({"a": {"b": {1, 2}}}, "/a/b: set is neither"),
        (b"bytes", "/: bytes is neither"),
        ({"a": torch.eye(2).to_sparse()}, "/a: a quantized or sparse tensor"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(tree, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        write_state(tmp_path, "state_0", tree)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["no json", "half a json", "no tensors", "half the tensors", "other tensors"])
def test_damaged_state_is_named(damage, tmp_path):
    write_state(tmp_path, "state_0", {"a": torch.arange(3)})
    document, content = tmp_path / "state_0.json", tmp_path / "state_0.safetensors"
    match damage:
        case "no json":
            document.unlink()
        case "half a json":
            document.write_text(document.read_text()[:9])
        case "no tensors":
            content.unlink()
        case "half the tensors":
            content.write_bytes(content.read_bytes()[:-9])
        case "other tensors":
            write_state(tmp_path, "state_1", {"b": torch.arange(3)})
            (tmp_path / "state_1.safetensors").rename(content)
    with pytest.raises(UserError, match="state_0 is not readable .*continue from a different one"):
        read_state(tmp_path, "state_0")
