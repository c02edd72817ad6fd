"""The alarm, the refresh and the logs, wired to the trainer and through the `ppo` stage."""

import json
from dataclasses import asdict
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed
from trl import ModelConfig

from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.sources import load_verifiers, wants_base
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.runtime.errors import UserError
from rlstep.runtime.resume import WALL_CLOCK
from rlstep.runtime.rows import write_rows
from rlstep.stages.ppo import ppo
from rlstep.stages.prm import PRMConfig
from rlstep.stages.prm import prm as prm_stage
from rlstep.steps.records import read_solutions
from rlstep.tasks.arithmetic import Arithmetic
from rlstep.tasks.base import Check, checked
from rlstep.tasks.small import small_model
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.start import new_verifier

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


# --- The alarm.

# The example that test_alarms.py works out by hand: of these six updates the last one raises it.
PROCESS, ACCURACY = [1, 3, 1, 3, 8, 10], [1, 0.75, 1, 0.75, 0.25, 0]
SENSITIVE = {"alarm_window": 4, "alarm_rise": 3.9, "alarm_fall": 3.2}
UNGUARDED = Guards(
    guard_max_steps=None, guard_max_step_chars=None, guard_repeats=False, guard_filler=False, guard_restated=None,
    guard_after_answer=False, guard_no_answer=False, guard_min_steps=0, guard_reward_clip=None,
)  # fmt: skip


@pytest.fixture
def hacking(problems, model, arguments, monkeypatch):
    """Runs the stage on batches of four completions whose steps and answers are checked as `PROCESS` and `ACCURACY`
    say, whatever the policy wrote; returns its lines of metrics."""
    checked_rows, tried = [], 0

    def check(self, prompt, completion, reference) -> Check:
        update, row = divmod(len(checked_rows) - tried, 4)
        checked_rows.append(completion)
        if update < 0:
            return Check([], [], None, False)
        update = min(update, len(PROCESS) - 1)
        # `sum` pays 1 for a right step.
        steps = [(0, len(completion))] * PROCESS[update]
        return Check(steps, [1] * len(steps), "1", row < 4 * ACCURACY[update])

    monkeypatch.setattr(Arithmetic, "check", check)

    def make(alarm: AlarmOptions, options=None, **args) -> list[dict]:
        nonlocal tried
        tried = 8 * (1 + ("eval_problems" in (options or {})))  # the stage tries the checker on each problem first
        options = {"reward": ["checker"], "credit": "sum"} | (options or {})
        args = arguments(**{"num_iterations": 1, "max_steps": 8} | args)
        ppo(PPOOptions(problems, **options), UNGUARDED, alarm, RefreshOptions(), args, model)
        actual = [line for line in lines(args.output_dir) if "loss" in line]
        assert [line["accuracy"] for line in actual[:6]] == ACCURACY[: len(actual)]
        return actual

    return make


def test_the_alarm_is_logged_and_says_what_it_saw(hacking, caplog):
    actual = hacking(AlarmOptions(**SENSITIVE))
    assert [line["reward/process"] for line in actual[:6]] == PROCESS
    assert [line["alarm"] for line in actual] == [0, 0, 0, 0, 0, 1, 1, 1]  # it warns, and the training goes on
    told = [record.message for record in caplog.records if "the process return rose" in record.message]
    assert len(told) == 1
    assert "update 6: the process return rose from 2 to 9" in told[0]


def test_where_an_orm_alone_pays_its_reward_is_watched(hacking, tiny_lm, tokenizer, monkeypatch, tmp_path):
    new_verifier(tiny_lm, VerifierSpec("orm")).save_pretrained(tmp_path / "orm")
    tokenizer.save_pretrained(tmp_path / "orm")
    asked = []

    def score(self, prompts, completions, steps, cut=False):
        asked.append(completions)
        return [[PROCESS[min(len(asked), 6) - 1] / 10] * len(spans) for spans in steps]

    monkeypatch.setattr(RewardModel, "score", score)
    options = {"reward": ["orm"], "orm": str(tmp_path / "orm"), "score_cache": 0, "credit": "min_form"}
    actual = hacking(AlarmOptions(**SENSITIVE), options, max_steps=6)
    assert [line["reward/outcome"] for line in actual] == pytest.approx([value / 10 for value in PROCESS])
    assert [line["alarm"] for line in actual] == [0, 0, 0, 0, 0, 1]


def test_off_looks_away(hacking):
    assert not any("alarm" in line for line in hacking(AlarmOptions(alarm="off"), max_steps=6))


def test_a_run_that_is_stopped_ends_and_keeps_the_best_policy(hacking, problems, arguments, monkeypatch, tmp_path):
    """The alarm is raised at the sixth update; the best evaluation was the one after the second."""
    evaluations = chain([0.5, 0.9], repeat(0.1))
    monkeypatch.setattr(StepPPOTrainer, "evaluate", lambda self, *_, **__: {"eval_accuracy": next(evaluations)})
    actual = hacking(
        AlarmOptions(alarm="stop", **SENSITIVE), {"reward": ["checker", "outcome"], "eval_problems": problems},
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, save_total_limit=2,
        load_best_model_at_end=True, metric_for_best_model="accuracy",
    )  # fmt: skip
    assert [line["step"] for line in actual] == [1, 2, 3, 4, 5, 6]
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-6"]
    best, last, kept = (
        load_file(folder / "adapter_model.safetensors") for folder in (out / "checkpoint-2", out / "checkpoint-6", out)
    )
    assert all(torch.equal(kept[name], tensor) for name, tensor in best.items())
    assert any(not torch.equal(kept[name], tensor) for name, tensor in last.items())


# --- Completions that are too long for the PRM.


def test_a_run_goes_on_with_completions_that_the_prm_cannot_read_whole(
    run, arguments, byte_tokenizer, problems, tmp_path, caplog
):
    """A PRM with one token per byte, which the policy's are not, and no position more than prompt and completion have
    if they were."""
    rows = [json.loads(line) for line in Path(problems).read_text(encoding="utf-8").splitlines()]
    folder, longest = tmp_path / "bytes", max(len(row["prompt"]) for row in rows)
    size = {"hidden_size": 32, "layers": 1, "heads": 2, "max_positions": longest + 24}
    small_model(byte_tokenizer, **size).save_pretrained(folder)
    new_verifier(str(folder), VerifierSpec("prm")).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    args = arguments(max_steps=2, num_iterations=1, max_completion_length=24)
    actual = [line for line in run(args, prm=str(folder)) if "loss" in line]
    assert len(actual) == 2
    assert all(0 < line["completions/cut"] <= 1 for line in actual)
    (told,) = [record.message for record in caplog.records if "in the verifier's own tokens" in record.message]
    assert f"for the prm ({longest + 24} positions)" in told
    assert "Lower max_completion_length" in told


def test_completions_that_fit_are_not_cut_and_nothing_is_said(run, arguments, caplog):
    (line,) = [line for line in run(arguments(max_steps=1)) if "loss" in line]
    assert line["completions/cut"] == 0
    assert "too long" not in caplog.text


# --- The refresh.


def test_a_refresh_comes_when_it_is_due_and_old_scores_are_forgotten(run, arguments, task, tmp_path, monkeypatch):
    """Two problems, always answered alike: the PRM is asked for their scores once before a refresh and once after."""
    write_rows(tmp_path / "problems.jsonl", [asdict(p) for p in task.problems("train", 2, seed=0)])
    asked, plain = [], RewardModel.score
    monkeypatch.setattr(RewardModel, "score", lambda self, *rows: asked.append(len(rows[0])) or plain(self, *rows))
    args = arguments(max_steps=4, num_iterations=1, top_k=1, learning_rate=1e-12)
    actual = [line for line in run(args, refresh=RefreshOptions(refresh_every=2)) if "loss" in line]
    assert [line["update"] for line in actual if "prm_refresh/rows" in line] == [2, 4]
    # Of each problem's two equal samples one is asked for.
    assert asked == [2, 2]


@pytest.mark.parametrize("labels", ["checker", "monte_carlo", "teacher"])
def test_the_prm_is_refreshed_while_the_policy_trains(labels, run, arguments, prm_path, labelled, tmp_path):
    more = {"teacher": {"refresh_teacher": prm_path}, "monte_carlo": {"refresh_rollouts": 2}}.get(labels, {})
    refresh = RefreshOptions(refresh_every=1, refresh_labels=labels, refresh_replay=labelled, **more)
    actual = [line for line in run(arguments(max_steps=4), refresh=refresh) if "prm_refresh/rows" in line]
    assert [line["update"] for line in actual] == [1, 2]
    assert all(line["prm_refresh/rows"] > 0 for line in actual)
    # The PRM as it was in the end loads like the one that it came from.
    saved = load_file(tmp_path / "out" / "prm" / "model.safetensors")
    before = load_file(f"{prm_path}/model.safetensors")
    assert RewardModel.from_pretrained(str(tmp_path / "out" / "prm")).kind == "prm"
    assert any(not torch.equal(saved[name], before[name]) for name in before)


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


def test_no_base_is_loaded_to_be_shared_under_zero_3(adapter_path, problems, zero_3, caplog):
    options = PPOOptions(problems, reward=["prm"], prm=adapter_path)
    zero_3()
    assert not wants_base(options)
    assert "verifiers are on bases of their own" in caplog.text


def test_a_base_that_is_another_one_is_said_and_not_shared(adapter_path, problems, tiny_lm, arguments, caplog):
    from rlstep.policy.models import load_base

    args = arguments()
    base = load_base(tiny_lm, args)
    actual = load_verifiers(PPOOptions(problems, reward=["prm"], prm=adapter_path), args, base, adapter_path)
    assert "does not share the policy's base" in caplog.text
    assert actual.models["prm"].kind == "prm"


@pytest.mark.parametrize("share", [True, False])
def test_a_policy_trains_beside_an_adapter_prm(share, run, adapter_path, arguments, tmp_path):
    run(arguments(advantage="gae", critic="adapter"), prm=adapter_path, share_base=share)
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


def test_a_prm_on_a_server_pays_the_same(run, prm_path, arguments, tmp_path):
    from tests.verifiers.serving.servers import serving

    here = [line["reward/process"] for line in run() if "reward/process" in line]
    with serving(RewardModel.from_pretrained(prm_path)) as server:
        there = [line["reward/process"] for line in run(prm=server.url) if "reward/process" in line]
    assert there == here
    assert any(here)


# --- Logs, and a run that is cut and continued with all of it.


def test_pages_of_completions_are_written_when_they_are_asked_for(run, arguments, tmp_path):
    run(arguments(max_steps=6), completion_table_every=2)
    pages = sorted(path.name for path in (tmp_path / "out" / "completions").iterdir())
    assert pages == ["00001.html", "00003.html"]
    written = read_solutions(tmp_path / "out" / "completions.jsonl")
    # All four completions of both batches, whose problems are in the order of sampling; the PRM scored each step.
    assert [(one.problem_id, one.sample) for one in written] == [
        (f"update-{update}-problem-{problem}", sample) for update in (1, 3) for problem in (0, 1) for sample in (0, 1)
    ]
    assert all(len(one.scores["prm"]) == len(one.steps) == len(one.labels) for one in written)
    assert all(len({one.prompt for one in written[k : k + 2]}) == 1 for k in range(0, 8, 2))
    run(arguments(output_dir=str(tmp_path / "plain")))
    assert (tmp_path / "plain" / "metrics.jsonl").is_file()
    assert not list(tmp_path.glob("plain/**/*.html"))
    assert not (tmp_path / "plain" / "completions.jsonl").exists()


def test_a_cut_run_continues_exactly_with_all_that_watches(run, arguments, labelled, tmp_path, monkeypatch):
    """A critic, a refreshed PRM, its score cache and the alarm, saved at every step and cut between the two updates of
    a batch: the weights are the uninterrupted run's to the last bit, and so is every line of the log and every
    completion that was kept."""

    def settings(name):
        return arguments(
            output_dir=str(tmp_path / name), advantage="gae", max_steps=8, save_strategy="steps", save_steps=1,
            save_total_limit=2,
        )  # fmt: skip

    more = {"refresh": RefreshOptions(refresh_every=2, refresh_replay=labelled, refresh_learning_rate=1e-2)}
    more["completion_table_every"] = 1
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
    kept_whole, kept_cut = ((tmp_path / name / "completions.jsonl").read_text() for name in ("whole", "cut"))
    assert kept_cut == kept_whole
    assert kept_whole.count("\n") == 16  # four batches of four
    for name in ("adapter_model.safetensors", "critic.safetensors"):
        a, b = (load_file(tmp_path / folder / name) for folder in ("whole", "cut"))
        assert all(torch.equal(a[key], b[key]) for key in a)
