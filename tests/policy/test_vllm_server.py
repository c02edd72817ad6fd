"""A policy sampled by a vLLM server. TRL's client talks to a stub; the communicator alone is replaced."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl.generation import vllm_client, vllm_generation

from rlstep.policy.trainer import StepPPOTrainer
from rlstep.runtime import failure
from rlstep.runtime.errors import UserError
from tests.policy.vllm_server import BASE, StubVLLM

PROMPTS = ["7 + 3\n", "Left to right, mod 20: 7 + 3 * 7\n"]


@pytest.fixture
def serve(tiny_lm, tokenizer, monkeypatch):
    """Makes a server, for whose protocol TRL's client is then ready."""
    servers = []

    def carry(iterator, trainer_args):
        assert trainer_args.group == "the group"
        servers[-1].sent.put([(name, tensor.clone()) for name, tensor in iterator])

    def init_communicator(client, device):
        client._post(f"{client.base_url}/init_weight_transfer_engine", json={})
        client.communicator = "the group"

    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda *_: True)
    monkeypatch.setattr(vllm_client, "_HAS_STATEFUL_TRAINER_ENGINE", False)
    engine = SimpleNamespace(trainer_send_weights=carry)
    monkeypatch.setattr(vllm_client, "NCCLWeightTransferEngine", engine, raising=False)
    monkeypatch.setattr(vllm_client, "NCCLTrainerSendWeightsArgs", SimpleNamespace, raising=False)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", init_communicator)

    def start(**options) -> StubVLLM:
        servers.append(StubVLLM(tiny_lm, tokenizer.eos_token_id, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def make(tiny_lm, tokenizer, arguments, lora, pays_ones):
    """Makes a trainer whose policy the server samples; every line with a 1 is worth 1."""

    def trainer(server: StubVLLM, adapter: bool = True, **changes) -> StepPPOTrainer:
        return StepPPOTrainer(
            tiny_lm,
            pays_ones,
            arguments(use_vllm=True, vllm_mode="server", vllm_server_base_url=server.url, **changes),
            Dataset.from_list([{"prompt": prompt, "reference": "1"} for prompt in PROMPTS] * 2),
            processing_class=tokenizer,
            peft_config=lora if adapter else None,
        )

    return trainer


def differences(trainer) -> list[float]:
    """Of each update, the greatest between a token's log-probability on the server and in the policy."""
    return [
        line["sampling/sampling_logp_difference/max"]
        for line in trainer.state.log_history
        if "sampling/sampling_logp_difference/max" in line
    ]


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "whole weights"])
def test_the_critic_stays_out_of_what_is_sent(serve, make, adapter):
    """The server gets its own parameters, no more and no fewer, and samples what the policy then is."""
    server = serve()
    names = [name for name, _ in server.model.named_parameters()]
    trainer = make(server, adapter, advantage="gae", max_steps=3, num_iterations=1)
    assert any("critic" in name for name, _ in trainer.model.named_parameters())
    trainer.train()
    assert [sorted(update) for update in server.updates] == [sorted(names)] * 3
    assert len(differences(trainer)) == 3
    assert max(differences(trainer)) < 1e-4
    # The check can fail: the policy moves by far more than that from one update to the next.
    before = AutoModelForCausalLM.from_pretrained(server.path)
    ids = torch.arange(1, 9)[None]
    assert (server.model(ids).logits - before(ids).logits).abs().max() > 1e-2
    assert [line["critic/value_loss"] > 0 for line in trainer.state.log_history if "loss" in line] == [True] * 3


def test_rollouts_are_one_request(serve, make, tokenizer):
    """TRL asks once for the samples of a batch, then come all states at once, each once with n rollouts."""
    server = serve()
    trainer = make(server, advantage="vine", vine_rollouts=3, max_steps=2, num_iterations=1)
    trainer.train()
    sampled, rolled, *again = server.asked("v1/completions")
    assert [body["n"] for body in (sampled, rolled, *again)] == [2, 3, 2, 3]
    assert sampled["max_tokens"] == rolled["max_tokens"] == 16
    states = rolled["prompt"]
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    assert len({tuple(ids) for ids in states}) == len(states)
    assert all(any(ids[: len(prompt)] == prompt for prompt in prompts) for ids in states)
    assert all(prompt in states for prompt in prompts)
    logged = [line["vine/states"] for line in trainer.state.log_history if "vine/states" in line]
    assert logged == [len(states), len(again[1]["prompt"])]
    # As for the samples: the weights of the moment, and the settings of the run.
    assert len(server.updates) == 2
    assert {key: rolled[key] for key in ("temperature", "top_p", "top_k", "min_p")} == {
        key: sampled[key] for key in ("temperature", "top_p", "top_k", "min_p")
    }


def test_rollouts_come_back_in_order_and_within_the_context(serve, make, tokenizer):
    """A context of 12 leaves a prefix of 4 tokens 8 new ones, and one of 9 three; what has room shares a request."""
    server = serve(context=12)
    rollouts = make(server, temperature=1e-3).rollouts
    eos = tokenizer.eos_token_id
    prefixes = [[5, 6, 7, 8, 5, 6, 7, 8, 9], [5], [6, 7], [5, 6, 7, 8, 9, 8, 7, 6, 5], [5, 6, 7, 8]]
    drawn = rollouts.sample(2, prefixes, 5)
    asked = sorted((body["max_tokens"], body["prompt"]) for body in server.asked("v1/completions"))
    assert asked == [(3, [prefixes[0], prefixes[3]]), (5, [prefixes[1], prefixes[2], prefixes[4]])]
    for ids, continuations, limit in zip(prefixes, drawn, (3, 5, 5, 3, 5), strict=True):
        # At that temperature both are the likeliest tokens.
        likeliest, text = [], list(ids)
        while len(likeliest) < limit and eos not in likeliest:
            likeliest.append(int(server.model(torch.tensor([text])).logits[0, -1].argmax()))
            text.append(likeliest[-1])
        assert continuations == [likeliest] * 2


def test_texts_are_continued_in_one_request(serve, make):
    server = serve()
    texts = make(server).rollouts.sample_texts([(PROMPTS[0], ""), (PROMPTS[1], "7 + 3"), (PROMPTS[0], "1")], n=4)
    assert [len(of_one) for of_one in texts] == [4, 4, 4]
    [asked] = server.asked("v1/completions")
    assert (len(asked["prompt"]), asked["n"], asked["max_tokens"]) == (3, 4, 16)


def test_the_adapter_alone_is_sent(serve, make, tmp_path):
    """Each update is a new name, which the requests that follow ask for; the last one's files and name go."""
    server = serve(max_lora_rank=8)
    trainer = make(server, advantage="gae", vllm_sync="adapter", max_steps=3, num_iterations=1)
    base = {name: p.clone() for name, p in trainer.model.named_parameters() if "base_layer" in name}
    trainer.train()
    paths = [path for path, _ in server.calls]
    assert not {"init_weight_transfer_engine", "start_weight_update", "update_weights"} & set(paths)
    loaded = server.asked("v1/load_lora_adapter")
    names = [body["lora_name"] for body in loaded]
    assert len(set(names)) == 3
    assert [body["model"] for body in server.asked("v1/completions")] == names
    assert [body["lora_name"] for body in server.asked("v1/unload_lora_adapter")] == names[:2]
    assert list(server.adapters) == names[2:]
    folder = tmp_path / "out" / "_vllm_adapter"
    assert [path.name for path in folder.iterdir()] == names[2:]
    assert loaded[2]["lora_path"] == str(folder / names[2])
    # What is served is the policy, and the critic's adapter is not in it.
    assert len(differences(trainer)) == 3
    assert max(differences(trainer)) < 1e-4
    config = json.loads((folder / names[2] / "adapter_config.json").read_text())
    assert (config["r"], config["task_type"]) == (4, "CAUSAL_LM")
    served = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(server.path), folder / names[2])
    assert all(p.any() for name, p in served.named_parameters() if "lora_B" in name)
    # Nothing was merged: the base is what it was to the last bit.
    for name, p in trainer.model.named_parameters():
        assert name not in base or torch.equal(p, base[name])


def test_rollouts_use_the_adapter_too(serve, make):
    server = serve(max_lora_rank=8)
    trainer = make(server, advantage="vine", vine_rollouts=2, vllm_sync="adapter", max_steps=2, num_iterations=1)
    trainer.train()
    first, second = (body["lora_name"] for body in server.asked("v1/load_lora_adapter"))
    assert [body["model"] for body in server.asked("v1/completions")] == [first] * 2 + [second] * 2


def test_another_run_takes_other_names_on_a_server_that_stays(serve, make):
    server = serve(max_lora_rank=8)
    for _ in range(2):
        make(server, vllm_sync="adapter", max_steps=1, num_iterations=1).train()
    names = [body["lora_name"] for body in server.asked("v1/load_lora_adapter")]
    assert len(set(names)) == 2
    # What a run left that was killed goes when the next one starts, as this one in the same folder.
    assert [body["lora_name"] for body in server.asked("v1/unload_lora_adapter")] == names[:1]
    assert list(server.adapters) == names[1:]
    failure.clean_up()
    assert not server.adapters


@pytest.mark.parametrize(
    ("server", "policy", "message"),
    [
        ({}, {}, "serves no adapters; restart it with --enable-lora --max-lora-rank 8"),
        ({"max_lora_rank": 1}, {}, "has rank 4, and the vLLM server at .* serves ranks up to 1; .*--max-lora-rank 8"),
        ({"max_lora_rank": 8, "copies": 2}, {}, "has 2 data-parallel copies.*--data-parallel-size 1"),
        ({"max_lora_rank": 8}, {"adapter": False}, "the policy trains whole weights; set use_peft: true"),
    ],
)
def test_servers_that_cannot_serve_the_adapter_are_refused_at_once(serve, make, server, policy, message):
    with pytest.raises(UserError, match=message):
        make(serve(**server), vllm_sync="adapter", **policy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "vllm_sync is 'adapter': DoRA adapters are not servable by vLLM"),
        ({"modules_to_save": ["lm_head"]}, "vllm_sync is 'adapter': `modules_to_save="),
        ({"bias": "all"}, "vllm_sync is 'adapter': `bias='all'`"),
    ],
)
def test_adapters_that_vllm_cannot_serve_are_refused_at_once(serve, make, lora, changes, message):
    for name, value in changes.items():
        setattr(lora, name, value)
    with pytest.raises(UserError, match=message):
        make(serve(max_lora_rank=8), vllm_sync="adapter")


def test_a_server_that_does_not_load_adapters_is_named(serve, make):
    trainer = make(serve(max_lora_rank=8, updating=False), vllm_sync="adapter")
    with pytest.raises(UserError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.*If it has that, it cannot read"):
        trainer.train()


def test_merged_weights_are_the_default(serve, make):
    server = serve(max_lora_rank=8)
    make(server, max_steps=1, num_iterations=1).train()
    assert not server.asked("v1/load_lora_adapter")
    assert [body["model"] for body in server.asked("v1/completions")] == [BASE]
    assert len(server.updates) == 1
