"""What `rlstep/policy/`, `rlstep/runtime/resume.py` and `rlstep/runtime/whole_checkpoints.py` rely on in TRL and
transformers beyond their public interfaces.

Of the policy's modules trainer.py, token_advantages.py, passes.py, token_budget.py, value_function.py, kl.py,
rollouts.py, vllm_sync.py, vllm_adapter.py, resume.py, sft_trainer.py and monitoring/training_log.py do. A new TRL or
transformers that breaks them fails here.
"""

import inspect
import math
from collections import deque
from pathlib import Path

import pytest
import torch
from accelerate.state import GradientState
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import sort_checkpoints
from trl import GRPOTrainer
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer import grpo_trainer
from trl.trainer.utils import (
    create_model_from_path,
    disable_dropout_in_model,
    shuffle_sequence_dict,
    split_tensor_dict,
)

from rlstep.policy.vllm_adapter import AdapterClient, round_lora_rank, save_lora_adapter, validate_lora_for_vllm_sync


@pytest.fixture
def trainer(scripted, row):
    return scripted([row("1\n2", (1.0, 0.0), 1.0), row("3"), row("4"), row("")], advantage="gae", beta=0.1)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (GRPOTrainer._generate_and_score_completions, ["inputs"]),
        (GRPOTrainer._tokenize_prompts, ["prompts"]),
        (GRPOTrainer._calculate_rewards, ["inputs", "prompts", "completions", "completion_ids_list"]),
        (GRPOTrainer.compute_loss, ["model", "inputs", "return_outputs", "num_items_in_batch"]),
        (GRPOTrainer._compute_loss, ["model", "inputs"]),
        (GRPOTrainer.prediction_step, ["model", "inputs", "prediction_loss_only", "ignore_keys"]),
        (GRPOTrainer._get_train_sampler, ["dataset"]),
        (GRPOTrainer.log, ["logs", "start_time"]),
        (GRPOTrainer._save, ["output_dir", "state_dict"]),
        (GRPOTrainer._save_checkpoint, ["model", "trial"]),
        (GRPOTrainer._load_from_checkpoint, ["resume_from_checkpoint", "model"]),
        (
            Trainer._init_training_state,
            ["max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint", "trial"],
        ),
        (Trainer._evaluate, ["trial", "ignore_keys_for_eval", "skip_scheduler"]),
        (
            Trainer._maybe_log_save_evaluate,
            ["tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time", "learning_rate"],
        ),
        (Trainer._finalize_training, ["trial", "num_train_samples", "start_time"]),
        (Trainer._get_output_dir, ["trial"]),
        (Trainer._push_from_checkpoint, ["checkpoint_folder"]),
    ],
)
def test_methods_that_are_overridden(method, parameters):
    """No parameter more: an override would not take it."""
    assert list(inspect.signature(method).parameters) == ["self", *parameters]


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (GRPOTrainer._generate_single_turn, ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"]),
        (
            GRPOTrainer._get_per_token_logps_and_entropies,
            ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"],
        ),
        (GRPOTrainer._prepare_inputs, ["self", "generation_batch"]),
        (Trainer.train, ["self", "resume_from_checkpoint"]),
        (Trainer._load_rng_state, ["self", "checkpoint"]),
        (sort_checkpoints, ["output_dir", "checkpoint_prefix", "use_mtime"]),
        (GradientState._set_sync_gradients, ["self", "sync_gradients"]),
        (disable_dropout_in_model, ["model"]),
        (disable_gradient_checkpointing, ["model", "gradient_checkpointing_kwargs"]),
        (create_model_from_path, ["model_id", "architecture", "kwargs"]),
    ],
)
def test_functions_that_are_called(function, parameters):
    assert list(inspect.signature(function).parameters)[: len(parameters)] == parameters


def test_attributes_that_are_read(trainer, tokenizer):
    assert trainer._tokenizer is tokenizer
    assert (trainer._step, trainer._buffered_inputs) == (0, None)
    assert (trainer.num_generations, trainer.num_generations_eval) == (2, 2)
    assert set(trainer._metrics) == {"train", "eval"}
    assert trainer._metrics["train"]["a new name"] == []
    assert (trainer.accelerator.num_processes, trainer.accelerator.process_index) == (1, 0)
    assert tokenizer.eos_token_id in trainer.eos_token_ids
    assert (trainer.loss_type, trainer.max_completion_length, trainer.num_iterations) == ("dapo", 16, 2)
    # None: the reference is the policy without its adapter.
    assert (trainer.beta, trainer.ref_model) == (0.1, None)
    assert trainer.is_deepspeed_enabled is False


def test_what_is_logged_of_completions_are_deques_or_dicts_of_deques(trainer):
    trainer.batch()
    of_rewards = trainer._logs["rewards"]
    assert set(of_rewards) == {"process", "outcome"}
    for values in trainer._logs.values():
        assert all(isinstance(value, deque) for value in (values.values() if isinstance(values, dict) else [values]))
    assert isinstance(of_rewards["a new name"], deque)


def test_keys_and_shapes_of_the_batch(trainer):
    batch = super(type(trainer), trainer)._generate_and_score_completions(
        [{"prompt": "1\n", "problem_prompt": "1\n", "reference": "1"}] * 4
    )
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


def test_the_kl_is_weighed_by_the_beta_of_the_moment(trainer):
    """At log-probabilities 1 above the reference's k3 is 1/e; a ratio of 2 doubles it, unless that is switched off."""
    batch = trainer.batch()
    batch["advantages"] = torch.zeros(4, 4)
    batch["ref_per_token_logps"] = batch["old_per_token_logps"] - 1
    batch["old_per_token_logps"] = batch["old_per_token_logps"] - math.log(2)
    for beta, corrected, factor in ((0.1, True, 2), (0.5, True, 2), (0.5, False, 1), (0.0, True, 0)):
        trainer.beta, trainer.args.use_bias_correction_kl = beta, corrected
        loss = GRPOTrainer._compute_loss(trainer, trainer.model, batch)
        assert loss.item() == pytest.approx(factor * beta / math.e, rel=1e-4)


def test_the_loss_asks_once_for_log_probabilities_with_their_gradient(trainer):
    batch = trainer.batch()
    ids, attention = (
        torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], dim=1) for part in ("ids", "mask")
    )
    logits_BTV = trainer.model(ids, attention_mask=attention).logits[:, -5:-1]
    expected_BT = logits_BTV.log_softmax(dim=-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    asked = []

    def watched(*args, **kwargs):
        asked.append(GRPOTrainer._get_per_token_logps_and_entropies(trainer, *args, **kwargs))
        return asked[-1]

    trainer._get_per_token_logps_and_entropies = watched
    GRPOTrainer._compute_loss(trainer, trainer.model, batch)
    [(logps_BT, _, _)] = asked
    assert logps_BT.requires_grad
    kept = batch["completion_mask"].bool()
    torch.testing.assert_close(logps_BT[kept], expected_BT[kept])
    # In two batches.
    halves_BT, *_ = watched(trainer.model, ids, attention, 4, 2)
    torch.testing.assert_close(halves_BT[kept], expected_BT[kept])


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
    inputs = [{"prompt": f"{n}\n", "problem_prompt": n, "reference": str(n)} for n in range(4)]
    super(type(trainer), trainer)._generate_and_score_completions(inputs)
    assert len(given) == 2
    for kwargs in given:
        assert kwargs["prompts"] == ["0\n", "1\n", "2\n", "3\n"]
        assert kwargs["completions"] == ["1\n2", "3", "4", ""]
        assert kwargs["reference"] == ["0", "1", "2", "3"]
        texts = trainer._tokenizer.batch_decode(kwargs["completion_ids"], skip_special_tokens=True)
        assert texts == kwargs["completions"]
        assert all(ids[-1] in trainer.eos_token_ids for ids in kwargs["completion_ids"])
    assert trainer.reward_func_names == ["process", "outcome"]


def test_what_is_sampled_from_are_the_tokens_that_are_given(trainer):
    """And TRL asks once, with the rows' text: no path of its own for chats is taken."""
    given, sampled = [], []
    trainer._tokenize_prompts = lambda prompts: (given.append(prompts), ([[5], [6, 7], [5], [6, 7]], None, {}))[1]
    sample = trainer._generate_single_turn
    trainer._generate_single_turn = lambda ids, *rest: (sampled.append(ids), sample(ids, *rest))[1]
    rows = [{"prompt": f"{n}\n", "problem_prompt": n, "reference": str(n)} for n in range(4)]
    batch = super(type(trainer), trainer)._generate_and_score_completions(rows)
    assert given == [["0\n", "1\n", "2\n", "3\n"]]
    assert sampled == [[[5], [6, 7], [5], [6, 7]]]
    pad = trainer._tokenizer.pad_token_id
    assert batch["prompt_ids"].tolist() == [[pad, 5], [6, 7]] * 2


def test_rewards_are_calculated_of_the_rows_that_were_given(trainer):
    """What is written on them there stands on them afterwards, and reaches the reward functions as a column."""
    rows = [{"prompt": f"{n}\n", "reference": str(n)} for n in range(4)]

    def calculate(inputs, *others):
        assert inputs is rows
        for number, row in enumerate(inputs):
            row |= {"completion": "kept from the functions", "worth": float(number)}
        return GRPOTrainer._calculate_rewards(trainer, inputs, *others)

    trainer._calculate_rewards = calculate
    trainer.reward_funcs = [
        lambda worth, **_: worth,
        lambda worth, completions, **_: [len(text) for text in completions],
    ]
    GRPOTrainer._generate_and_score_completions(trainer, rows)
    assert [row["worth"] for row in rows] == [0.0, 1.0, 2.0, 3.0]
    assert list(trainer._logs["rewards"]["process"]) == [0.0, 1.0, 2.0, 3.0]
    assert list(trainer._logs["rewards"]["outcome"]) == [3.0, 1.0, 1.0, 0.0]
    metrics = trainer._metrics["train"]
    assert (metrics["rewards/process/mean"], metrics["rewards/outcome/mean"]) == ([1.5], [1.25])


def test_the_loss_passes_its_model_on_and_does_nothing_else_with_it(trainer):
    batch, given, stand_in = trainer.batch(), [], object()

    def log_probs(model, *args, **kwargs):
        given.append(model)
        return GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, *args, **kwargs)

    trainer._get_per_token_logps_and_entropies = log_probs
    loss = GRPOTrainer._compute_loss(trainer, stand_in, batch)
    assert given == [stand_in]
    assert loss.requires_grad


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


def test_what_trl_measures_of_log_probabilities_is_not_logged_of_an_evaluation(trainer):
    """Under vLLM it compares the policy's with those of sampling, and an evaluation has none of the policy."""
    trainer._metrics["eval"]["sampling/importance_sampling_ratio/mean"].append(3.0)
    trainer.model.eval()
    trainer.prediction_step(trainer.model, [{"prompt": "1\n", "reference": "1"}] * 4, True)
    trainer.log(logs := {})
    assert "eval_accuracy" in logs
    assert not [name for name in logs if "sampling/" in name]


def test_batches_are_generated_when_the_buffer_is_empty_or_its_updates_are_done(trainer):
    generated = []
    trainer._generate_and_score_completions = lambda inputs: generated.append(1) or {"rows": torch.arange(4)}
    GRPOTrainer._prepare_inputs(trainer, [])
    trainer._step = 1
    GRPOTrainer._prepare_inputs(trainer, [])
    assert len(generated) == 1
    trainer._step = 2  # two iterations of one slice
    GRPOTrainer._prepare_inputs(trainer, [])
    assert len(generated) == 2


def test_sampling_ends_at_an_end_token_or_at_the_configs_limit(trainer):
    lengths = set()
    for limit in (2, 5):
        trainer.generation_config.max_new_tokens = trainer.generation_kwargs["max_new_tokens"] = limit
        rows, _ = GRPOTrainer._generate_single_turn(trainer, [[5], [6, 7]] * 40, None, {}, 2)
        assert len(rows) == 80
        for ids in rows:
            assert len(ids) == limit or ids[-1] in trainer.eos_token_ids
            assert not set(ids[:-1]) & set(trainer.eos_token_ids)
        lengths.add(max(map(len, rows)))
    assert lengths == {2, 5}


def test_the_sampler_shuffles_once_an_epoch_with_a_generator_of_its_own(trainer):
    one, other = (GRPOTrainer._get_train_sampler(trainer, range(16)) for _ in range(2))
    first, second = list(one), list(one)
    assert first != second
    next(iter(other))
    assert list(other) == second


# --- The loop.


@pytest.fixture
def loop(trainer):
    """Runs `trainer.train()` with an epoch in which nothing happens; gives the calls and the counters at its start."""
    names = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_initial_global_step")
    names += ("_initial_num_input_tokens_seen",)
    actual = {"order": [], "epochs": [], "evaluations": []}

    class Begin(TrainerCallback):
        def on_train_begin(self, *_, **__):
            actual["order"].append("begin")

    def evaluate(*args, **kwargs):
        actual["order"].append("evaluate")
        actual["evaluations"].append((args, kwargs))
        return {}

    def run_epoch(*args, **kwargs):
        actual["order"].append("epoch")
        actual["epochs"].append((args, kwargs))
        actual["counters"] = {name: getattr(trainer, name) for name in names}
        trainer.control.should_training_stop = True

    trainer.add_callback(Begin())
    trainer._evaluate, trainer._run_epoch = evaluate, run_epoch
    return actual


def test_an_epoch_is_given_all_by_name_with_counters_that_stand_at_the_start(trainer, loop):
    trainer.train()
    [(args, kwargs)] = loop["epochs"]
    assert not args
    assert (kwargs["epoch"], kwargs["epochs_trained"]) == (0, 0)
    names = {"model", "start_time", "trial", "ignore_keys_for_eval", "resume_from_checkpoint"}
    assert names <= kwargs.keys()
    assert torch.is_tensor(loop["counters"]["_tr_loss"])
    assert [float(value) for value in loop["counters"].values()] == [0] * 5


def test_the_scheduler_is_left_out_of_the_evaluation_before_the_first_epoch_alone(trainer, loop):
    trainer.args.eval_on_start = True
    trainer.train()
    assert loop["order"] == ["begin", "evaluate", "epoch"]
    assert loop["evaluations"] == [((None, None), {"skip_scheduler": True})]
    trainer.control.should_evaluate = True
    Trainer._maybe_log_save_evaluate(trainer, torch.tensor(0.0), None, trainer.model, None, 0, None, 0.0)
    assert loop["evaluations"][1:] == [((None, None), {})]


def test_the_loop_comes_to_its_log_after_each_update_and_once_more_after_the_epoch(trainer):
    steps = []
    log = trainer._maybe_log_save_evaluate
    trainer._maybe_log_save_evaluate = lambda *args, **kwargs: (
        steps.append((trainer.state.global_step, len(args), set(kwargs))),
        log(*args, **kwargs),
    )
    del trainer.current_gradient_accumulation_steps  # the loop sets it anew
    trainer.train()
    assert steps == [(step, 7, {"learning_rate"}) for step in (1, 2, 2)]
    assert trainer.current_gradient_accumulation_steps == 1


def test_a_checkpoint_is_written_and_uploaded_where_the_output_is_said_to_be(trainer, tmp_path):
    pushed = []
    trainer._get_output_dir = lambda trial: str(tmp_path / "elsewhere")
    trainer._push_from_checkpoint = pushed.append
    trainer.create_optimizer_and_scheduler(2)
    trainer.args.push_to_hub = True
    GRPOTrainer._save_checkpoint(trainer, trainer.model, None)
    folder = tmp_path / "elsewhere" / "checkpoint-0"
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= {p.name for p in folder.iterdir()}
    assert [Path(path) for path in pushed] == [folder]


# --- vLLM. What is sent and asked is seen in test_vllm_server.py and test_vllm_colocated.py.


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (VLLMGeneration._init_vllm, []),
        (VLLMGeneration._iter_named_params, []),
        (VLLMGeneration.sync_weights, []),
        (VLLMGeneration.generate, ["prompts", "images", "num_generations", "profiler"]),
    ],
)
def test_methods_of_the_vllm_backend_that_are_overridden(method, parameters):
    assert list(inspect.signature(method).parameters) == ["self", *parameters]


def test_settings_of_the_vllm_backend_are_its_attributes_and_its_clients_parameters():
    names = {"repetition_penalty", "temperature", "top_p", "top_k", "min_p", "logprobs", "structured_outputs_regex"}
    names.add("generation_kwargs")
    assert names | {"prompts", "n", "max_tokens"} <= inspect.signature(VLLMClient.generate).parameters.keys()
    assigned = inspect.getsource(VLLMGeneration.__init__)
    for name in names | {"mode", "server_base_url", "server_host", "server_port", "server_timeout"}:
        assert f"self.{name} = {name}" in assigned
    assert {"base_url", "connection_timeout"} <= inspect.signature(VLLMClient).parameters.keys()


def test_the_trainer_makes_its_vllm_backend_by_a_name_of_its_module():
    assert grpo_trainer.VLLMGeneration is VLLMGeneration
    assert "self.vllm_generation = VLLMGeneration(" in inspect.getsource(GRPOTrainer.__init__)


def test_functions_of_the_asynchronous_trainer_that_are_called():
    assert list(inspect.signature(save_lora_adapter).parameters) == ["model", "accelerator", "adapter_name", "dest_dir"]
    assert list(inspect.signature(validate_lora_for_vllm_sync).parameters) == ["model"]
    assert [round_lora_rank(rank) for rank in (1, 4, 16, 33)] == [1, 8, 16, 64]
    for method in (AdapterClient.load_lora_adapter, AdapterClient.unload_lora_adapter):
        assert list(inspect.signature(method).parameters)[:2] == ["self", "lora_name"]
