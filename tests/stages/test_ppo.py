import itertools
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import wandb
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import ModelConfig

from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.monitoring.curve import CURVE
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.runtime.checkpoints import read_state, write_state
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.ppo import ppo as ppo_stage
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Problem
from rlstep.tasks.small import small_model
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier
from tests.offline_runs import read_offline

# What an untrained policy writes has no answer, and is to be paid for all the same.
LENIENT = Guards(guard_no_answer=False, guard_min_steps=0)


def ppo(options, args, model, guards=None, alarm=None, refresh=None) -> dict:
    """The stage, with the defaults of what a test leaves out."""
    return ppo_stage(options, guards or Guards(), alarm or AlarmOptions(), refresh or RefreshOptions(), args, model)


@pytest.fixture
def arguments(ppo_arguments):
    return ppo_arguments


@pytest.fixture
def problems(task, tmp_path) -> str:
    write_rows(tmp_path / "problems.jsonl", [asdict(p) for p in task.problems("train", 8, seed=0)])
    return str(tmp_path / "problems.jsonl")


@pytest.fixture
def prm_path(tiny_lm, tokenizer, tmp_path) -> str:
    set_seed(1)
    new_verifier(tiny_lm, VerifierSpec("prm")).save_pretrained(tmp_path / "prm")
    tokenizer.save_pretrained(tmp_path / "prm")
    return str(tmp_path / "prm")


@pytest.fixture
def model(tiny_lm) -> ModelConfig:
    return ModelConfig(tiny_lm, dtype="float32", use_peft=True, lora_r=4, lora_target_modules=["all-linear"])


def curve(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / CURVE).read_text().splitlines()]


# --- A run.


def test_each_way_with_an_untrusted_prm_trains_another_policy(problems, prm_path, model, arguments, tmp_path):
    ways = {
        "plain": ({}, {}),
        "first error": (
            {"credit": "first_error", "credit_parameters": {"margin": "none"}, "first_error_threshold": 0.5},
            {"advantage": "mean_return"},
        ),
        "coherence": ({"credit": "coherence"}, {}),
        "centred": ({"credit": "coherence"}, {"centre_wrong": True, "step_baseline": "all"}),
        "filtered": ({}, {"keep_samples": 2}),
        "filtered by a PRM that pays nothing": ({"reward": ["outcome"]}, {"keep_samples": 2}),
    }
    weights = {}
    for name, (options, args) in ways.items():
        out = tmp_path / name
        chosen = PPOOptions(problems, **{"reward": ["prm", "outcome"], "prm": prm_path} | options)
        metrics = ppo(chosen, arguments(num_generations=4, output_dir=str(out), **args), model, LENIENT)
        assert metrics["samples"] == 4
        state = load_file(out / "adapter_model.safetensors")
        weights[name] = torch.cat([tensor.flatten() for _, tensor in sorted(state.items())])
    for a, b in itertools.combinations(weights, 2):
        assert not torch.equal(weights[a], weights[b]), (a, b)


def test_a_tag_that_is_a_special_token_of_the_policy_is_refused(problems, model, arguments, tiny_lm, tmp_path):
    """Completions are read without it, so that no step would end."""
    tokenizer, policy = AutoTokenizer.from_pretrained(tiny_lm), AutoModelForCausalLM.from_pretrained(tiny_lm)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<step>"]})
    policy.resize_token_embeddings(len(tokenizer))
    for part in (tokenizer, policy):
        part.save_pretrained(tmp_path / "tagged")
    new_verifier(tiny_lm, VerifierSpec("prm", boundary=Boundary("tag", "<step>"))).save_pretrained(tmp_path / "prm")
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path / "prm")
    options = PPOOptions(problems, reward=["prm"], prm=str(tmp_path / "prm"))
    with pytest.raises(UserError, match="prm has steps by tag '<step>', and .* special token '<step>'"):
        ppo(options, arguments(), replace(model, model_name_or_path=str(tmp_path / "tagged")))


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_a_prm_drives_two_updates(advantage, problems, prm_path, model, arguments, tmp_path):
    options = PPOOptions(problems, eval_problems=problems, reward=["prm", "outcome"], prm=prm_path)
    args = arguments(advantage=advantage, eval_strategy="steps", eval_steps=2, eval_on_start=True)
    metrics = ppo(options, args, model, LENIENT)
    out = tmp_path / "out"
    weights = load_file(out / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in weights.items() if "lora_B" in name)
    assert (out / "critic.safetensors").is_file() == (advantage == "gae")

    rows = curve(out)
    assert [(row["update"], row["samples"]) for row in rows] == [(0, 0), (1, 4)]
    assert all(0 <= row["clean_accuracy"] <= row["accuracy"] <= 1 for row in rows)
    assert (metrics["samples"], metrics["accuracy"]) == (4, rows[-1]["accuracy"])

    record = json.loads((out / "run.json").read_text())
    assert (record["stage"], record["seed"], record["metrics"]) == ("ppo", 42, metrics)
    assert record["config"]["prm"] == prm_path
    assert (record["config"]["advantage"], record["config"]["lora_r"]) == (advantage, 4)
    assert record["versions"]["trl"].startswith("1.16.")


UNGUARDED = Guards(
    guard_max_steps=None, guard_max_step_chars=None, guard_repeats=False, guard_filler=False, guard_restated=None,
    guard_after_answer=False, guard_no_answer=False, guard_min_steps=0, guard_reward_clip=None,
)  # fmt: skip
# With the PRM saying 0.625 of a first step, 0.125 of the second one, 0.5 of all others.
STEPS = ["reward/step_at_01", "reward/step_at_02", "reward/step_at_03"]


@pytest.mark.parametrize(
    ("changes", "steps", "outcome"),
    [
        # 2 p - 1
        ({"credit": "sum"}, [0.25, -0.75, 0.0], 0.0),
        ({"credit": "sum", "credit_parameters": {"centered": False}}, [0.625, 0.125, 0.5], 0.0),
        # min(p - eta, 0)
        ({"credit": "clip", "credit_parameters": '{"eta": 0.75}'}, [-0.125, -0.625, -0.25], 0.0),
        ({"credit": "sum", "process_weight": 2.0}, [0.5, -1.5, 0.0], 0.0),
        ({"credit": "sum", "source_weights": {"prm": 3}}, [0.75, -2.25, 0.0], 0.0),
        ({"credit": "sum", "first_error_threshold": 0.25}, [0.25, -0.75, None], 0.0),
        ({"credit": "sum", "missing_answer_reward": -0.5}, [0.25, -0.75, 0.0], -0.5),
        ({"credit": "sum", "missing_answer_reward": -0.5, "outcome_weight": 0.5}, [0.25, -0.75, 0.0], -0.25),
    ],
)
def test_what_is_paid_follows_from_the_prms_scores(
    changes, steps, outcome, problems, prm_path, model, arguments, monkeypatch, tmp_path
):
    """An untrained policy writes no answer, and among 16 completions of 32 tokens some of three steps and more."""
    scores = [0.625, 0.125, *[0.5] * 32]

    monkeypatch.setattr(
        RewardModel, "score", lambda self, prompts, texts, spans, cut=False: [scores[: len(s)] for s in spans]
    )
    args = arguments(per_device_train_batch_size=16, max_completion_length=32, max_steps=1)
    ppo(PPOOptions(problems, reward=["prm", "outcome"], prm=prm_path, **changes), args, model, UNGUARDED)
    line = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])
    assert [line.get(name) for name in STEPS] == pytest.approx(steps)
    assert line["reward/outcome"] == outcome
    assert line["completions/without_answer"] == 1


def test_a_killed_run_continues_and_repeats_no_row_of_its_curve(problems, model, arguments, tmp_path, monkeypatch):
    options = PPOOptions(problems, eval_problems=problems, resume=True)
    run = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    run |= {"save_strategy": "steps", "save_steps": 4}

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
            ppo(options, arguments(**run), model)
    before = curve(tmp_path / "out")
    assert [row["samples"] for row in before] == [0, 4, 8]
    assert not (tmp_path / "out" / "run.json").exists()

    ppo(options, arguments(**run), model)
    after = curve(tmp_path / "out")
    assert [row["samples"] for row in after] == [0, 4, 8, 12]
    assert after[:3] == before


def test_a_finished_run_that_is_resumed_reports_the_accuracy_of_its_checkpoint(problems, model, arguments, tmp_path):
    """Nothing is evaluated any more. In the history of the checkpoint stand numbers that no evaluation gave."""
    options = PPOOptions(problems, eval_problems=problems, resume=True)
    run = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4}
    ppo(options, arguments(**run), model)
    out = tmp_path / "out"
    written = (out / CURVE).read_text()
    path = out / "checkpoint-4" / "trainer_state.json"
    state = json.loads(path.read_text())
    for entry in state["log_history"]:
        if "eval_accuracy" in entry:
            entry |= {"eval_accuracy": entry["step"] / 8, "eval_clean_accuracy": entry["step"] / 16}
    path.write_text(json.dumps(state))

    metrics = ppo(options, arguments(**run), model)
    assert (metrics["accuracy"], metrics["clean_accuracy"]) == (0.5, 0.25)
    assert json.loads((out / "run.json").read_text())["metrics"] == metrics
    assert (out / CURVE).read_text() == written


def test_resume_without_a_checkpoint_starts_from_the_beginning(problems, model, arguments):
    assert ppo(PPOOptions(problems, resume=True), arguments(), model)["samples"] == 4


# --- wandb.


def test_wandb_is_left_alone_unless_it_is_asked_for(problems, model, arguments, monkeypatch, tmp_path):
    monkeypatch.setattr(wandb, "init", lambda *_, **__: pytest.fail("wandb.init was called"))
    monkeypatch.chdir(tmp_path)
    ppo(PPOOptions(problems), arguments(), model)
    assert not (tmp_path / "wandb").exists()


def test_wandb_offline_leaves_a_run(problems, model, arguments, wandb_folder, tmp_path):
    args = arguments(report_to="wandb", run_name="two updates", save_strategy="steps", save_steps=2)
    ppo(PPOOptions(problems), args, model)
    (tracked,) = read_offline(wandb_folder)
    assert (tracked.name, tracked.job_type, tracked.exit_code) == ("two updates", "ppo", 0)
    rewards = [row[name] for row in tracked.history for name in row if name == "train/rewards/outcome/mean"]
    assert rewards[-1] == 0.0
    # Not only the Trainer's arguments: rewards, credit, guards, the model.
    settings = {"problems", "process_weight", "credit", "guard_filler", "refresh_every", "alarm", "lora_r"}
    assert settings <= tracked.config.keys()
    (kept,) = (tmp_path / "out").glob("checkpoint-2/tracking.json")
    assert json.loads(kept.read_text())["id"] == tracked.id


# --- What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": ["prm"]}, "reward 'prm' needs prm: its folder"),
        ({"reward": ["prm", "prm"], "prm": "x"}, "name one source or several, each once"),
        ({"reward": []}, "name one source or several, each once"),
        (
            {"reward": ["prn"]},
            r"no reward 'prn' \(did you mean 'prm'\?\); there are prm, checker, implicit",
        ),
        ({"orm": "x"}, r"orm is given, but reward is \['outcome'\]"),
        ({"source_weights": {"prm": 1.0}}, "source_weights has 'prm', which is not a source"),
        ({"source_weights": {"outcome": "much"}}, "source_weights: outcome is 'much'; give a finite number"),
        ({"source_weights": "[1]"}, "source_weights .*as JSON"),
        ({"score_cache": -1}, "score_cache is -1"),
        ({"process_weight": float("nan")}, "process_weight is nan; it must be a finite number"),
        ({"missing_answer_reward": float("inf")}, "missing_answer_reward is inf"),
        ({"source_weights": {"outcome": 0}}, "leaves nothing to learn from"),
        ({"first_error_threshold": 5.0}, "first_error_threshold is 5.0; it must be at least 0 and at most 1"),
        ({"reward": ["checker"], "outcome_weight": 2.0}, "outcome_weight would do nothing"),
        ({"reward": ["implicit"], "implicit": "x", "credit": "delta"}, "gives rewards, not scores, so credit would do"),
        ({"outcome_weight": 0.0}, "leaves nothing to learn from"),
        ({"process_weight": 2.0}, "process_weight would do nothing"),
        ({"credit": "delta"}, "credit would do nothing"),
        ({"reward": ["prm"], "prm": "http://x:1", "share_base": False}, "share_base would do nothing, as the PRM and"),
        ({"credit_parameters": {"eta": 1}}, "credit_parameters would do nothing"),
        ({"first_error_threshold": 0.5}, "first_error_threshold would do nothing"),
        ({"reward": ["prm"], "prm": "x", "credit_parameters": "eta=0.7"}, "credit_parameters .*as JSON"),
        ({"reward": ["prm"], "prm": "x", "credit_parameters": "[1]"}, "credit_parameters .*as JSON"),
    ],
)
def test_options_that_do_not_go_together(changes, message):
    with pytest.raises(UserError, match=message):
        PPOOptions("problems.jsonl", **changes)


def test_an_evaluation_needs_problems(problems, model, arguments):
    with pytest.raises(UserError, match="eval_strategy is 'steps' but eval_problems is not given"):
        ppo(PPOOptions(problems), arguments(eval_strategy="steps", eval_steps=1), model)


def test_an_evaluation_at_the_start_needs_problems_too(problems, model, arguments):
    with pytest.raises(UserError, match="eval_on_start is true but eval_problems is not given"):
        ppo(PPOOptions(problems), arguments(eval_on_start=True), model)


def test_problems_that_nothing_would_be_evaluated_on_are_refused(problems, model, arguments):
    with pytest.raises(UserError, match="eval_problems is given, and nothing would be evaluated: set eval_strategy"):
        ppo(PPOOptions(problems, eval_problems=problems), arguments(), model)


def test_how_to_evaluate_does_nothing_without_problems(problems, model, arguments):
    how = {"per_device_eval_batch_size": 2, "num_generations_eval": 2}
    with pytest.raises(
        UserError, match="is null, so per_device_eval_batch_size, num_generations_eval would do nothing"
    ):
        ppo(PPOOptions(problems), arguments(**how), model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router_aux_loss_coef": 0.1}, "router_aux_loss_coef is 0.1, and .* is no mixture of experts"),
        ({"cast_lm_head_to_fp32": True}, "cast_lm_head_to_fp32 works where lm_head is not tied"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, "model_init_kwargs has dtype, which would override dtype"),
        ({"model_init_kwargs": {"revision": "v1"}}, "would override model_revision"),
        ({"model_init_kwargs": {"load_in_4bit": True}}, "policies are trained on whole weights"),
    ],
)
def test_settings_that_this_policy_cannot_follow_are_refused_before_its_weights_are_read(
    problems, model, arguments, monkeypatch, changes, message
):
    monkeypatch.setattr("rlstep.policy.start.load_base", None)
    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", None)
    with pytest.raises(UserError, match=message):
        ppo(PPOOptions(problems), arguments(**changes), model)


def test_fewer_problems_than_an_update_takes_are_refused(task, model, arguments, tmp_path):
    write_rows(tmp_path / "one.jsonl", [asdict(p) for p in task.problems("train", 1, seed=0)])
    with pytest.raises(UserError, match="has 1 problem, and an update takes 2 of them with 2 samples each"):
        ppo(PPOOptions(str(tmp_path / "one.jsonl")), arguments(), model)


@pytest.mark.parametrize("name", ["model_name_or_path", "prm"])
def test_a_run_is_not_written_over_what_it_reads(name, problems, prm_path, tiny_lm, arguments, tmp_path):
    """Its adapter would name the base that it has replaced, and checkpoints are rotated."""
    shutil.copytree(tiny_lm, tmp_path / "lm")
    shutil.copytree(tiny_lm, tmp_path / "run" / "checkpoint-3")
    path = {"model_name_or_path": str(tmp_path / "lm"), "prm": prm_path}[name]
    before = {file.name: file.read_bytes() for file in Path(path).iterdir()}
    options = PPOOptions(problems, reward=["prm", "outcome"], prm=prm_path)
    policy = ModelConfig(str(tmp_path / "lm"), dtype="float32", use_peft=True, lora_r=4)
    for out in (path, f"{path}/../{Path(path).name}"):
        with pytest.raises(UserError, match=f"which is {name} "):
            ppo(options, arguments(output_dir=out), policy)
    further = ModelConfig(str(tmp_path / "run" / "checkpoint-3"), dtype="float32", use_peft=True, lora_r=4)
    with pytest.raises(UserError, match="which has among its checkpoints model_name_or_path "):
        ppo(options, arguments(output_dir=str(tmp_path / "run")), further)
    assert {file.name: file.read_bytes() for file in Path(path).iterdir()} == before
    with pytest.raises(UserError, match="output_dir is .*, which is a file; give a folder"):
        ppo(options, arguments(output_dir=problems), policy)


def test_missing_files_are_named(problems, model, arguments, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        ppo(PPOOptions(str(tmp_path / "nowhere.jsonl")), arguments(), model)
    with pytest.raises(UserError, match="model_name_or_path is missing"):
        ppo(PPOOptions(problems), arguments(), ModelConfig(None))
    with pytest.raises(UserError, match="no-prm"):
        ppo(PPOOptions(problems, reward=["prm", "outcome"], prm=str(tmp_path / "no-prm")), arguments(), model)


def test_an_orm_cannot_pay_steps(problems, model, arguments, tiny_lm, tokenizer, tmp_path):
    new_verifier(tiny_lm, VerifierSpec("orm")).save_pretrained(tmp_path / "orm")
    tokenizer.save_pretrained(tmp_path / "orm")
    with pytest.raises(UserError, match="is an ORM"):
        ppo(PPOOptions(problems, reward=["prm", "outcome"], prm=str(tmp_path / "orm")), arguments(), model)


def test_a_prompt_longer_than_the_model_is_named(problems, arguments, tokenizer, tmp_path, model):
    small_model(tokenizer, hidden_size=32, layers=1, heads=2, max_positions=24).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    with pytest.raises(UserError, match="problem 'arithmetic-train-0-.*exceed the model's 24 positions"):
        ppo(PPOOptions(problems), arguments(), replace(model, model_name_or_path=str(tmp_path / "short")))


def test_problems_of_another_task_are_refused_before_training(arguments, model, tmp_path):
    write_rows(tmp_path / "other.jsonl", [asdict(Problem(f"p-{n}", "How many eggs?\n", "3")) for n in (1, 2)])
    with pytest.raises(UserError, match="problem 'p-1': not a prompt of the task arithmetic"):
        ppo(PPOOptions(str(tmp_path / "other.jsonl")), arguments(), model)


def test_credit_parameters_reach_the_scheme(problems, prm_path, model, arguments):
    options = PPOOptions(problems, reward=["prm", "outcome"], prm=prm_path, credit="clip")
    with pytest.raises(UserError, match="'clip' needs 'eta'"):
        ppo(options, arguments(), model)


def test_a_checkpoint_of_another_run_is_not_continued(problems, model, arguments):
    run = {"save_strategy": "steps", "save_steps": 1}
    ppo(PPOOptions(problems), arguments(**run), model)
    with pytest.raises(UserError, match=r"is from a run with missing_answer_reward 0.0 \(now -1.0\), beta 0.0 \(now"):
        ppo(PPOOptions(problems, missing_answer_reward=-1.0, resume=True), arguments(**run, beta=0.1), model)
    assert ppo(PPOOptions(problems, resume=True), arguments(**run | {"max_steps": 4}), model)["samples"] == 8


def test_a_checkpoint_of_an_older_version_is_compared_in_what_it_holds(problems, model, arguments, tmp_path):
    """It kept a list of settings under another name: without `warmup_steps`, for one."""
    run = {"save_strategy": "steps", "save_steps": 2}
    ppo(PPOOptions(problems), arguments(**run), model)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    state = read_state(checkpoint, "state_0")
    state["deciding"] = {name: state["identity"][name] for name in ("beta", "learning_rate", "lora_r", "problems")}
    del state["identity"]
    write_state(checkpoint, "state_0", state)
    longer = run | {"max_steps": 4}
    with pytest.raises(UserError, match=r"from a run with learning_rate 0.01 \(now 0.5\)\. Resume"):
        ppo(PPOOptions(problems, resume=True), arguments(**longer, learning_rate=0.5, warmup_steps=3), model)
    assert ppo(PPOOptions(problems, resume=True), arguments(**longer, warmup_steps=3), model)["samples"] == 8
    # The checkpoint that this run wrote holds the rest.
    longer["max_steps"] = 6
    with pytest.raises(UserError, match=r"from a run with warmup_steps 3 \(now 0\)\. Resume"):
        ppo(PPOOptions(problems, resume=True), arguments(**longer), model)


def test_a_verifier_that_is_too_short_is_said_before_training(problems, model, arguments, tokenizer, tmp_path):
    small_model(tokenizer, hidden_size=32, layers=1, heads=2, max_positions=28).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    new_verifier(str(tmp_path / "short"), VerifierSpec("prm")).save_pretrained(tmp_path / "short-prm")
    tokenizer.save_pretrained(tmp_path / "short-prm")
    options = PPOOptions(problems, reward=["prm"], prm=str(tmp_path / "short-prm"))
    with pytest.raises(UserError, match="the prm has 28 positions, and a prompt of .* exceeds them"):
        ppo(options, arguments(), model)
