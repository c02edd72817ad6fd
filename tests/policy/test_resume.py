"""Runs that are killed and continued, against the uninterrupted one, bit for bit.

The policy samples for real, rewards depend on what it wrote, and the data set has two batches an epoch: a random
number, a batch or a value that is out of place shows in the weights.
"""

import json
import random
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, Trainer, TrainerCallback
from trl import GRPOTrainer

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.policy.token_budget import TokenBudget
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.runtime import checkpoints, whole_checkpoints
from rlstep.runtime.checkpoints import newest_checkpoint, read_state, write_state
from rlstep.runtime.errors import UserError
from rlstep.runtime.resume import WALL_CLOCK, ExactResume
from rlstep.steps.boundaries import line_steps
from rlstep.tasks.arithmetic import Arithmetic

ROOT = Path(__file__).parents[2]


def judge(prompts, completions, references, *_) -> list[ScoredCompletion]:
    """Rewards that nearly every change of a completion changes."""
    steps = [line_steps(text) for text in completions]
    return [
        ScoredCompletion(
            spans, [(end - start) % 7 / 7 for start, end in spans], len(text) % 5 / 5, len(text) % 3 == 0, False
        )
        for spans, text in zip(steps, completions, strict=True)
    ]


def new_trainer(tiny_lm: str, tokenizer, output_dir, *, lora: bool = True, callbacks=None, **changes) -> StepPPOTrainer:
    """A trainer of four problems in batches of two, whose completions last four micro-batches: 2 slices x 2 epochs.

    An epoch of data is 8 micro-batches. The defaults log over intervals that checkpoints fall into.
    """
    settings = {
        "output_dir": str(output_dir), "per_device_train_batch_size": 2, "num_generations": 2, "num_iterations": 2,
        "steps_per_generation": 2, "gradient_accumulation_steps": 2, "max_completion_length": 8, "max_steps": 6,
        "learning_rate": 1e-2, "beta": 0.05, "logging_steps": 3, "save_strategy": "steps", "save_steps": 1,
        "per_device_eval_batch_size": 2, "gradient_checkpointing": False, "bf16": False, "use_cpu": True,
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    rows = [{"prompt": p.prompt, "reference": p.reference} for p in Arithmetic().problems("train", 4, seed=0)]
    return StepPPOTrainer(
        tiny_lm,
        judge,
        StepPPOConfig(**settings | changes),
        Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:2]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
        callbacks=callbacks,
    )


def outcome(trainer: StepPPOTrainer, result) -> dict:
    """All that a run leaves, in a form for `differences` and for `write_state`."""
    optimizer = trainer.optimizer.state_dict()
    return {
        "weights": {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad},
        "optimizer": {str(number): state for number, state in optimizer["state"].items()},
        "schedule": trainer.lr_scheduler.state_dict(),
        "random": [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()],
        "history": [_no_clock(entry) for entry in trainer.state.log_history],
        "result": _no_clock(result.metrics),
        "not logged": [dict(trainer._metrics["eval"]), _no_clock(trainer._metrics["train"])],
        "state": [trainer.state.global_step, trainer.state.epoch, trainer.state.num_input_tokens_seen],
    }


def _no_clock(values: dict) -> dict:
    return {name: value for name, value in values.items() if not name.endswith(WALL_CLOCK)}


def differences(first, second, place: str = "") -> list[str]:
    """Where two trees differ, NaN being equal to NaN."""
    if type(first) is not type(second):
        return [f"{place}: {first!r} / {second!r}"]
    if isinstance(first, dict):
        keys = sorted(first.keys() | second.keys())
        return [d for key in keys for d in differences(first.get(key, "-"), second.get(key, "-"), f"{place}/{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{place}: {len(first)} / {len(second)} items"]
        return [d for i, pair in enumerate(zip(first, second, strict=True)) for d in differences(*pair, f"{place}/{i}")]
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
    else:
        same = first == second or first != first
    return [] if same else [f"{place}: {first!r} / {second!r}"]


@pytest.fixture
def run(tiny_lm, tokenizer, tmp_path):
    """Makes trainers and runs them: `run(**settings)` from the start, `run(resume=step)` from that checkpoint of it.

    A run that is continued has a folder of its own, in which that checkpoint lies alone.
    """
    whole: dict = {}

    def start(resume: int | None = None, prepare=lambda trainer: None, name="whole", **changes) -> SimpleNamespace:
        if resume is None:
            whole.update(folder=tmp_path / name, changes=changes)
            folder, checkpoint = whole["folder"], None
        else:
            folder = tmp_path / f"from-{resume}"
            checkpoint = str(folder / f"checkpoint-{resume}")
            shutil.copytree(whole["folder"] / f"checkpoint-{resume}", checkpoint)
        trainer = new_trainer(tiny_lm, tokenizer, folder, **whole["changes"] | changes)
        prepare(trainer)
        result = trainer.train(resume_from_checkpoint=checkpoint)
        return SimpleNamespace(trainer=trainer, folder=folder, end=outcome(trainer, result))

    return start


def assert_same(continued: SimpleNamespace, whole: SimpleNamespace) -> None:
    assert not differences(continued.end, whole.end)


# --- The same end from every checkpoint.


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_a_run_continued_from_any_checkpoint_ends_where_the_uninterrupted_one_does(advantage, accumulation, run):
    """A batch lasts four updates (two with accumulation), an epoch twice as many, an interval of the log three.

    Without a critic there is less to keep: of its checkpoints one within a batch, one at an evaluation and the last.
    """
    last = 9 if accumulation == 1 else 6
    critic = {"critic": "adapter"} if advantage == "gae" else {}
    whole = run(
        advantage=advantage, **critic, gradient_accumulation_steps=accumulation, max_steps=last,
        eval_on_start=True, eval_strategy="steps", eval_steps=4,
    )  # fmt: skip
    assert [entry["step"] for entry in whole.end["history"] if "loss" in entry] == list(range(3, last + 1, 3))
    assert [entry["step"] for entry in whole.end["history"] if "eval_reward" in entry][:2] == [0, 4]
    for step in range(1, last + 1) if advantage == "gae" else (3, 4, last):
        assert_same(run(resume=step), whole)


@pytest.mark.parametrize("step", [1, 3])
def test_the_rest_of_a_batch_is_trained_on_after_a_resume(step, run):
    """Each batch lasts two updates, and these checkpoints lie between them."""
    generated = []

    def count(trainer):
        judge_all = trainer.reward_source
        trainer.reward_source = lambda *rows: generated.append(1) or judge_all(*rows)

    whole = run(advantage="gae", max_steps=4)
    assert_same(run(resume=step, prepare=count), whole)
    assert len(generated) == (1 if step == 1 else 0), "a batch that had been begun was sampled again"
    done = read_state(whole.folder / "checkpoint-2", "state_0")
    assert done["batch"] == {"step": 4, "slices": None}, "a batch that is done takes no room"


@pytest.mark.parametrize("lora", [True, False])
def test_a_critic_that_is_a_head_goes_on(lora, run):
    """Within a batch and at its end."""
    whole = run(advantage="gae", critic="head", critic_trunk_scale=0.5, max_steps=4, lora=lora)
    assert "critic.value_head.weight" in whole.end["weights"]
    for step in (1, 2):
        assert_same(run(resume=step), whole)


def test_micro_batches_that_are_cut_by_tokens_go_on(run, monkeypatch):
    """Rows of about 20 tokens, two in a micro-batch: mostly one a pass."""
    cuts = []
    pieces = TokenBudget.pieces
    monkeypatch.setattr(TokenBudget, "pieces", lambda *args: cuts.append(pieces(*args)) or cuts[-1])
    whole = run(advantage="gae", critic="head", tokens_per_device=36, max_steps=4, num_generations=2, packing=False)
    assert max(map(len, cuts)) > 1
    for step in (1, 2):
        assert_same(run(resume=step), whole)


def test_an_epoch_that_accumulation_does_not_divide(run):
    """Updates of 3, 3 and 2 micro-batches: the third one ends a batch, and counts of updates do not tell where."""
    whole = run(gradient_accumulation_steps=3, max_steps=5)
    # Three updates an epoch; two more are 6 of the next one's 8 micro-batches.
    assert whole.trainer.state.epoch == pytest.approx(1 + 6 / 8)
    for step in (3, 4):
        assert_same(run(resume=step), whole)


class Saves(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_save(self, args, state, control, **_):
        self.steps.append(state.global_step)


@pytest.mark.parametrize("restore", [False, True])
def test_what_an_epoch_ends_with_is_not_left_out(restore, run):
    """The last update of an epoch saves before the epoch's evaluation and log; so does the last one of the run.

    The Trainer's switches of that moment, which it can restore, say "save": that has been done.
    """
    whole = run(eval_strategy="epoch", logging_strategy="epoch", logging_steps=10)
    for name in ("loss", "eval_reward"):
        assert [entry["step"] for entry in whole.end["history"] if name in entry] == [4, 6]
    for step in (4, 6):
        saves = Saves()
        assert_same(run(resume=step, restore_callback_states_from_checkpoint=restore, callbacks=[saves]), whole)
        assert saves.steps == list(range(step + 1, 7))


def test_a_checkpoint_of_an_epochs_end_repeats_nothing_of_it(run):
    whole = run(eval_strategy="epoch", save_strategy="epoch", save_steps=500)
    assert sorted(path.name for path in whole.folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    for step in (4, 6):
        assert_same(run(resume=step), whole)


@pytest.mark.parametrize("evaluation", [{}, {"eval_strategy": "steps", "eval_steps": 4}])
def test_the_last_line_of_the_log_shows_what_it_would_have(evaluation, run):
    """The training metrics of the update after the last full interval; none of them behind an evaluation."""
    whole = run(max_steps=4, **evaluation)
    assert ("entropy" in whole.end["history"][-1]) == (not evaluation)
    assert_same(run(resume=4), whole)


def test_later_epochs_keep_their_order(run):
    """Three epochs of two batches: the sampler's next order each, not the first one again."""
    seen = []

    def watch(trainer):
        source = trainer.reward_source
        trainer.reward_source = lambda prompts, *rest: seen.append(sorted(set(prompts))) or source(prompts, *rest)

    run(max_steps=12, save_steps=9, prepare=watch)
    whole = seen.copy()
    assert len(whole) == 6
    assert whole[4:] != whole[:2], "the third order is the first by chance: take another seed"
    seen.clear()
    run(resume=9, prepare=watch)
    assert seen == whole[5:]


def test_a_finished_run_can_be_lengthened(run):
    """Its last checkpoint is one like others when there is more to do: nothing is left out, nothing done twice."""
    run(max_steps=5, lr_scheduler_type="constant", eval_strategy="steps", eval_steps=3)
    longer = run(resume=5, max_steps=8)
    assert longer.trainer.state.global_step == 8
    logged = [entry["step"] for entry in longer.end["history"] if "loss" in entry or "eval_reward" in entry]
    assert logged == [3, 3, 5, 6, 6, 8]


def test_the_end_that_a_callback_put_to_a_run_is_kept(run, caplog):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step >= 3

    whole = run(callbacks=[Stop()])
    assert whole.trainer.state.global_step == 3
    assert_same(run(resume=3, callbacks=None), whole)
    assert "a callback ended the run here" in caplog.text


# --- Pieces of the state.


def test_the_entropy_controller_goes_on(run):
    whole = run(max_steps=4, use_adaptive_entropy=True, entropy_target=10.0, entropy_coef_delta=0.05)
    assert whole.trainer.entropy_coef == pytest.approx(0.2)
    assert_same(run(resume=3), whole)


def test_a_reference_that_follows_the_policy_goes_on(run):
    whole = run(lora=False, sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=0.5)
    continued = run(resume=3)
    assert_same(continued, whole)
    references = [dict(r.trainer.ref_model.state_dict()) for r in (continued, whole)]
    assert not differences(*references)


def test_logged_completions_are_those_of_the_uninterrupted_run(run):
    """The table of step 2 shows a batch that was sampled before the kill."""
    runs = [run(max_steps=2, logging_steps=2, log_completions=True), run(resume=1)]
    tables = [pd.read_parquet(r.folder / "completions" / "completions_00002.parquet") for r in runs]
    assert len(tables[0]) == 4
    pd.testing.assert_frame_equal(*tables)


def test_the_time_before_the_kill_counts(run):
    whole = run(max_steps=2, logging_steps=2, include_num_input_tokens_seen="all")
    kept = read_state(whole.folder / "checkpoint-1", "state_0")
    assert 0 < kept["loop"]["seconds"] < 100
    kept["loop"]["seconds"] += 1000
    write_state(whole.folder / "checkpoint-1", "state_0", kept)
    continued = run(resume=1)
    logged, last = continued.trainer.state.log_history
    assert 1000 < last["train_runtime"] < 1100
    assert logged["train_tokens_per_second"] == pytest.approx(
        last["num_input_tokens_seen"] / last["train_runtime"], rel=0.1
    )
    assert 1000 < read_state(continued.folder / "checkpoint-2", "state_0")["loop"]["seconds"] < 1100


class Counter(TrainerCallback):
    """Something registered: a count of updates and a sum of random numbers."""

    def __init__(self):
        self.updates, self.sum = 0, torch.zeros(2, dtype=torch.float64)

    def on_train_begin(self, *_, **__):
        self.updates = 0

    def on_step_end(self, *_, **__):
        self.updates += 1
        self.sum += torch.randn(2, dtype=torch.float64)

    def state_dict(self):
        return {"updates": self.updates, "sum": self.sum}

    def load_state_dict(self, state):
        torch.manual_seed(0)  # what loading does to the random states must not last
        self.updates, self.sum = state["updates"], state["sum"]

    def join(self, trainer) -> None:
        trainer.add_callback(self)
        trainer.register_state("counter", self)


def test_registered_state_goes_on(run):
    first, second = Counter(), Counter()
    whole = run(prepare=first.join)
    for step in (3, 6):
        assert_same(run(resume=step, prepare=second.join), whole)
        assert (second.updates, second.sum.tolist()) == (6, first.sum.tolist())


# --- What is refused.


@pytest.fixture(scope="module")
def checkpoint(tiny_lm, tokenizer, tmp_path_factory) -> str:
    """A first checkpoint, with a counter's state."""
    folder = tmp_path_factory.mktemp("run")
    trainer = new_trainer(tiny_lm, tokenizer, folder, max_steps=1)
    Counter().join(trainer)
    trainer.train()
    return str(folder / "checkpoint-1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_iterations": 1}, "num_iterations 2, not 1"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps 2, not 1"),
        ({"seed": 7}, "seed 42, not 7"),
        ({"ignore_data_skip": True}, "ignore_data_skip"),
    ],
)
def test_other_batches_do_not_continue_these(changes, message, checkpoint, tiny_lm, tokenizer, tmp_path):
    trainer = new_trainer(tiny_lm, tokenizer, tmp_path / "other", **changes)
    Counter().join(trainer)
    with pytest.raises(UserError, match=message):
        trainer.train(resume_from_checkpoint=checkpoint)
    assert not any(p.any() for name, p in trainer.model.named_parameters() if "lora_B" in name), "weights were loaded"


def test_a_shared_reference_does_not_go_with_zero_3(checkpoint, tiny_lm, tokenizer, tmp_path, zero_3):
    trainer = new_trainer(tiny_lm, tokenizer, tmp_path / "other", lora=False, sync_ref_model=True)
    zero_3()
    with pytest.raises(UserError, match="sync_ref_model .* under ZeRO-3"):
        trainer.train(resume_from_checkpoint=checkpoint)


def test_a_data_set_of_another_size_does_not_continue_this(checkpoint, tiny_lm, tokenizer, tmp_path):
    trainer = new_trainer(tiny_lm, tokenizer, tmp_path / "other")
    trainer.train_dataset = trainer.train_dataset.select(range(3))
    with pytest.raises(UserError, match="rows 4, not 3"):
        trainer.train(resume_from_checkpoint=checkpoint)


def test_registered_states_have_to_be_in_the_checkpoint(checkpoint, tiny_lm, tokenizer, tmp_path, caplog):
    trainer = new_trainer(tiny_lm, tokenizer, tmp_path / "other", max_steps=1)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert "has a state of counter, which this run does not use" in caplog.text
    trainer.register_state("alarm", Counter())
    with pytest.raises(ValueError, match="'alarm' is registered already"):
        trainer.register_state("alarm", Counter())
    with pytest.raises(UserError, match="no state of alarm"):
        trainer.train(resume_from_checkpoint=checkpoint)


def test_a_checkpoint_of_an_older_version_is_named(checkpoint, tiny_lm, tokenizer, tmp_path, caplog):
    older = tmp_path / "checkpoint-1"
    shutil.copytree(checkpoint, older, ignore=shutil.ignore_patterns("state_*"))
    trainer = new_trainer(tiny_lm, tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"checkpoint-1 has no state_\*\.json: an older version wrote it"):
        trainer.train(resume_from_checkpoint=str(older))
    with pytest.raises(UserError, match="has no checkpoint to continue"):
        trainer.train(resume_from_checkpoint=True)
    assert "cannot be continued exactly" in caplog.text


def test_save_only_model_keeps_no_state(run, tiny_lm, tokenizer):
    folder = run(max_steps=1, save_only_model=True).folder
    assert not list(folder.rglob("state_*"))
    with pytest.raises(UserError, match="save_only_model was set"):
        new_trainer(tiny_lm, tokenizer, folder).train(resume_from_checkpoint=str(folder / "checkpoint-1"))


# --- Checkpoints appear whole or not at all.


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "checkpoint" in path.name)


@pytest.mark.parametrize(
    ("where", "method"),
    [(Trainer, "_save_rng_state"), (checkpoints, "write_state"), (checkpoints, "commit")],
)
def test_a_save_that_fails_leaves_no_checkpoint(where, method, run, tiny_lm, tokenizer, monkeypatch, caplog):
    whole = run(max_steps=3)
    folder = whole.folder.with_name("failing")
    trainer = new_trainer(tiny_lm, tokenizer, folder, max_steps=3)
    original = getattr(where, method)

    def fail_at_two(*args):
        if trainer.state.global_step == 2:
            raise OSError("no space left on device")
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(where, method, fail_at_two)
        with pytest.raises(OSError, match="no space"):
            trainer.train()
    assert names(folder) == [".checkpoint-2.partial", "checkpoint-1"]

    continued = new_trainer(tiny_lm, tokenizer, folder, max_steps=3)
    result = continued.train(resume_from_checkpoint=True)
    assert not differences(outcome(continued, result), whole.end)
    assert names(folder) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert [record.levelname for record in caplog.records if ".checkpoint-2.partial" in record.message] == ["WARNING"]


def test_a_folder_that_the_machines_do_not_share_is_refused(tiny_lm, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(whole_checkpoints, "SEEN_S", 0.0)
    trainer = new_trainer(tiny_lm, tokenizer, tmp_path, max_steps=1)
    # As on another machine, whose processes leave the folder to the first one of all.
    monkeypatch.setattr(StepPPOConfig, "should_save", False)
    with pytest.raises(UserError, match="must be on a file system that all machines share"):
        trainer.train()


def test_a_checkpoint_of_a_run_that_went_another_way_is_replaced(run):
    def other_one(trainer):
        other = Path(trainer.args.output_dir) / "checkpoint-2"
        other.mkdir()
        (other / "of the other run").touch()

    whole = run(max_steps=2)
    continued = run(resume=1, prepare=other_one)
    assert names(continued.folder) == ["checkpoint-1", "checkpoint-2"]
    files = [sorted(path.name for path in (r.folder / "checkpoint-2").iterdir()) for r in (continued, whole)]
    assert files[0] == files[1]


def test_leftovers_go_at_the_start_and_at_each_save(tiny_lm, tokenizer, tmp_path):
    class Leave(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            actual.append(names(tmp_path))
            (tmp_path / f".checkpoint-{state.global_step + 8}.partial").mkdir()

    actual = []
    (tmp_path / ".checkpoint-7.partial").mkdir()
    new_trainer(tiny_lm, tokenizer, tmp_path, max_steps=3, save_steps=2, callbacks=[Leave()]).train()
    assert actual == [[], [".checkpoint-8.partial"], ["checkpoint-2"]]
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("limit", [None, 1, 2])
def test_as_many_checkpoints_are_kept_as_without_the_mixin(limit, run, monkeypatch):
    """The second of four is the best."""

    def judged(trainer):
        trainer.evaluate = lambda **_: {"eval_reward": [0, 1, 5, 2, 3][trainer.state.global_step]}

    settings = {
        "max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_reward",
        "greater_is_better": True, "save_total_limit": limit,
    }  # fmt: skip
    exact = run(prepare=judged, **settings)
    monkeypatch.setattr(ExactResume, "_save_checkpoint", lambda self, *args: GRPOTrainer._save_checkpoint(self, *args))
    plain = run(name="plain", prepare=judged, **settings)
    assert names(exact.folder) == names(plain.folder)
    best = exact.trainer.state.best_model_checkpoint
    assert best == str(exact.folder / "checkpoint-2")
    assert plain.trainer.state.best_model_checkpoint == str(plain.folder / "checkpoint-2")
    for step in {None: [2, 4], 1: [2], 2: [2, 4]}[limit]:
        state = json.loads((exact.folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == best


def test_what_belongs_to_a_checkpoint_is_in_it_before_it_has_its_name(run):
    seen = []

    def write(folder: Path, writes: bool) -> None:
        seen.append((folder.parent.name, writes, (folder / "state_0.json").is_file()))
        (folder / "own").touch()

    folder = run(max_steps=1, prepare=lambda trainer: trainer.checkpoint_writers.append(write)).folder
    assert seen == [(".checkpoint-1.partial", True, True)]
    assert (folder / "checkpoint-1" / "own").is_file()


def test_a_run_that_is_killed_before_it_removes_old_checkpoints_removes_them_when_it_goes_on(run):
    def one_more(trainer):
        shutil.copytree(Path(trainer.args.output_dir) / "checkpoint-2", Path(trainer.args.output_dir) / "checkpoint-1")

    run(max_steps=2, save_steps=2)
    assert names(run(resume=2, prepare=one_more, save_total_limit=1).folder) == ["checkpoint-2"]


def test_others_see_a_checkpoint_only_when_it_has_its_name(run, monkeypatch):
    """Callbacks and the upload to the hub, which runs in the background."""
    seen = []
    push = lambda trainer, path: seen.append(("push", path, newest_checkpoint(trainer.args.output_dir, exact=True)))  # noqa: E731
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", push)

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **_):
            seen.append(("save", names(Path(args.output_dir))))

    folder = run(max_steps=1, callbacks=[Watch()], prepare=lambda t: setattr(t.args, "push_to_hub", True)).folder
    path = str(folder / "checkpoint-1")
    assert seen == [("push", path, path), ("save", ["checkpoint-1"])]


# --- Processes.


def main(folder: str, tiny_lm: str, save: str) -> None:
    """Trains from the newest checkpoint in `folder`, where there is one; leaves the end in its `outcome` files.

    A slow save waits before it writes its state, and once more before the folder gets its name.
    """
    if save == "slow":
        write, commit = checkpoints.write_state, checkpoints.commit
        checkpoints.write_state = lambda *args: time.sleep(0.3) or write(*args)
        checkpoints.commit = lambda *args: time.sleep(0.3) or commit(*args)
    trainer = new_trainer(tiny_lm, AutoTokenizer.from_pretrained(tiny_lm), folder, advantage="gae")
    result = trainer.train(resume_from_checkpoint=newest_checkpoint(folder, exact=True))
    write_state(folder, f"outcome_{trainer.args.process_index}", outcome(trainer, result))


def main_of_a_rank(folder: str, tiny_lm: str) -> None:
    """Trains in `folder`, and from the copy of a checkpoint in `folder`/continued."""
    main(folder, tiny_lm, "fast")
    state = PartialState()
    if state.is_main_process:
        shutil.copytree(Path(folder) / "checkpoint-3", Path(folder) / "continued" / "checkpoint-3")
    state.wait_for_everyone()
    main(f"{folder}/continued", tiny_lm, "fast")
    state.destroy_process_group()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_is_killed_again_and_again_ends_where_the_uninterrupted_one_does(tiny_lm, tmp_path, warm):
    """Killed within an update, while a save writes, and when it has written all but not renamed the folder."""
    folder, whole, log = tmp_path / "killed", tmp_path / "whole", tmp_path / "log.txt"

    def start(output_dir: Path, save: str):
        return warm().start("tests.policy.test_resume:main", output_dir, tiny_lm, save, log=log)

    def kill_when(moment: Path) -> list[str]:
        run, deadline = start(folder, "slow"), time.monotonic() + 300
        try:
            while not moment.exists():
                assert run.alive, log.read_text()[-4000:]
                assert time.monotonic() < deadline, f"no {moment}"
                time.sleep(0.002)
        finally:
            run.kill()
        return names(folder)

    assert kill_when(folder / "checkpoint-1")[-1] == "checkpoint-1"
    left = kill_when(folder / ".checkpoint-3.partial" / "checkpoint-3" / "optimizer.pt")
    assert left == [".checkpoint-3.partial", "checkpoint-1", "checkpoint-2"]
    left = kill_when(folder / ".checkpoint-5.partial" / "checkpoint-5" / "state_0.json")
    assert left == [".checkpoint-5.partial", *(f"checkpoint-{step}" for step in range(1, 5))]
    for output_dir in (folder, whole):
        assert start(output_dir, "fast").wait() == 0, log.read_text()[-4000:]
    assert names(folder) == [f"checkpoint-{step}" for step in range(1, 7)]
    assert not differences(read_state(folder, "outcome_0"), read_state(whole, "outcome_0"))


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_continue_as_they_would_have_gone_on(tiny_lm, tokenizer, tmp_path, warm):
    """An epoch is one batch of two updates here; the third update is the first one of the second batch."""
    log = tmp_path / "log.txt"
    run = warm().start("tests.policy.test_resume:main_of_a_rank", tmp_path, tiny_lm, log=log, ranks=2)
    assert run.wait() == 0, log.read_text()[-4000:]
    for rank in range(2):
        ends = [read_state(folder, f"outcome_{rank}") for folder in (tmp_path, tmp_path / "continued")]
        assert not differences(*ends)
    third = tmp_path / "checkpoint-3"
    assert differences(*(read_state(third, f"state_{rank}")["batch"] for rank in range(2))), "a rank has its own rows"
    with pytest.raises(UserError, match="world_size 2, not 1"):
        new_trainer(tiny_lm, tokenizer, tmp_path / "one").train(str(third))
