import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import ModelConfig, SFTTrainer

from rlstep.cli import main
from rlstep.runtime import checkpoints
from rlstep.runtime.errors import UserError
from rlstep.runtime.resume import WALL_CLOCK
from rlstep.runtime.rows import write_rows
from rlstep.stages.sft import SFTArguments, SFTOptions, sft
from rlstep.steps.records import Solution


@pytest.fixture
def options(task, tmp_path) -> SFTOptions:
    write_rows(tmp_path / "demonstrations.jsonl", (s.to_row() for s in task.demonstrations(24, seed=0)))
    return SFTOptions(data=str(tmp_path / "demonstrations.jsonl"))


@pytest.fixture
def arguments(tmp_path):
    def make(**changes) -> SFTArguments:
        plain = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-3,
            "gradient_checkpointing": False,
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "save_strategy": "no",
            "logging_steps": 1,
        }
        return SFTArguments(**(plain | changes))

    return make


@pytest.fixture
def model(tiny_lm) -> ModelConfig:
    return ModelConfig(model_name_or_path=tiny_lm, dtype="float32")


@pytest.fixture
def callbacks(monkeypatch) -> list[TrainerCallback]:
    """Callbacks added here reach the stage's trainer."""
    added: list[TrainerCallback] = []
    plain = SFTTrainer.__init__
    monkeypatch.setattr(SFTTrainer, "__init__", lambda self, **options: plain(self, callbacks=added, **options))
    return added


@pytest.fixture
def batches(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """Every batch that reaches the loss."""
    seen: list[dict[str, torch.Tensor]] = []
    plain = SFTTrainer.compute_loss

    def kept(self, model, inputs, **options):
        seen.append({name: value.clone() for name, value in inputs.items() if torch.is_tensor(value)})
        return plain(self, model, inputs, **options)

    monkeypatch.setattr(SFTTrainer, "compute_loss", kept)
    return seen


class Losses(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs, **_):
        self.seen += [logs["loss"]] if "loss" in logs else []


def test_the_loss_goes_down_and_a_plain_model_is_left(options, arguments, model, tmp_path, callbacks):
    callbacks.append(Losses())
    metrics = sft(options, arguments(num_train_epochs=4), model)
    losses, out = callbacks[0].seen, tmp_path / "out"
    assert len(losses) == 12
    assert losses[-1] < 0.85 * losses[0]
    assert metrics["demonstrations"] == 24
    assert metrics["train_loss"] == pytest.approx(sum(losses) / 12, abs=1e-3)
    record = json.loads((out / "run.json").read_text())
    assert (record["stage"], record["metrics"]) == ("sft", metrics)
    assert AutoTokenizer.from_pretrained(out).padding_side == "left"
    trained, start = (AutoModelForCausalLM.from_pretrained(path) for path in (out, model.model_name_or_path))
    assert trained.dtype == torch.float32
    assert not torch.equal(trained.model.embed_tokens.weight, start.model.embed_tokens.weight)


def test_the_labels_are_the_completion_and_eos(options, arguments, model, batches, task):
    sft(options, arguments(max_steps=1), model)
    tokenizer = AutoTokenizer.from_pretrained(model.model_name_or_path)
    demonstrations = {s.prompt + s.completion: s for s in task.demonstrations(24, seed=0)}
    actual = set()
    for ids, labels, mask in zip(*(batches[0][k] for k in ("input_ids", "labels", "attention_mask")), strict=True):
        text = tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
        wanted = tokenizer(demonstrations[text].completion)["input_ids"] + [tokenizer.eos_token_id]
        assert labels[labels != -100].tolist() == wanted
        # They stand where their tokens do.
        assert ids[labels != -100].tolist() == wanted
        actual.add(text)
    assert len(actual) == 8


def test_the_prompts_tokens_can_be_given_a_loss(options, arguments, model, batches):
    sft(options, arguments(max_steps=1, completion_only_loss=False), model)
    batch = batches[0]
    assert torch.equal(batch["labels"] != -100, batch["attention_mask"].bool())


class Kill(TrainerCallback):
    """Dies after the fifth step, one after a checkpoint was written."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5:
            raise KeyboardInterrupt


class Steps(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, **_):
        self.seen.append(state.global_step)


def logged(folder: Path) -> list[dict]:
    """What the last checkpoint and the record say of a run, without what a clock gave."""
    history = json.loads((folder / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    entries = [*history, json.loads((folder / "run.json").read_text())["metrics"]]
    return [{name: value for name, value in entry.items() if not name.endswith(WALL_CLOCK)} for entry in entries]


def test_a_killed_run_continues_from_its_checkpoint_to_the_same_end(options, arguments, model, tmp_path, callbacks):
    """A log line covers the updates before a checkpoint and after it."""

    def run(out: str, callback: TrainerCallback, resume: bool = False) -> dict[str, torch.Tensor]:
        callbacks[:] = [callback]
        args = arguments(
            output_dir=str(tmp_path / out), num_train_epochs=3, save_strategy="steps", save_steps=4, logging_steps=3
        )
        sft(replace(options, resume=resume), args, model)
        return AutoModelForCausalLM.from_pretrained(tmp_path / out).state_dict()

    whole = run("whole", Steps())
    with pytest.raises(KeyboardInterrupt):
        run("cut", Kill())
    rest = Steps()
    resumed = run("cut", rest, resume=True)
    assert rest.seen == [5, 6, 7, 8, 9]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = logged(tmp_path / "whole")
    assert [line.get("step") for line in lines] == [3, 6, None]
    assert {"loss", "mean_token_accuracy", "num_tokens"} <= lines[1].keys()
    assert logged(tmp_path / "cut") == lines


def test_a_checkpoint_of_another_run_is_not_continued(options, arguments, model, tmp_path, callbacks):
    run = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    sft(options, arguments(**run), model)
    again = replace(options, resume=True)
    with pytest.raises(UserError, match=r"checkpoint-1 is from a run with warmup_steps 0 \(now 2\)\. Resume"):
        sft(again, arguments(**run, warmup_steps=2), model)
    # It may be made longer; and a checkpoint of an older version says nothing of its run.
    callbacks.append(Steps())
    sft(again, arguments(**run | {"max_steps": 2}), model)
    (tmp_path / "out" / "checkpoint-2" / "run_identity.json").unlink()
    sft(again, arguments(**run | {"max_steps": 3}, warmup_steps=2), model)
    assert callbacks[0].seen == [2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy, eval_steps do nothing here: demonstrations"),
        ({"per_device_eval_batch_size": 4}, "per_device_eval_batch_size does nothing here: demonstrations"),
        ({"eval_steps": 3, "eval_delay": 2}, "eval_steps, eval_delay do nothing here: demonstrations are trained on"),
        ({"metric_for_best_model": "loss"}, "metric_for_best_model does nothing here: demonstrations"),
        ({"truncation_mode": "keep_end"}, "max_length is null, so truncation_mode would do nothing"),
        ({"packing_strategy": "wrapped"}, "packing is false, so packing_strategy would do nothing"),
        ({"save_strategy": "epoch", "save_steps": 3}, "save_strategy is 'epoch', so save_steps would do nothing"),
        ({"chat_template_path": "x"}, "chat_template_path does nothing here: set chat_template"),
        ({"max_length": 0}, "max_length is 0; it must be at least 1, or null"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint does nothing here: set resume"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be at least 0"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type: .*num_decay_steps"),
        ({"report_to": "wandbb"}, "report_to is 'wandbb'; choose none, wandb"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(arguments, changes, message):
    with pytest.raises(UserError, match=message):
        arguments(**changes)


def test_a_run_is_not_written_over_what_it_reads(options, arguments, tiny_lm, tmp_path):
    shutil.copytree(tiny_lm, tmp_path / "lm")
    with pytest.raises(UserError, match="output_dir is .*lm, which is model_name_or_path"):
        sft(options, arguments(output_dir=str(tmp_path / "lm")), ModelConfig(str(tmp_path / "lm")))


def test_model_options_that_would_do_nothing_are_refused(options, arguments, tiny_lm):
    with pytest.raises(UserError, match="use_peft is false, so lora_r would do nothing"):
        sft(options, arguments(), ModelConfig(tiny_lm, lora_r=2))
    with pytest.raises(UserError, match="model_init_kwargs has dtype, which would override dtype"):
        sft(options, arguments(model_init_kwargs={"dtype": "bfloat16"}), ModelConfig(tiny_lm))


def test_resume_without_a_checkpoint_starts_afresh(options, arguments, model, callbacks):
    callbacks.append(Steps())
    sft(replace(options, resume=True), arguments(max_steps=2), model)
    assert callbacks[0].seen == [1, 2]


def test_an_adapter_is_trained_when_asked(options, arguments, model, tmp_path):
    lora = replace(model, use_peft=True, lora_r=2, lora_target_modules=["q_proj", "v_proj"])
    sft(options, arguments(max_steps=1), lora)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], sorted(config["target_modules"])) == (2, ["q_proj", "v_proj"])
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_what_is_missing_is_named(options, arguments, model, tmp_path):
    with pytest.raises(UserError, match="model_name_or_path is missing"):
        sft(options, arguments(), ModelConfig())
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        sft(SFTOptions(data=str(tmp_path / "none.jsonl")), arguments(), model)


def test_a_demonstration_longer_than_the_model_is_named(options, arguments, model):
    prompt = "Left to right, mod 20: 1" + " + 1" * 600 + "\n"
    write_rows(options.data, [Solution("endless", prompt, "Answer: 1", "1").to_row()])
    with pytest.raises(UserError, match="'endless' has 606 tokens, more than the model's 512 positions"):
        sft(options, arguments(), model)


def test_rows_are_cut_when_asked_and_not_before(options, arguments, model, batches):
    sft(options, arguments(max_steps=1, max_length=20), model)
    assert batches[0]["input_ids"].shape[1] == 20
    assert arguments().max_length is None


@pytest.mark.parametrize("update", [1, 2])
@pytest.mark.parametrize("what", ["full disk", "signal"])
def test_a_run_that_ends_early_says_so_in_a_line_and_whether_it_can_go_on(
    options, tmp_path, tiny_lm, monkeypatch, capsys, what, update
):
    saved, write = [], checkpoints.write_state

    def end(*state):
        saved.append(state)
        if len(saved) < update:
            write(*state)
        elif what == "signal":
            signal.raise_signal(signal.SIGTERM)
        else:
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "write_state", end)
    words = {
        "data": options.data, "output_dir": tmp_path / "out", "model_name_or_path": tiny_lm, "dtype": "float32",
        "per_device_train_batch_size": 8, "gradient_checkpointing": "false", "bf16": "false", "use_cpu": "true",
        "disable_tqdm": "true", "dataloader_pin_memory": "false", "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    code = main(["sft", *(str(word) for name, value in words.items() for word in (f"--{name}", value))])
    said, remedy = capsys.readouterr().err.splitlines()[-1], "; continue with --resume true" if update == 2 else ""
    if what == "signal":
        assert (code, said) == (143, f"rlstep sft: ended by SIGTERM{remedy}")
        return
    assert (code, said) == (
        2,
        f"rlstep sft: error: {tmp_path}/out/checkpoint-{update} cannot be written: I/O error: No space left on device "
        f"(os error 28){remedy} (RLSTEP_TRACEBACK=1 shows where.)",
    )
