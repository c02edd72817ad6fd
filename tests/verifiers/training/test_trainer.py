import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, TrainerCallback

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.orm import ORMConfig, orm
from rlstep.stages.prm import PRMConfig, prm
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution
from rlstep.verifiers.features import train_features
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.sampling import LengthGroupedSampler
from rlstep.verifiers.training.start import new_verifier
from rlstep.verifiers.training.trainer import ORMTrainer, PRMTrainer
from tests.offline_runs import read_offline

PRM = VerifierSpec("prm")


@pytest.fixture
def data(tmp_path, solutions) -> str:
    path = tmp_path / "labelled.jsonl"
    write_rows(path, (solution.to_row() for solution in solutions))
    return str(path)


def test_prm_learns_the_labels_it_is_shown(tiny_lm, solutions, arguments, tmp_path):
    trainer = PRMTrainer(tiny_lm, arguments(num_train_epochs=40, save_strategy="no", learning_rate=1e-2), solutions)
    trainer.train()
    trainer.save_model()
    verifier = RewardModel.from_pretrained(str(tmp_path / "out"))
    assert verifier.kind == "prm"
    values = verifier.score([s.prompt for s in solutions], [s.completion for s in solutions])
    for solution, scores in zip(solutions, values, strict=True):
        taught = solution.labels.index(0) + 1 if 0 in solution.labels else len(scores)
        assert [round(score) for score in scores[:taught]] == solution.labels[:taught]


def test_loss_is_the_mean_over_the_labelled_tokens_of_the_whole_batch(tiny_lm, solutions, arguments, tokenizer):
    """Two halves accumulated give the gradient of one batch, although they hold different numbers of labels."""

    def gradient(**sizes) -> torch.Tensor:
        seen = []

        class Keep(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, **_):
                seen.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())

        options = {"max_steps": 1, "save_strategy": "no", "max_grad_norm": 0.0, "train_sampling_strategy": "sequential"}
        PRMTrainer(tiny_lm, arguments(**options, **sizes), solutions, callbacks=[Keep()]).train()
        return seen[0]

    whole = gradient(per_device_train_batch_size=8)
    halves = gradient(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    counts = [len(f.targets) for f in train_features("prm", solutions, tokenizer, None)[0]]
    assert sum(counts[:4]) != sum(counts[4:8])
    torch.testing.assert_close(halves, whole, atol=1e-6, rtol=1e-4)


def test_labels_keep_their_type_under_deepspeed_and_bfloat16(tiny_lm, solutions, arguments, monkeypatch):
    """The Trainer casts all floats of a batch to the type of the weights; a soft label is no input of the model."""
    soft = [replace(s, labels=[0.7 if label else 0.1 for label in s.labels]) for s in solutions]
    trainer = PRMTrainer(tiny_lm, arguments(max_steps=1, save_strategy="no"), soft)
    batch = next(iter(trainer.get_train_dataloader()))
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    monkeypatch.setattr(AcceleratorState, "deepspeed_plugin", plugin)
    labels = trainer._prepare_inputs(batch)["labels"]
    assert {round(label, 6) for label in labels.tolist()} == {0.1, 0.7}


@pytest.mark.parametrize(("trainer_class", "kind"), [(PRMTrainer, "prm"), (ORMTrainer, "orm")])
def test_evaluation_is_that_of_a_pass_over_single_rows(tiny_lm, solutions, arguments, tokenizer, trainer_class, kind):
    trainer = trainer_class(tiny_lm, arguments(per_device_eval_batch_size=5), None, solutions)
    actual = trainer.evaluate()
    features, _ = train_features(kind, solutions, tokenizer, None)
    margins, finals = [], []
    with torch.no_grad():
        for feature in features:
            logits_T2 = trainer.model(feature.ids[None]).logits[0]
            margins.append((logits_T2[:, 1] - logits_T2[:, 0])[feature.positions])
            finals.append((margins[-1][-1] >= 0) == (feature.targets[-1] >= 0.5))
    targets = torch.cat([feature.targets for feature in features])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.cat(margins), targets)
    assert actual["eval_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert actual["eval_positions"] == len(targets)
    assert actual["eval_accuracy"] == pytest.approx(
        ((torch.cat(margins) >= 0) == (targets >= 0.5)).float().mean().item()
    )
    right, wrong = torch.cat(margins)[targets >= 0.5], torch.cat(margins)[targets < 0.5]
    pairs = (right[:, None] > wrong).float() + 0.5 * (right[:, None] == wrong)
    assert actual["eval_auroc"] == pytest.approx(pairs.mean().item(), abs=1e-4)
    if kind == "orm":
        assert actual["eval_final_accuracy"] == pytest.approx(np.mean(finals))


@pytest.mark.parametrize(("stage", "config", "kind"), [(prm, PRMConfig, "prm"), (orm, ORMConfig, "orm")])
def test_stage_leaves_a_plain_checkpoint_and_its_record(stage, config, kind, tiny_lm, data, arguments, tmp_path):
    metrics = stage(config(tiny_lm, data, eval_data=data), arguments())
    out = tmp_path / "out"
    loaded = AutoModelForTokenClassification.from_pretrained(out)
    assert VerifierSpec.from_config(str(out), loaded.config) == VerifierSpec(kind, prompts=PromptFormat("text"))
    assert loaded.dtype == torch.float32
    record = json.loads((out / "run.json").read_text())
    assert record["stage"] == kind
    assert record["metrics"] == metrics
    assert metrics["rows"] == 12
    assert {"positions", "train_loss", "eval_accuracy", "eval_balanced_accuracy", "eval_auroc"} <= set(metrics)


@pytest.fixture
def callbacks(monkeypatch) -> list[TrainerCallback]:
    """Callbacks added here reach the stage's trainer."""
    added: list[TrainerCallback] = []
    plain = PRMTrainer.__init__
    monkeypatch.setattr(PRMTrainer, "__init__", lambda self, *args: plain(self, *args, callbacks=[*added]))
    return added


class Kill(TrainerCallback):
    """Dies in the middle of the second epoch, after a checkpoint was written."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5:
            raise KeyboardInterrupt


def losses(folder: Path) -> list[float]:
    """Of the log lines and of the whole training."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history] + [
        json.loads((folder / "run.json").read_text())["metrics"]["train_loss"]
    ]


def test_resumed_run_ends_with_the_same_weights_and_logs(tiny_lm, data, arguments, callbacks, tmp_path):
    def run(out, resume=False) -> dict[str, torch.Tensor]:
        args = arguments(
            output_dir=str(tmp_path / out), num_train_epochs=3, save_strategy="steps", save_steps=4, logging_steps=3
        )
        prm(PRMConfig(tiny_lm, data, resume=resume), args)
        return AutoModelForTokenClassification.from_pretrained(tmp_path / out).state_dict()

    whole = run("whole")
    callbacks.append(Kill())
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    callbacks.clear()
    resumed = run("cut", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len(losses(tmp_path / "whole")) > 2
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.parametrize(("stage", "config"), [(prm, PRMConfig), (orm, ORMConfig)])
def test_a_checkpoint_of_another_run_is_not_continued(stage, config, tiny_lm, data, arguments):
    run = {"num_train_epochs": 1, "save_strategy": "epoch"}
    stage(config(tiny_lm, data), arguments(**run))
    with pytest.raises(UserError, match=r"is from a run with boundary 'line' \(now 'sentence'\), learning_rate"):
        stage(config(tiny_lm, data, boundary="sentence", resume=True), arguments(**run, learning_rate=0.5))
    stage(config(tiny_lm, data, resume=True), arguments(**run | {"num_train_epochs": 2}))


def test_lora_is_merged_into_a_plain_checkpoint(tiny_lm, data, arguments, tmp_path):
    args = arguments(num_train_epochs=2, save_strategy="no", learning_rate=1e-2)
    prm(PRMConfig(tiny_lm, data, use_peft=True, lora_r=4), args)
    out = tmp_path / "out"
    assert not (out / "adapter_config.json").exists()
    trained, start = AutoModelForTokenClassification.from_pretrained(out), new_verifier(tiny_lm, PRM)
    assert set(trained.state_dict()) == set(start.state_dict())
    changed = {n for n, w in trained.state_dict().items() if not torch.equal(w, start.state_dict()[n])}
    assert {"score.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"} <= changed
    assert "model.embed_tokens.weight" not in changed
    assert RewardModel.from_pretrained(str(out)).kind == "prm"


def test_a_new_head_is_trained_in_float32_on_a_backbone_in_bfloat16(tiny_lm, data, arguments, callbacks, tmp_path):
    config = PRMConfig(tiny_lm, data, use_peft=True, dtype="bfloat16")
    types = {}

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **_):
            types.update({name: weight.dtype for name, weight in model.named_parameters()})

    callbacks.append(Look())
    prm(config, arguments(max_steps=3, save_strategy="no", learning_rate=1e-5))
    assert {t for name, t in types.items() if "modules_to_save" in name} == {torch.float32}
    assert types["base_model.model.model.embed_tokens.weight"] == torch.bfloat16
    saved = AutoModelForTokenClassification.from_pretrained(tmp_path / "out", dtype="auto")
    assert {weight.dtype for weight in saved.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("head", ["classification", "token"])
def test_an_adapter_that_is_not_merged_scores_as_the_merged_one(head, tiny_lm, data, arguments, solutions, tmp_path):
    values, metrics = {}, {}
    for merge in (True, False):
        args = arguments(output_dir=str(tmp_path / str(merge)), num_train_epochs=3, learning_rate=1e-2)
        config = PRMConfig(tiny_lm, data, eval_data=data, use_peft=True, lora_r=4, head=head, merge_adapter=merge)
        metrics[merge] = prm(config, args)
        verifier = RewardModel.from_pretrained(args.output_dir)
        values[merge] = sum(verifier.score([s.prompt for s in solutions], [s.completion for s in solutions]), [])
    assert values[False] == pytest.approx(values[True], abs=1e-5)
    assert np.std(values[True]) > 0.001
    out = tmp_path / "False"
    assert not list(out.glob("model*"))
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json", "run.json"} <= {
        path.name for path in out.iterdir()
    }
    assert metrics[False]["eval_loss"] == metrics[True]["eval_loss"]
    # The run's last checkpoint is a verifier, too, and the same one.
    (checkpoint,) = out.glob("checkpoint-*")
    last = RewardModel.from_pretrained(str(checkpoint))
    assert sum(last.score([s.prompt for s in solutions], [s.completion for s in solutions]), []) == values[False]


def test_an_orm_can_be_an_adapter_and_an_implicit_prm_cannot(tiny_lm, data, arguments, tmp_path):
    orm(ORMConfig(tiny_lm, data, use_peft=True, merge_adapter=False), arguments(max_steps=1, save_strategy="no"))
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    assert RewardModel.from_pretrained(str(tmp_path / "out")).kind == "orm"
    with pytest.raises(UserError, match="not for loss: implicit, whose checkpoint is two whole models"):
        ORMConfig(tiny_lm, data, loss="implicit", use_peft=True, merge_adapter=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_adapter_ends_with_the_same_weights(dtype, tiny_lm, data, arguments, callbacks, tmp_path):
    def run(out, resume=False) -> dict[str, torch.Tensor]:
        args = arguments(output_dir=str(tmp_path / out), num_train_epochs=3, save_strategy="steps", save_steps=4)
        config = PRMConfig(tiny_lm, data, use_peft=True, lora_r=4, merge_adapter=False, dtype=dtype, resume=resume)
        prm(config, args)
        return load_file(tmp_path / out / "adapter_model.safetensors")

    whole = run("whole")
    callbacks.append(Kill())
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    callbacks.clear()
    assert not (tmp_path / "cut" / "adapter_config.json").exists()
    resumed = run("cut", resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_folder_holds_one_verifier(tiny_lm, data, arguments, tmp_path):
    """A run into the folder of another one leaves nothing that would be read in its place."""
    out = tmp_path / "out"
    actual = []
    for options in ({}, {"use_peft": True, "merge_adapter": False}, {"use_peft": True}, {}):
        prm(PRMConfig(tiny_lm, data, **options), arguments(max_steps=1, save_strategy="no"))
        actual.append(sorted(path.name for path in out.glob("*.safetensors")))
        assert (out / "adapter_config.json").exists() == ("merge_adapter" in options)
        assert RewardModel.from_pretrained(str(out)).kind == "prm"
    assert actual == [
        ["model.safetensors"],
        ["adapter_model.safetensors"],
        ["model.safetensors"],
        ["model.safetensors"],
    ]


def test_an_adapter_needs_a_base_that_stays(tiny_lm, data, arguments, tmp_path):
    with pytest.raises(UserError, match="use_peft is false, so merge_adapter would do nothing"):
        PRMConfig(tiny_lm, data, merge_adapter=False)
    lora = {"use_peft": True, "merge_adapter": False}
    with pytest.raises(UserError, match="output_dir is the base itself"):
        prm(PRMConfig(tiny_lm, data, **lora), arguments(output_dir=tiny_lm))
    prm(PRMConfig(tiny_lm, data, **lora), arguments(max_steps=1, save_strategy="no"))


@pytest.mark.parametrize("name", ["lora_r", "lora_alpha", "lora_target_modules"])
def test_lora_options_without_lora_are_refused(name):
    with pytest.raises(UserError, match=f"use_peft is false, so {name} would do nothing"):
        PRMConfig("model", "data", **{name: 4})


@pytest.mark.parametrize("name", ["lora_r", "lora_alpha"])
def test_lora_sizes_are_positive(name):
    with pytest.raises(UserError, match=f"{name} is 0; it must be at least 1"):
        PRMConfig("model", "data", use_peft=True, **{name: 0})


def test_lora_options_reach_the_adapter(tiny_lm, data, arguments, tmp_path):
    lora = {"use_peft": True, "lora_r": 3, "lora_alpha": 7, "lora_target_modules": ["q_proj"]}
    prm(PRMConfig(tiny_lm, data, merge_adapter=False, **lora), arguments(max_steps=1, save_strategy="no"))
    saved = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["target_modules"]) == (3, 7, ["q_proj"])


def test_data_that_teaches_nothing_is_refused(tiny_lm, solutions, arguments):
    with pytest.raises(UserError, match="no labelled position: it has no rows"):
        PRMTrainer(tiny_lm, arguments(), [])
    for solution in solutions:
        solution.labels = [None] * len(solution.steps)
    with pytest.raises(UserError, match=r"no labelled position \(dropped: \{'rows_unlabelled': 12\}\)"):
        PRMTrainer(tiny_lm, arguments(), solutions)
    for solution in solutions:
        solution.labels = [1] * len(solution.steps)
    with pytest.raises(UserError, match="every label of the training data is 1"):
        PRMTrainer(tiny_lm, arguments(), solutions)


def test_one_class_in_evaluation_is_a_warning(tiny_lm, solutions, arguments, caplog):
    right = [solution for solution in solutions if solution.correct]
    trainer = ORMTrainer(tiny_lm, arguments(), solutions, right)
    with caplog.at_level(logging.WARNING):
        assert "eval_auroc" not in trainer.evaluate()
    assert "labels of one kind only" in caplog.text


def test_dropped_steps_are_told(tiny_lm, solutions, arguments, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = PRMTrainer(tiny_lm, arguments(max_length=30), solutions)
    dropped = trainer.train_counts["positions_too_long"]
    assert dropped > 0
    assert f"dropped {dropped} positions_too_long" in caplog.text
    assert all(len(feature.ids) <= 30 for unit in trainer.train_dataset for feature in unit)


@pytest.mark.parametrize("trainer_class", [PRMTrainer, ORMTrainer])
def test_an_evaluation_leaves_out_what_it_cannot_judge_whole(tiny_lm, tokenizer, solutions, arguments, trainer_class):
    """Of a solution that is cut off neither the first error nor the value at its end is known."""

    def length(solution) -> int:
        (feature,), _ = train_features(trainer_class.kind, [solution], tokenizer, None, keep_unknown=True)
        return len(feature.ids)

    limit = sorted(map(length, solutions))[len(solutions) // 2]
    kept = [solution for solution in solutions if length(solution) <= limit]
    cut = trainer_class(tiny_lm, arguments(max_length=limit), None, solutions)
    assert cut.eval_counts["rows_too_long"] == len(solutions) - len(kept) > 0
    expected = trainer_class(cut.model, arguments(), None, kept).evaluate()
    timed = ("time", "per_second")
    actual = {name: value for name, value in cut.evaluate().items() if not any(word in name for word in timed)}
    assert {"eval_positions", "eval_accuracy"} <= set(actual)
    assert actual == pytest.approx({name: expected[name] for name in actual})


@pytest.mark.parametrize(
    ("completion", "rule", "told"),
    [
        ("So\n\\[\nx = 1\n\\]\nAnswer: 1", "math_line", "set boundary: math_line, which gives theirs"),
        ("a\nb\n\nc\nd", "blank_line", "set boundary: blank_line, which gives theirs"),
        ("a;b;c", "tag", "no other boundary gives theirs"),
        ("a\nb", "line", None),
    ],
)
def test_other_steps_than_the_boundarys_are_told(tiny_lm, arguments, tmp_path, caplog, completion, rule, told):
    steps = Boundary(rule, ";" if rule == "tag" else None).split(completion)
    row = Solution("p", "?", completion, "1", steps=steps, labels=[1] * (len(steps) - 1) + [0])
    write_rows(tmp_path / "rows.jsonl", [replace(row, sample=k).to_row() for k in range(4)])
    prm(PRMConfig(tiny_lm, str(tmp_path / "rows.jsonl")), arguments(max_steps=1))
    said = [record.getMessage() for record in caplog.records if "other steps than boundary line" in record.getMessage()]
    assert [message.partition("as in ppo; ")[2] for message in said] == ([told] if told else [])


def test_evaluation_schedule_needs_data(tiny_lm, data, arguments):
    with pytest.raises(UserError, match="eval_strategy is 'epoch'"):
        prm(PRMConfig(tiny_lm, data), arguments(eval_strategy="epoch"))


def test_a_model_with_other_labels_is_refused(tiny_lm, solutions, arguments):
    model = AutoModelForTokenClassification.from_pretrained(tiny_lm, num_labels=3)
    with pytest.raises(UserError, match="3 labels"):
        PRMTrainer(model, arguments(), solutions)


def test_a_run_is_not_written_over_what_it_reads(tiny_lm, data, arguments, tmp_path):
    shutil.copytree(tiny_lm, tmp_path / "lm")
    with pytest.raises(UserError, match="output_dir is .*lm, which is model_name_or_path"):
        prm(PRMConfig(str(tmp_path / "lm"), data), arguments(output_dir=str(tmp_path / "lm")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_smoothing_factor", 0.1),
        ("prediction_loss_only", True),
        ("max_length", 0),
        ("learning_rate", -1.0),
        ("max_steps", 0),
        ("optim_args", "rank=4"),
    ],
)
def test_arguments_that_would_do_nothing_are_refused(arguments, name, value):
    with pytest.raises(UserError, match=name):
        arguments(**{name: value})


def test_wandb_offline(tiny_lm, data, arguments, wandb_folder):
    prm(PRMConfig(tiny_lm, data, eval_data=data), arguments(report_to="wandb", max_steps=1))
    (tracked,) = read_offline(wandb_folder)
    names = {"eval/auroc", "eval/ece", "eval/first_error_exact", "eval/min_is_last", "eval/reliability"}
    assert names <= {name.split("/_type")[0] for row in tracked.history for name in row}
    assert (tracked.job_type, tracked.exit_code) == ("prm", 0)


def test_wandb_is_untouched_by_default(tiny_lm, data, arguments, monkeypatch):
    def touched(*_, **__):
        raise AssertionError("wandb.init was called")

    monkeypatch.setattr("wandb.init", touched)
    assert VerifierArguments(output_dir="x").report_to == []
    prm(PRMConfig(tiny_lm, data), arguments(max_steps=1, save_strategy="no"))


def test_sampler_groups_lengths_and_shuffles_groups():
    lengths = [int(x) for x in np.random.default_rng(0).integers(10, 100, 403)]
    sampler = LengthGroupedSampler(lengths, group=8, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(403))
    batches = [[lengths[i] for i in first[start : start + 8]] for start in range(0, 400, 8)]
    assert np.mean([max(batch) - min(batch) for batch in batches]) < 10
    means = [np.mean(batch) for batch in batches]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert first != list(LengthGroupedSampler(lengths, group=8, seed=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_strategy": "epoch"}, "eval_strategy is 'epoch' but eval_data is not given"),
        ({"eval_on_start": True}, "eval_on_start is true but eval_data is not given"),
        ({"per_device_eval_batch_size": 8}, "eval_data is null, so per_device_eval_batch_size would do nothing"),
        (
            {"bf16_full_eval": True, "eval_accumulation_steps": 2},
            "_steps, bf16_full_eval would do nothing; set eval_data, or leave them at null, false",
        ),
    ],
)
def test_evaluations_and_what_they_read_go_together(tiny_lm, data, arguments, changes, message):
    with pytest.raises(UserError, match=message):
        prm(PRMConfig(tiny_lm, data), arguments(**changes))
