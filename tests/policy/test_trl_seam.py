"""What `rlstep/policy/trainer.py` relies on in TRL beyond its public interface. A new TRL that breaks it fails here."""

import inspect

import pytest
import torch
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import (
    create_model_from_path,
    disable_dropout_in_model,
    shuffle_sequence_dict,
    split_tensor_dict,
)


@pytest.fixture
def trainer(scripted, row):
    return scripted([row("1\n2", (1.0, 0.0), 1.0), row("3"), row("4"), row("")], advantage="gae", beta=0.1)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (GRPOTrainer._generate_and_score_completions, ["self", "inputs"]),
        (GRPOTrainer._compute_loss, ["self", "model", "inputs"]),
        (GRPOTrainer._prepare_inputs, ["self", "generation_batch"]),
        (GRPOTrainer.log, ["self", "logs", "start_time"]),
        (GRPOTrainer._save, ["self", "output_dir", "state_dict"]),
        (GRPOTrainer._load_from_checkpoint, ["self", "resume_from_checkpoint", "model"]),
        (disable_dropout_in_model, ["model"]),
        (disable_gradient_checkpointing, ["model", "gradient_checkpointing_kwargs"]),
        (create_model_from_path, ["model_id", "architecture", "kwargs"]),
    ],
)
def test_methods_that_are_overridden_or_called(method, parameters):
    assert list(inspect.signature(method).parameters)[: len(parameters)] == parameters


def test_attributes_that_are_read(trainer, tokenizer):
    assert trainer._tokenizer is tokenizer
    assert (trainer._step, trainer._buffered_inputs) == (0, None)
    assert (trainer.num_generations, trainer.num_generations_eval) == (2, 2)
    assert set(trainer._metrics) == {"train", "eval"}
    assert trainer._metrics["train"]["a new name"] == []
    assert (trainer.accelerator.num_processes, trainer.accelerator.process_index) == (1, 0)


def test_keys_and_shapes_of_the_batch(trainer):
    batch = super(type(trainer), trainer)._generate_and_score_completions([{"prompt": "1\n", "reference": "1"}] * 4)
    prompt = (4, batch["prompt_ids"].shape[1])
    shapes = {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": (4, 4), "completion_mask": (4, 4),
        "advantages": (4,), "num_items_in_batch": (), "old_per_token_logps": (4, 4), "ref_per_token_logps": (4, 4),
    }  # fmt: skip
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == shapes
    assert batch["completion_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]


def test_the_loss_takes_an_advantage_for_every_token(trainer):
    """At ratio 1 it is -A over the batch's tokens: no other token's advantage, no mean over a sequence."""
    batch = trainer.batch()
    batch["advantages"] = torch.arange(16.0).view(4, 4)
    trainer.beta = 0.0
    loss = super(type(trainer), trainer)._compute_loss(trainer.model, batch)
    kept = batch["advantages"][batch["completion_mask"].bool()]
    assert loss.item() == pytest.approx(-kept.sum().item() / len(kept))


def test_more_tensors_travel_with_their_rows(trainer):
    batch = trainer.batch()
    rows = batch["completion_ids"].clone()
    batch["old_values"] = torch.arange(16.0).view(4, 4)
    parts = split_tensor_dict(shuffle_sequence_dict(batch), 2)
    assert [part["old_values"].shape for part in parts] == [(2, 4), (2, 4)]
    seen = torch.cat([part["old_values"] for part in parts])
    assert sorted(seen[:, 0].tolist()) == [0.0, 4.0, 8.0, 12.0]
    order = (seen[:, 0] / 4).long()
    assert torch.equal(torch.cat([part["completion_ids"] for part in parts]), rows[order])
    assert {"returns", "advantages", "old_per_token_logps"} <= parts[0].keys()


def test_reward_functions_get_texts_and_the_data_sets_columns(trainer):
    given = []
    trainer.reward_funcs = [lambda **kwargs: given.append(kwargs) or [0.0] * 4] * 2
    inputs = [{"prompt": f"{n}\n", "reference": str(n)} for n in range(4)]
    super(type(trainer), trainer)._generate_and_score_completions(inputs)
    assert len(given) == 2
    for kwargs in given:
        assert kwargs["prompts"] == ["0\n", "1\n", "2\n", "3\n"]
        assert kwargs["completions"] == ["1\n2", "3", "4", ""]
        assert kwargs["reference"] == ["0", "1", "2", "3"]
    assert trainer.reward_func_names == ["process", "outcome"]


def test_what_a_row_appends_to_the_metrics_is_logged_as_its_mean(trainer):
    trainer._metrics["train"]["accuracy"] += [1.0, 0.0, float("nan"), 0.0]
    trainer.model.train()
    logs = {}
    trainer.log(logs)
    assert logs["accuracy"] == pytest.approx(1 / 3)
    trainer._metrics["eval"]["accuracy"] += [1.0]
    trainer.model.eval()
    logs = {}
    trainer.log(logs)
    assert logs["eval_accuracy"] == 1.0
    assert "accuracy" not in logs
    assert not trainer._metrics["eval"]


def test_batches_are_generated_when_the_buffer_is_empty_or_its_updates_are_done(trainer):
    generated = []
    trainer._generate_and_score_completions = lambda inputs: generated.append(1) or {"rows": torch.arange(4)}
    trainer._prepare_inputs([])
    trainer._step = 1
    trainer._prepare_inputs([])
    assert len(generated) == 1
    trainer._step = 2  # two iterations of one slice
    trainer._prepare_inputs([])
    assert len(generated) == 2
