"""`rlstep plan`: numbers of parameters against real models, memory and hours by hand, and what it says to change."""

import gzip
import inspect
import json
import re
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    Gemma3nTextConfig,
    Qwen2Config,
)
from trl.trainer.utils import add_fused_lm_head

from rlstep import cli
from rlstep.core.memory import Precision, Shape
from rlstep.planning import models, ppo
from rlstep.planning.models import Model, shape_of
from rlstep.planning.passes import frozen_head, kept_head
from rlstep.runtime.errors import UserError
from rlstep.stages.plan import PlanConfig, plan
from rlstep.steps.records import Solution, write_solutions
from rlstep.verifiers.heads import is_plain_head

GIB = 2**30
H, LAYERS, VOCABULARY = 64, 2, 512
PPO = {
    "problems": "problems.jsonl", "num_generations": 4, "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2, "max_completion_length": 32, "max_steps": 8, "num_iterations": 2, "beta": 0.0,
    "gradient_checkpointing": False, "bf16": False,
}  # fmt: skip


LABELS = 2 * H  # a verifier's head
# Of an embedding, two layers (queries, keys and values with biases, output, MLP, norms) and the last norm.
BACKBONE = VOCABULARY * H + LAYERS * (H * H + H + 2 * (H * H // 2 + H // 2) + H * H + 3 * H * 160 + 2 * H) + H


def config_of(vocabulary: int = VOCABULARY, hidden: int = H) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=160, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip


@pytest.fixture
def base(tmp_path) -> Path:
    """A model's configuration, and nothing else."""
    config_of().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def planned(tmp_path, base):
    """Plans one recipe of the given settings."""

    def of(stage: str, settings: dict, **options) -> dict:
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        start = {"model_name_or_path": str(base), "output_dir": str(tmp_path / "out")}
        if stage in ("sample", "score"):
            start = {"model": str(base), "out": str(tmp_path / "out.jsonl")}
        file = folder / f"{stage}.yaml"
        file.write_text(yaml.safe_dump(start | settings), encoding="utf-8")
        (actual,) = plan(PlanConfig(str(file), **options))["plans"].values()
        return actual

    return of


def gib(plan: dict, part: str) -> float:
    return plan["memory_gib"][part] * GIB


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def trained(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- Parameters


def test_all_weights_of_a_generator(planned):
    actual = planned("sft", {"data": "rows.jsonl"})
    assert (actual["trained"], actual["frozen"]) == (parameters(AutoModelForCausalLM.from_config(config_of())), 0)


def test_an_inner_size_for_each_layer_counts_as_their_mean():
    """Gemma 3n's configuration lists them."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    config = Gemma3nTextConfig(**sizes, intermediate_size=[32, 64], activation_sparsity_pattern=[0.0, 0.0])
    assert shape_of(config, {"gate_proj"}).inner == 48


def test_an_adapter_of_a_policy_and_its_frozen_base(planned):
    actual = planned("ppo", PPO | {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "down_proj"]})
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_config(config_of())
    assert actual["frozen"] == parameters(model)
    assert actual["trained"] == trained(get_peft_model(model, lora))


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"lora_target_parameters": ["experts.gate_up_proj"]}, {"target_parameters": ["experts.gate_up_proj"]}),
        ({"use_dora": True}, {"use_dora": True}),
    ],
)
def test_an_adapter_on_experts_or_with_dora_counts_as_peft_makes_it(planned, tmp_path, settings, shape):
    config = AutoConfig.for_model("mixtral", **SIZES, num_local_experts=2)
    config.save_pretrained(tmp_path / "experts")
    fresh = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj"], "lora_dropout": 0.0}
    actual = planned("ppo", PPO | fresh | settings | {"model_name_or_path": str(tmp_path / "experts")})
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **shape)
    assert actual["trained"] == trained(get_peft_model(AutoModelForCausalLM.from_config(config), lora))


def test_a_class_head_is_counted_and_the_language_models_is_not(planned, base):
    untied = config_of()
    untied.tie_word_embeddings = False
    untied.save_pretrained(base)
    untied.num_labels = 3
    model = AutoModelForTokenClassification.from_config(untied)
    bias = 3  # of transformers' head
    assert planned("prm", {"data": "rows.jsonl", "neutral": "class"})["trained"] == parameters(model) - bias


def test_sampling_by_vllm_takes_its_share_and_by_a_server_nothing(planned):
    settings = {"problems": "problems.jsonl"}
    here = planned("sample", settings)
    offline = planned("sample", settings | {"engine": "vllm", "gpu_memory_utilization": 0.25}, memory=40.0)
    assert offline["memory_gib"]["vllm"] == offline["memory_gib"]["total"] == 10.0
    served = planned("sample", settings | {"engine": "server", "url": "http://gpu7:8000"})
    assert (served["memory_gib"]["total"], served["frozen"], here["frozen"] > 0) == (0, 0, True)
    assert here["flops"] == offline["flops"] == served["flops"]


def test_sampling_takes_as_many_hours_as_the_gpus_that_sample(planned):
    settings = {"problems": "problems.jsonl", "n": 64}
    one, eight = (planned("sample", settings, rows=100_000, gpus=gpus)["hours"] for gpus in (1, 8))
    assert one / eight == pytest.approx(8)
    vllm = settings | {"engine": "vllm", "tensor_parallel_size": 4}
    assert one / planned("sample", vllm, rows=100_000, gpus=8)["hours"] == pytest.approx(4)


def test_a_share_in_which_vllm_cannot_hold_the_policy_to_sample(planned):
    settings = {"problems": "problems.jsonl", "engine": "vllm", "gpu_memory_utilization": 0.01}
    actual = planned("sample", settings, memory=0.03)
    assert "set gpu_memory_utilization above 0.0" in actual["faults"][0]
    assert not actual["fits"]
    assert planned("sample", settings | {"tensor_parallel_size": 8}, memory=0.03)["faults"] == []


def test_scoring_on_a_server_takes_nothing_here(planned, base):
    here = planned("score", {"data": "rows.jsonl"})
    served = planned("score", {"data": "rows.jsonl", "model": f"vllm+http://gpu7:8000/{base}"})
    assert (served["memory_gib"]["total"], served["frozen"]) == (0, 0)
    assert served["flops"] == here["flops"] > 0


@pytest.mark.parametrize(("critic", "more"), [("head", H + 1), ("adapter", H + 1)])
def test_a_critic_is_a_head_and_perhaps_an_adapter(planned, critic, more):
    settings = PPO | {"use_peft": True, "lora_target_modules": ["all-linear"]}
    policy = planned("ppo", settings)["trained"]
    actual = planned("ppo", settings | {"advantage": "gae", "critic": critic})
    assert actual["trained"] == policy + more + (policy if critic == "adapter" else 0)


def test_the_reference_of_a_full_policy_is_a_second_model(planned):
    alone, beside = planned("ppo", PPO), planned("ppo", PPO | {"beta": 0.1})
    assert (alone["frozen"], beside["frozen"]) == (0, alone["trained"])
    assert gib(beside, "weights") == 2 * gib(alone, "weights")


def test_the_critic_of_a_full_policy_stands_on_the_reference_unless_that_moves(planned):
    settings = PPO | {"beta": 0.1, "advantage": "gae", "critic": "adapter"}
    still, moving = planned("ppo", settings), planned("ppo", settings | {"sync_ref_model": True})
    assert moving["frozen"] == 2 * still["frozen"] > 0


# --- Verifiers


def test_the_verifiers_of_a_run_are_counted_whole(planned, base):
    """Whole on the GPU in float32, an implicit PRM with its reference; none of those on a server."""
    one = planned("ppo", PPO)
    prm = planned("ppo", PPO | {"reward": ["prm"], "prm": str(base)})
    implicit = planned("ppo", PPO | {"reward": ["implicit"], "implicit": str(base)})
    served = planned("ppo", PPO | {"reward": ["prm"], "prm": "http://gpu7:8000"})
    N = one["trained"]
    assert [plan["frozen"] for plan in (one, prm, implicit, served)] == [0, N + LABELS, 2 * N, 0]
    assert gib(prm, "weights") - gib(one, "weights") == 4 * (N + LABELS)
    assert gib(implicit, "weights") - gib(one, "weights") == 2 * 4 * N
    assert one["flops"] < prm["flops"] < implicit["flops"]


def test_a_verifier_has_two_labels_and_no_head_of_the_vocabulary(planned, base, tmp_path):
    """Whether it is scored with, rewards a policy, guides a search or is an adapter on weights of its own."""
    untied = config_of()
    untied.tie_word_embeddings = False
    untied.save_pretrained(base)
    policy, verifier = BACKBONE + VOCABULARY * H, BACKBONE + LABELS
    score, ppo = planned("score", {"data": "rows.jsonl"}), planned("ppo", PPO | {"reward": ["prm"], "prm": str(base)})
    sampled = {"problems": "problems.jsonl", "n": 4, "batch_size": 4, "search": "beam", "prm": str(base)}
    search = planned("sample", sampled)
    assert (score["frozen"], ppo["frozen"], search["frozen"]) == (verifier, verifier, policy + verifier)
    assert (gib(score, "weights"), gib(search, "weights")) == (4 * verifier, 4 * (policy + verifier))
    assert gib(ppo, "weights") == 4 * (policy + verifier)
    implicit = planned("ppo", PPO | {"reward": ["implicit"], "implicit": str(base)})
    assert implicit["frozen"] == 2 * policy  # its probabilities are of the vocabulary's tokens
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="TOKEN_CLS", base_model_name_or_path=str(base))
    lora.save_pretrained(tmp_path / "prm")
    adapted = planned("score", {"data": "rows.jsonl", "model": str(tmp_path / "prm")})
    assert adapted["frozen"] == verifier + LAYERS * 2 * 4 * H
    assert gib(adapted, "weights") == 4 * adapted["frozen"]
    quantise(base, {"quant_method": "gptq", "bits": 8, "group_size": -1})
    assert gib(planned("score", {"data": "rows.jsonl"}), "weights") == 4 * verifier - 3 * MATRICES


@pytest.mark.parametrize(("share_base", "bases"), [(True, 0), (False, 1)])
def test_an_adapters_base_is_counted_where_it_is_not_the_policys(planned, base, tmp_path, share_base, bases):
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="TOKEN_CLS", base_model_name_or_path=str(base))
    lora.save_pretrained(tmp_path / "prm")
    settings = PPO | {"use_peft": True, "lora_target_modules": ["q_proj"]}
    actual = planned("ppo", settings | {"reward": ["prm"], "prm": str(tmp_path / "prm"), "share_base": share_base})
    alone = planned("ppo", settings)
    own = LAYERS * 2 * 4 * H + LABELS
    assert actual["frozen"] == alone["frozen"] + own + bases * alone["frozen"]
    assert gib(actual, "weights") - gib(alone, "weights") == 4 * (own + bases * alone["frozen"])


def test_an_implicit_prm_that_scores_is_two_models(planned, base, tmp_path):
    """Told by its configuration, or by the recipe that will train it; both models are asked about every token."""
    N, plain = planned("sft", {"data": "rows.jsonl"})["trained"], planned("score", {"data": "rows.jsonl"})
    written = json.loads((base / "config.json").read_text()) | {"rlstep_verifier": {"kind": "implicit", "format": 1}}
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text(json.dumps(written))
    planned("orm", {"data": "rows.jsonl", "loss": "implicit", "output_dir": str(tmp_path / "later")})
    for name in ("there", "later"):
        actual = planned("score", {"data": "rows.jsonl", "model": str(tmp_path / name)})
        assert actual["frozen"] == 2 * N
        assert gib(actual, "weights") == 2 * 4 * N
        assert gib(actual, "activations") > gib(plain, "activations")
        assert actual["flops"] > 2 * plain["flops"]


@pytest.mark.parametrize(
    ("engine", "policies"), [({}, 1), ({"engine": "vllm"}, 1), ({"engine": "server", "url": "http://gpu7:8000"}, 0)]
)
def test_the_prm_of_a_search_is_beside_the_policy(planned, base, engine, policies):
    settings = {"problems": "problems.jsonl", "n": 4, "batch_size": 4} | engine
    N = planned("sft", {"data": "rows.jsonl"})["trained"]
    alone = planned("sample", settings)
    search = planned("sample", settings | {"search": "beam", "prm": str(base)})
    served = planned("sample", settings | {"search": "beam", "prm": "http://gpu8:8000"})
    assert [plan["frozen"] for plan in (alone, search, served)] == [
        policies * N,
        policies * N + N + LABELS,
        policies * N,
    ]
    assert gib(search, "weights") - gib(alone, "weights") == 4 * (N + LABELS)
    assert gib(search, "activations") > gib(alone, "activations")
    assert served["memory_gib"] == alone["memory_gib"]


def test_a_share_of_vllm_that_leaves_no_room_for_the_prm(planned, base):
    settings = {"problems": "problems.jsonl", "n": 4, "engine": "vllm", "search": "beam", "prm": str(base)}
    assert not (actual := planned("sample", settings, memory=1.0))["fits"]
    assert actual["remedies"][0].startswith("set gpu_memory_utilization: 0.")


# --- Quantised weights

MATRICES = LAYERS * (2 * H * H + 2 * H * H // 2 + 3 * H * 160)
GROUPS = {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}


def quantise(folder: Path, settings: dict) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, 4 + 20 / 64),
        ({"quant_method": "awq", "bits": 4, "group_size": 32}, 4 + 20 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4.125),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8),
        ({"quant_method": "compressed-tensors", "config_groups": GROUPS}, 4.5),
    ],
)
def test_quantised_weights_are_as_large_as_their_bits(planned, base, settings, bits):
    """The matrices of the layers are; the embedding and all that are no matrices keep float32."""
    whole = planned("sample", {"problems": "problems.jsonl"})
    quantise(base, settings)
    actual = planned("sample", {"problems": "problems.jsonl"})
    assert actual["frozen"] == whole["frozen"]
    assert gib(whole, "weights") - gib(actual, "weights") == pytest.approx(MATRICES * (4 - bits / 8))
    assert gib(planned("score", {"data": "rows.jsonl"}), "weights") == gib(actual, "weights") + 4 * LABELS


def test_vllm_starts_in_a_share_that_holds_the_quantised_weights_alone(planned, base):
    settings = {"problems": "problems.jsonl", "engine": "vllm", "gpu_memory_utilization": 0.15, "max_new_tokens": 8}
    assert planned("sample", settings, memory=0.002, prompt_tokens=8)["faults"]
    quantise(base, {"quant_method": "gptq", "bits": 4, "group_size": 64})
    assert planned("sample", settings, memory=0.002, prompt_tokens=8)["faults"] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "quip"}, "quantised by quip, whose size a plan does not know; it knows gptq"),
        ({"quant_method": "gptq"}, "of gptq, does not say how many bits a weight has"),
    ],
)
def test_a_quantisation_that_is_not_known_is_one_line(planned, base, settings, message):
    quantise(base, settings)
    with pytest.raises(UserError, match=message):
        planned("sample", {"problems": "problems.jsonl"})


@pytest.mark.parametrize("stage", ["sft", "prm", "orm", "ppo"])
def test_quantised_weights_that_no_run_trains_are_not_planned(planned, base, stage):
    settings = PPO if stage == "ppo" else {"data": "rows.jsonl"}
    quantise(base, {"quant_method": "gptq", "bits": 4})
    with pytest.raises(UserError, match=r"quantised weights \(gptq\), which rlstep does not train"):
        planned(stage, settings)


@pytest.mark.parametrize(("stage", "name"), [("sft", "load_in_8bit"), ("ppo", "load_in_4bit")])
def test_quantisation_that_no_run_accepts_is_not_planned(planned, stage, name):
    settings = PPO if stage == "ppo" else {"data": "rows.jsonl"}
    with pytest.raises(UserError, match=f"{name} is set, and quantised weights are not trained"):
        planned(stage, settings | {name: True})


# --- Memory


def test_states_by_hand(planned):
    """Float32 weights, their gradients, and AdamW's two moments."""
    actual = planned("sft", {"data": "rows.jsonl", "bf16": False})
    assert [gib(actual, part) for part in ("weights", "gradients", "optimizer")] == [
        4 * actual["trained"], 4 * actual["trained"], 8 * actual["trained"],
    ]  # fmt: skip


def test_zero_shards_the_weights_of_four_gpus(planned):
    settings = {"data": "rows.jsonl", "dtype": "bfloat16", "bf16": True}
    actual = planned("sft", settings, gpus=4, deepspeed="ds_configs/zero3.json")
    n = actual["trained"]
    assert [gib(actual, part) for part in ("weights", "gradients", "optimizer")] == [2 * n / 4, 2 * n / 4, 12 * n / 4]
    second = planned("sft", settings, gpus=4, deepspeed="ds_configs/zero2.json")
    assert gib(second, "weights") == 2 * n


def test_the_cache_of_sampling_by_hand(planned):
    """2 layers x 8 rows x 42 tokens x 32 numbers of keys and of values, and the last places' logits."""
    actual = planned("ppo", PPO, prompt_tokens=10)
    assert gib(actual, "kv_cache") == 2 * LAYERS * 8 * 42 * 32 * 4 + 4 * 8 * VOCABULARY
    assert gib(planned("ppo", PPO | {"use_vllm": True, "vllm_mode": "server"}), "kv_cache") == 0


def test_vllm_on_the_same_gpu_takes_its_share(planned):
    settings = PPO | {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.25}
    assert planned("ppo", settings, memory=40.0)["memory_gib"]["vllm"] == 10.0


def test_vllm_that_sleeps_gives_its_share_back_to_the_update(planned):
    settings = PPO | {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.25}
    awake, asleep = (planned("ppo", settings | {"vllm_enable_sleep_mode": how}, memory=4.0) for how in (False, True))
    parts = asleep["memory_gib"]
    assert awake["memory_gib"]["total"] - parts["total"] == pytest.approx(parts["gradients"] + parts["activations"])


def test_a_share_in_which_vllm_cannot_hold_the_policy(planned):
    settings = PPO | {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.01}
    actual = planned("ppo", settings, memory=0.03)
    assert not actual["fits"]
    assert "set vllm_gpu_memory_utilization above 0.0" in actual["faults"][0]
    assert actual["remedies"] == actual["faults"]


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ({"gradient_checkpointing": True}, {}),
        ({"per_device_train_batch_size": 4}, {"per_device_train_batch_size": 16}),
        ({"kept_logits_gib": 0.0, "use_peft": False}, {"use_peft": False}),
        ({"packing": True}, {"packing": False}),
        ({"tokens_per_device": 200}, {"per_device_train_batch_size": 8}),
        ({"advantage": "gae", "critic": "head"}, {"advantage": "gae", "critic": "adapter"}),
        ({"bf16": True, "dtype": "bfloat16"}, {}),
        (
            {"attn_implementation": "flash_attention_2", "packing": False},
            {"attn_implementation": "sdpa", "packing": False},
        ),
    ],
)
def test_what_lowers_activations(planned, smaller, larger):
    settings = PPO | {"per_device_train_batch_size": 8, "use_peft": True, "lora_target_modules": ["all-linear"]}
    less, more = (planned("ppo", settings | some, prompt_tokens=64) for some in (smaller, larger))
    assert gib(less, "activations") < gib(more, "activations")


def test_a_frozen_head_by_hand():
    """1000 tokens, a vocabulary of 50,000, H 64: a piece of logits, thrice a part of it, and twice a hidden state."""
    shape = Shape(2, 64, 160, 4, 2, 16, 50_000)
    kept = 2 * 4 * 1000 * 64
    assert frozen_head(shape, 1000, Precision(4, 4), on_cpu=True) == 4 * 2**24 + 3 * 4 * 2**20 + kept
    assert frozen_head(shape, 1000, Precision(4, 2), on_cpu=False) == 2 * 64 * 50_000 + 2 * 5e7 + 12 * 2**24 + kept
    assert kept_head(shape, 1000, 4, trained=False) > 2 * 4 * 1000 * 50_000


@pytest.mark.parametrize(
    "settings",
    [
        {"use_peft": False},
        {"entropy_coef": 0.1, "loss_type": "bnpo"},
        {"cast_lm_head_to_fp32": True},
        {"packing": False},
    ],
)
def test_a_head_that_keeps_logits_is_planned_with_them(planned, settings, monkeypatch):
    monkeypatch.setattr(ppo, "frozen_head", lambda *_, **__: 7.0 * GIB)
    adapter = {"use_peft": True, "lora_target_modules": ["all-linear"]}
    assert planned("ppo", PPO | adapter)["memory_gib"]["activations"] > 7
    assert planned("ppo", PPO | adapter | settings)["memory_gib"]["activations"] < 7


SIZES = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings", "plain"),
    [
        ("llama", {}, True),
        ("granite", {"logits_scaling": 1.0}, True),
        ("granite", {"logits_scaling": 8.0}, False),
        ("cohere", {"logit_scale": 0.0625}, False),
        ("falcon_h1", {"lm_head_multiplier": 0.5, "mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16}, False),
        ("gemma2", {"final_logit_softcapping": 30.0, "head_dim": 8}, False),
        ("gemma2", {"final_logit_softcapping": None, "head_dim": 8}, True),
    ],
)
def test_scaled_and_capped_heads_are_known_by_their_configuration(kind, settings, plain):
    config = AutoConfig.for_model(kind, **SIZES, **settings)
    tiny = AutoModelForCausalLM.from_config(config).eval()
    assert is_plain_head(tiny, tiny.get_output_embeddings()) == Model("tiny", config).plain_head == plain


def test_every_setting_by_which_trl_changes_logits_is_known():
    head = inspect.getsource(add_fused_lm_head).split("def _fused_forward")[0]
    read = re.findall(r'getattr\(text_config, "(\w+)", None\)', head)
    assert {*models.SCALES, models.CAP} == set(read)


@pytest.mark.parametrize(
    ("kind", "config", "settings"),
    [
        ("granite", {"logits_scaling": 8.0}, {}),
        ("gemma2", {"final_logit_softcapping": 30.0, "head_dim": 8}, {}),
        ("qwen2", {"dtype": "float16"}, {"dtype": "auto"}),
        # Padded rows: within the window no longer, with a router's loss, and layers of another kind.
        ("mistral", {"sliding_window": 72}, {"max_completion_length": 64}),
        ("mixtral", {"num_local_experts": 2}, {"router_aux_loss_coef": 0.001}),
        ("olmo_hybrid", {}, {}),
    ],
)
def test_models_whose_heads_keep_logits_are_planned_with_them(planned, tmp_path, monkeypatch, kind, config, settings):
    monkeypatch.setattr(ppo, "frozen_head", lambda *_, **__: 7.0 * GIB)
    adapter = {"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"]}
    AutoConfig.for_model(kind, **SIZES, **config).save_pretrained(tmp_path / "other")
    other = {"model_name_or_path": str(tmp_path / "other")} | settings
    assert planned("ppo", PPO | adapter, prompt_tokens=16)["memory_gib"]["activations"] > 7
    assert planned("ppo", PPO | adapter | other, prompt_tokens=16)["memory_gib"]["activations"] < 7


@pytest.mark.parametrize("stage", ["ppo", "prm"])
def test_rows_beyond_a_window_are_planned_with_padding(planned, tmp_path, stage):
    """A window of 72, and prompts of 40 or 41 with completions of 32."""
    config = AutoConfig.for_model("mistral", **SIZES, sliding_window=72)
    config.save_pretrained(tmp_path / "other")
    rows, tokens = {"data": "rows.jsonl", "per_device_train_batch_size": 4, "packing": True}, {"completion_tokens": 32}
    settings, tokens = (PPO | {"max_completion_length": 32}, {}) if stage == "ppo" else (rows, tokens)
    settings = settings | {"model_name_or_path": str(tmp_path / "other")}
    within, beyond = (planned(stage, settings, prompt_tokens=n, **tokens) for n in (40, 41))
    unpacked = planned(stage, settings | {"packing": False}, prompt_tokens=41, **tokens)
    assert gib(beyond, "activations") == gib(unpacked, "activations")
    assert gib(beyond, "activations") > gib(within, "activations")
    if stage == "ppo":
        assert beyond["tokens"] > 1.5 * within["tokens"]


def test_the_peak_is_whichever_of_sampling_and_update_is_more(planned):
    for settings in ({}, {"steps_per_generation": 2000, "gradient_accumulation_steps": 2000}):
        parts = planned("ppo", PPO | settings)["memory_gib"]
        moments = parts["gradients"] + parts["activations"], parts["kv_cache"]
        assert parts["total"] == pytest.approx(parts["weights"] + parts["optimizer"] + max(moments))
        assert (moments[1] > moments[0]) == bool(settings)


@pytest.mark.parametrize("stage", ["sample", "score"])
def test_a_model_that_only_reads_has_no_optimizer(planned, stage):
    data = {"problems": "problems.jsonl"} if stage == "sample" else {"data": "rows.jsonl"}
    actual = planned(stage, data | {"dtype": "bfloat16"})
    assert actual["trained"] == actual["memory_gib"]["optimizer"] == actual["memory_gib"]["gradients"] == 0
    assert gib(actual, "weights") == 2 * actual["frozen"]


# --- Work


def test_tokens_and_updates_by_hand(planned):
    """Eight completions of two problems, half as long as they may be: 2 x (10 + 4 x (16 - 1)). Eight optimizer steps,
    two for each batch of completions."""
    actual = planned("ppo", PPO, prompt_tokens=20, filled=0.5)
    assert actual["tokens"] == 2 * (10 + 4 * 15)
    assert actual["updates"] == 4


def test_a_batch_of_completions_may_be_given_whole(planned):
    """32 completions are 4 micro-batches of 4 on two GPUs, two optimizer steps in each of two epochs."""
    actual = planned("ppo", PPO | {"generation_batch_size": 32}, gpus=2)
    assert actual["updates"] == 8 / 4
    assert gib(actual, "kv_cache") == 2 * gib(planned("ppo", PPO), "kv_cache")


def test_a_budget_that_no_row_fits(planned):
    actual = planned("ppo", PPO | {"tokens_per_device": 50}, prompt_tokens=40)
    assert actual["faults"] == ["tokens_per_device is 50, and the longest row has 71: set it to that or more"]
    assert not actual["fits"]


def test_hours_are_operations_over_speed(planned):
    settings = {"data": "rows.jsonl", "max_steps": 1000, "num_train_epochs": 1}
    actual = planned("sft", settings, gpus=2, tflops=1.0, utilisation=0.5)
    assert actual["hours"] == pytest.approx(1000 * actual["flops"] / (2 * 1e12 * 0.5) / 3600)


def test_rows_are_counted_or_given(planned, tmp_path):
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 4, "data": str(tmp_path / "rows.jsonl")}
    assert planned("sft", settings)["hours"] is None
    assert planned("sft", settings, rows=40)["updates"] == 30
    (tmp_path / "rows.jsonl").write_text("{}\n" * 8, encoding="utf-8")
    assert planned("sft", settings, rows=40)["updates"] == 6
    # As rlstep writes many rows, and as published data comes.
    shards = tmp_path / "shards"
    shards.mkdir()
    write_solutions(shards / "part-00000.parquet", [Solution("p", "Q", "A", "A", sample=k) for k in range(8)])
    write_solutions(shards / "part-00001.parquet", [Solution("q", "Q", "A", "A", sample=k) for k in range(4)])
    assert planned("sft", settings | {"data": str(shards)})["updates"] == 9
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 4))
    assert planned("sft", settings | {"data": str(tmp_path / "rows.jsonl.gz")})["updates"] == 3


# --- What to change


def test_one_setting_that_is_enough_is_named(planned):
    """The total that is promised is the one of the changed recipe."""
    settings = {"data": "rows.jsonl", "per_device_train_batch_size": 64, "gradient_checkpointing": False}
    whole = planned("sft", settings)["memory_gib"]["total"]
    less = planned("sft", settings | {"gradient_checkpointing": True})["memory_gib"]["total"]
    actual = planned("sft", settings, memory=(whole + less) / 2, headroom=0.0)
    assert not actual["fits"]
    assert actual["remedies"] == [f"set gradient_checkpointing: true: {less:.1f} GiB"]


def test_a_smaller_batch_keeps_the_global_one(planned):
    settings = {"data": "rows.jsonl", "per_device_train_batch_size": 64, "gradient_checkpointing": True}
    whole = planned("sft", settings)["memory_gib"]["total"]
    (remedy,) = planned("sft", settings, memory=0.7 * whole, headroom=0.0)["remedies"]
    assert "per_device_train_batch_size: 32, gradient_accumulation_steps: 2" in remedy


def test_what_nothing_helps_is_said(planned):
    (remedy,) = planned("sft", {"data": "rows.jsonl"}, memory=1e-4)["remedies"]
    assert remedy.endswith("still too much: take more GPUs with deepspeed, or a smaller model")


# --- Recipes and models


def test_a_folder_is_planned_from_models_that_are_still_to_be_trained(tmp_path, base, capsys):
    folder, runs = tmp_path / "mine", tmp_path / "runs"
    folder.mkdir()
    recipes = {
        "sft": {"model_name_or_path": str(base), "data": "d.jsonl", "output_dir": f"{runs}/sft"},
        "prm": {"model_name_or_path": f"{runs}/sft", "data": "d.jsonl", "output_dir": f"{runs}/prm",
                "use_peft": True, "merge_adapter": False},
        "ppo_process": PPO | {"model_name_or_path": f"{runs}/sft", "output_dir": f"{runs}/ppo", "use_peft": True,
                              "lora_target_modules": ["all-linear"], "reward": ["prm"], "prm": f"{runs}/prm"},
        "report": {"run": "x"},
    }  # fmt: skip
    for name, settings in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    metrics = plan(PlanConfig(str(folder)))
    actual = metrics["plans"]
    assert [*actual] == ["mine/sft", "mine/prm", "mine/ppo_process"]
    whole, adapter = actual["mine/sft"]["trained"], actual["mine/prm"]["trained"] - LABELS
    # The PRM's adapter and head are on the policy's own base, which is there once.
    assert actual["mine/ppo_process"]["frozen"] == whole + adapter + LABELS
    assert gib(actual["mine/ppo_process"], "weights") == 4 * (whole + 2 * adapter + LABELS)
    text = capsys.readouterr().out
    assert "Memory of a GPU in GiB" in text
    assert metrics["fitting"] == 3


def test_a_shipped_recipe_with_a_model_of_its_size(base, capsys):
    assert cli.main(["plan", "gsm8k/ppo_process", "--model", str(base), "--gpus", "8", "--memory", "40", "--json"]) == 0
    actual = json.loads(capsys.readouterr().out)["gsm8k/ppo_process"]
    assert actual["updates"] == 200  # its header says so
    assert actual["memory_gib"]["vllm"] == pytest.approx(0.3 * 40)


def test_a_shipped_folder_without_a_generator(base, capsys):
    metrics = plan(PlanConfig("math_shepherd", model=str(base)))
    assert [*metrics["plans"]] == ["math_shepherd/prm_1.5b_lora", "math_shepherd/prm_7b"]


def test_deepspeed_beside_a_recipe_that_names_its_own_is_refused(planned):
    settings = {"data": "rows.jsonl", "deepspeed": "ds_configs/zero3.json"}
    with pytest.raises(UserError, match="deepspeed is for recipes that name none, and .*sft.yaml names its own; leave"):
        planned("sft", settings, gpus=4, deepspeed="ds_configs/zero2.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "nowhere"}, "nowhere: no such file, and no shipped recipe of that name"),
        ({"recipe": "arithmetic/label"}, "its name does not begin with sft, prm"),
        ({"recipe": "gsm8k", "stage": "ppo"}, "leave out stage"),
        ({"recipe": "gsm8k/ppo", "deepspeed": "none.json", "model": "."}, "deepspeed none.json"),
    ],
)
def test_wrong_input_is_one_line(options, message, base):
    if options.get("model"):
        options = options | {"model": str(base)}
    with pytest.raises(UserError, match=message):
        plan(PlanConfig(**options))


def test_a_model_that_is_not_there_is_one_line(planned, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="there is no config.json, no recipe of the plan writes it, .* with --model"):
        planned("sft", {"data": "rows.jsonl", "model_name_or_path": "runs/none/sft"})


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("ppo", {"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; it must be at least 1"),
        ("ppo", {"num_generations": 0}, "num_generations is 0; it must be at least 2"),
        ("ppo", {"num_iterations": 0}, "num_iterations is 0; it must be at least 1"),
        ("ppo", {"max_completion_length": None}, "max_completion_length is null"),
        ("ppo", {"model_name_or_path": None}, "model_name_or_path is missing"),
        ("ppo", {"use_vllm": True, "vllm_tensor_parallel_size": 0}, "vllm_tensor_parallel_size is 0; it must be at"),
        ("sft", {"use_peft": True, "lora_r": -1}, "lora_r is -1; it must be at least 1"),
        ("prm", {"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; it must be at least 1"),
        ("sample", {"n": 0}, "n is 0; it must be at least 1"),
    ],
)
def test_numbers_that_a_run_refuses_are_one_line(planned, stage, settings, message):
    rest = {"ppo": PPO, "sample": {"problems": "problems.jsonl"}}.get(stage, {"data": "rows.jsonl"})
    with pytest.raises(UserError, match=rf"{stage}\.yaml: .*{message}"):
        planned(stage, rest | settings)


@pytest.mark.parametrize(
    ("stage", "option", "message"),
    [
        ("ppo", {"completion_tokens": 64}, "completion_tokens is for plans of sft, prm, orm, score, and .* is of ppo"),
        ("sft", {"sampling_utilisation": 0.5}, "sampling_utilisation is for plans of sample, ppo, and .* is of sft"),
        ("sample", {"utilisation": 0.5}, "utilisation is for plans of sft, .* is of sample"),
        ("score", {"deepspeed": "ds.json"}, "deepspeed is for plans of sft, prm, orm, ppo, and .* is of score"),
    ],
)
def test_options_that_a_plan_does_not_read_are_refused(planned, stage, option, message):
    rest = {"ppo": PPO, "sample": {"problems": "problems.jsonl"}}.get(stage, {"data": "rows.jsonl"})
    with pytest.raises(UserError, match=message):
        planned(stage, rest, **option)


def test_layers_that_the_model_does_not_have_are_one_line(planned):
    with pytest.raises(UserError, match="no module is named 'query'"):
        planned("ppo", PPO | {"use_peft": True, "lora_target_modules": ["query"]})


def test_a_file_of_another_name_has_its_stage_named(tmp_path, base):
    file = tmp_path / "mine.yaml"
    settings = {"model_name_or_path": str(base), "data": "d.jsonl", "output_dir": "o"}
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert plan(PlanConfig(str(file), stage="orm"))["recipes"] == 1
