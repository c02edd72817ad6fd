"""The alarm, the refresh and the logs, wired to the trainer and through the `ppo` stage."""

import json
import threading
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, set_seed
from trl import ModelConfig

from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.monitoring.setup import AlarmWatch, RefreshWatch
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.resume import WALL_CLOCK
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.scored import ScoredBatch, ScoredCompletion
from rlstep.policy.rewards.sources import Verifiers, load_verifiers, wants_base
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.ppo import ppo
from rlstep.tasks.base import checked
from rlstep.verifiers.model import VerifierSpec, new_verifier
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.training.train import PRMConfig, VerifierArguments
from rlstep.verifiers.training.train import prm as prm_stage

# What an untrained policy writes has no answer, and is to be paid for all the same.
LENIENT = Guards(guard_no_answer=False, guard_min_steps=0)


@pytest.fixture
def problems(task, tmp_path) -> str:
    write_rows(tmp_path / "problems.jsonl", [asdict(p) for p in task.problems("train", 8, seed=0)])
    return str(tmp_path / "problems.jsonl")


@pytest.fixture
def labelled(task, tmp_path) -> str:
    solutions = [checked(task, solution) for solution in task.demonstrations(12, seed=0)]
    write_rows(tmp_path / "labelled.jsonl", [solution.to_row() for solution in solutions])
    return str(tmp_path / "labelled.jsonl")


@pytest.fixture
def prm_path(tiny_lm, tokenizer, tmp_path) -> str:
    set_seed(1)
    new_verifier(tiny_lm, VerifierSpec("prm")).save_pretrained(tmp_path / "prm")
    tokenizer.save_pretrained(tmp_path / "prm")
    return str(tmp_path / "prm")


@pytest.fixture
def adapter_path(tiny_lm, labelled, tmp_path) -> str:
    """A PRM kept as an adapter on the policy's own base."""
    out = tmp_path / "adapter"
    arguments = VerifierArguments(
        str(out), max_steps=1, learning_rate=1e-2, use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    prm_stage(PRMConfig(tiny_lm, labelled, use_peft=True, lora_r=4, merge_adapter=False), arguments)
    return str(out)


@pytest.fixture
def model(tiny_lm) -> ModelConfig:
    return ModelConfig(tiny_lm, dtype="float32", use_peft=True, lora_r=4, lora_target_modules=["all-linear"])


@pytest.fixture
def run(problems, prm_path, model, arguments):
    """Runs the stage with a PRM; returns its lines of metrics."""

    def make(args=None, alarm=None, refresh=None, **options) -> list[dict]:
        args = args or arguments()
        given = {"reward": ["prm"], "prm": prm_path, "credit": "sum"} | options
        ppo(PPOOptions(problems, **given), LENIENT, alarm or AlarmOptions(), refresh or RefreshOptions(), args, model)
        return lines(args.output_dir)

    return make


def lines(folder) -> list[dict]:
    with open(f"{folder}/metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def batch(update: int, process: float, accuracy: float, rows: int = 20) -> ScoredBatch:
    scored = [
        ScoredCompletion([(0, 1)], [process], 0.0, correct=n < round(accuracy * rows), clean=False) for n in range(rows)
    ]
    return ScoredBatch(update, ["p"] * rows, ["c"] * rows, ["r"] * rows, scored, [True] * rows)


# --- The alarm.


def hacked(watch) -> list[int]:
    """Updates at which it wanted to stop, as the process return rises and the accuracy falls."""
    stopped = []
    for update in range(1, 21):
        rising = min(1.0, max(0.0, (update - 8) / 5))
        watch(batch(update, 0.5 + 0.4 * rising + 0.01 * (update % 2), 0.5 - 0.5 * rising + 0.05 * (update % 2)))
        if watch.on_step_end(None, None, TrainerControl()).should_training_stop:
            stopped.append(update)
    return stopped


def test_the_alarm_is_logged_and_says_what_it_saw(scripted, row, caplog):
    trainer = scripted([row("1"), row("2")])
    watch = AlarmWatch(trainer, AlarmOptions())
    assert hacked(watch) == []  # it warns
    flags = trainer._metrics["train"]["alarm"]
    assert len(flags) == 20
    assert (flags[0], flags[-1]) == (0.0, 1.0)
    assert sum("the process return rose" in record.message for record in caplog.records) == 1


def test_stop_ends_the_training(scripted, row):
    trainer = scripted([row("1"), row("2")])
    trainer.args.load_best_model_at_end = True
    watch = AlarmWatch(trainer, AlarmOptions(alarm="stop"))
    first = trainer._metrics["train"]["alarm"]
    stopped = hacked(watch)
    assert stopped == list(range(first.index(1.0) + 1, 21))


def test_where_an_orm_alone_pays_its_reward_is_watched(scripted, row):
    watch = AlarmWatch(scripted([row("1"), row("2")]), AlarmOptions(), of_outcome=True)
    for update in range(1, 21):
        rising = min(1.0, max(0.0, (update - 8) / 5))
        found = batch(update, 0.0, 0.5 - 0.5 * rising + 0.05 * (update % 2))
        paid = 0.5 + 0.4 * rising + 0.01 * (update % 2)
        watch(replace(found, scored=[replace(row, outcome=paid) for row in found.scored]))
    assert watch.alarm.raised


def test_off_looks_away(run):
    assert all("alarm" in line for line in run() if "reward/process" in line)
    assert not any("alarm" in line for line in run(alarm=AlarmOptions(alarm="off")))


def test_a_run_that_is_stopped_keeps_the_best_policy(problems, model, arguments, monkeypatch, tmp_path):
    """The alarm is raised at the second update; the best evaluation was the one before the first."""
    from rlstep.policy.monitoring import setup as observers

    class Raised:
        raised = True

        def __init__(self, options):
            pass

        def observe(self, update, process, accuracy):
            return self if update == 2 else None

        def tell(self, args):
            pass

        state_dict = dict

        def load_state_dict(self, state):
            pass

    monkeypatch.setattr(observers, "HackingAlarm", Raised)
    evaluations = iter([0.5, 0.2, 0.1])

    def scored(self, *_, **__):
        return {"eval_accuracy": next(evaluations)}

    monkeypatch.setattr("rlstep.policy.trainer.StepPPOTrainer.evaluate", scored)
    args = arguments(
        max_steps=8, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, save_total_limit=1,
        load_best_model_at_end=True, metric_for_best_model="accuracy", num_iterations=1,
    )  # fmt: skip
    options = PPOOptions(problems, eval_problems=problems, reward=["checker"], missing_answer_reward=-1.0)
    ppo(options, LENIENT, AlarmOptions(alarm="stop"), RefreshOptions(), args, model)
    assert [line["step"] for line in lines(args.output_dir) if "loss" in line] == [1, 2]
    best = load_file(f"{args.output_dir}/checkpoint-1/adapter_model.safetensors")
    kept = load_file(f"{args.output_dir}/adapter_model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in best.items())


# --- The refresh.


def test_a_due_refresh_trains_logs_and_forgets_old_scores(scripted, row):
    class Refresher:
        seen, trained = [], []

        def observe(self, prompts, completions, references, judged, finished):
            self.seen.append((prompts, finished))

        def due(self, update):
            return update % 2 == 0

        def refresh(self, update):
            self.trained.append(update)
            return {"rows": 3, "loss_after": 0.5}

    class Cache:
        cleared = 0

        def clear(self):
            self.cleared += 1

    trainer, cache = scripted([row("1"), row("2")]), Cache()
    watch = RefreshWatch(trainer, Refresher(), Verifiers({}, {"prm": cache}))
    for update in range(1, 5):
        watch(batch(update, 0.5, 0.5, rows=2))
    assert (watch.refresher.trained, cache.cleared) == ([2, 4], 2)
    assert watch.refresher.seen[0] == (["p", "p"], [True, True])
    assert trainer._metrics["train"]["prm_refresh/rows"] == [3.0, 3.0]


@pytest.mark.parametrize("labels", ["checker", "monte_carlo", "teacher"])
def test_the_prm_is_refreshed_while_the_policy_trains(labels, run, arguments, prm_path, labelled, tmp_path):
    more = {"teacher": {"refresh_teacher": prm_path}, "monte_carlo": {"refresh_rollouts": 2}}.get(labels, {})
    refresh = RefreshOptions(refresh_every=1, refresh_labels=labels, refresh_replay=labelled, **more)
    found = [line for line in run(arguments(max_steps=4), refresh=refresh) if "prm_refresh/rows" in line]
    assert [line["update"] for line in found] == [1, 2]
    assert all(line["prm_refresh/rows"] + line["prm_refresh/rows_unlabelled"] > 0 for line in found)
    # The PRM as it was in the end loads like the one that it came from.
    saved = load_file(tmp_path / "out" / "prm" / "model.safetensors")
    before = load_file(f"{prm_path}/model.safetensors")
    assert RewardModel.from_pretrained(str(tmp_path / "out" / "prm")).kind == "prm"
    assert any(not torch.equal(saved[name], before[name]) for name in before) == any(
        line["prm_refresh/rows"] for line in found
    )


def test_a_refresh_without_a_prm_is_refused(problems, model, arguments):
    refresh = RefreshOptions(refresh_every=1)
    with pytest.raises(UserError, match="refresh_every trains the PRM, but reward is"):
        ppo(PPOOptions(problems), Guards(), AlarmOptions(), refresh, arguments(), model)


# --- Verifiers: on the policy's base, and on a server.


def test_an_adapter_on_the_policys_base_shares_it(adapter_path, problems, tiny_lm, arguments):
    from rlstep.policy.models import load_base

    options = PPOOptions(problems, reward=["prm"], prm=adapter_path)
    assert wants_base(options)
    args = arguments()
    base = load_base(tiny_lm, args)
    prm = load_verifiers(options, args, base, tiny_lm).models["prm"]
    shared = {p.data_ptr() for p in base.parameters()}
    assert sum(p.data_ptr() in shared for p in prm.model.parameters()) > 10
    alone = load_verifiers(options, args).models["prm"]
    assert not any(p.data_ptr() in shared for p in alone.model.parameters())


def test_sharing_can_be_left_off_and_whole_models_have_nothing_to_share(adapter_path, prm_path, problems):
    assert not wants_base(PPOOptions(problems, reward=["prm"], prm=adapter_path, share_base=False))
    assert not wants_base(PPOOptions(problems, reward=["prm"], prm=prm_path))
    assert not wants_base(PPOOptions(problems, reward=["prm"], prm="http://127.0.0.1:1"))


def test_a_base_that_is_another_one_is_said_and_not_shared(adapter_path, problems, tiny_lm, arguments, caplog):
    from rlstep.policy.models import load_base

    args = arguments()
    base = load_base(tiny_lm, args)
    found = load_verifiers(PPOOptions(problems, reward=["prm"], prm=adapter_path), args, base, adapter_path)
    assert "does not share the policy's base" in caplog.text
    assert found.models["prm"].kind == "prm"


@pytest.mark.parametrize("share", [True, False])
def test_a_policy_trains_beside_an_adapter_prm(share, run, adapter_path, arguments, tmp_path):
    run(arguments(advantage="gae"), prm=adapter_path, share_base=share)
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


def test_a_prm_on_a_server_pays_the_same(run, prm_path, arguments, tmp_path):
    from rlstep.stages.serve import ScoreServer

    here = [line["reward/process"] for line in run() if "reward/process" in line]
    server = ScoreServer("127.0.0.1", 0, "prm")
    server.open(RewardModel.from_pretrained(prm_path))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        there = [line["reward/process"] for line in run(prm=server.url) if "reward/process" in line]
    finally:
        server.shutdown()
        server.server_close()
    assert there == here


# --- Logs, and a run that is cut and continued with all of it.


def test_pages_of_completions_are_written_when_they_are_asked_for(run, arguments, tmp_path):
    run(arguments(max_steps=6), completion_table_every=2)
    pages = sorted(path.name for path in (tmp_path / "out" / "completions").iterdir())
    assert pages == ["00001.html", "00003.html"]
    run()
    assert not (tmp_path / "elsewhere" / "completions").exists()


def test_a_cut_run_continues_exactly_with_all_that_watches(run, arguments, labelled, tmp_path, monkeypatch):
    """A critic, a refreshed PRM, its score cache and the alarm, saved at every step and cut between the two updates of
    a batch: the weights are the uninterrupted run's to the last bit, and so is every line of the log."""
    from rlstep.policy.trainer import StepPPOTrainer

    def settings(name):
        return arguments(
            output_dir=str(tmp_path / name), advantage="gae", max_steps=8, save_strategy="steps", save_steps=1,
            save_total_limit=2,
        )  # fmt: skip

    more = {"refresh": RefreshOptions(refresh_every=2, refresh_replay=labelled, refresh_learning_rate=1e-2)}
    whole = run(settings("whole"), **more)

    class Killed(Exception):
        pass

    step = StepPPOTrainer.training_step

    def killed_at_five(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StepPPOTrainer, "training_step", killed_at_five)
        with pytest.raises(Killed):
            run(settings("cut"), **more)
    assert len(list((tmp_path / "cut").glob("checkpoint-*"))) == 2
    cut = run(settings("cut"), resume=True, **more)

    def lasting(rows):
        return [{k: v for k, v in row.items() if not k.endswith(WALL_CLOCK)} for row in rows if "loss" in row]

    assert lasting(cut) == lasting(whole)
    assert any("prm_refresh/rows" in row for row in cut)
    for name in ("adapter_model.safetensors", "critic.safetensors"):
        a, b = (load_file(tmp_path / folder / name) for folder in ("whole", "cut"))
        assert all(torch.equal(a[key], b[key]) for key in a)
