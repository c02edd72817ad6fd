"""A policy sampled by vLLM in the trainer's own process; in place of vLLM's engine stands a model of transformers."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl.generation import vllm_generation

from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.steps.boundaries import line_steps


class Engine:
    """As much of `vllm.LLM` as TRL uses; writes one token, the likeliest, and then the end.

    Attributes:
        asked: (prompts, sampling parameters) of each call.
        loaded: the names of all tensors that were loaded, in order.
    """

    eos: int

    def __init__(self, model: str, **_):
        self.model, self.asked, self.loaded = AutoModelForCausalLM.from_pretrained(model), [], []
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=SimpleNamespace(load_weights=self._load)))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=runner))

    def _load(self, pairs):
        parameters = dict(self.model.named_parameters())
        for name, tensor in pairs:
            self.loaded.append(name)
            parameters[name].data.copy_(tensor)

    def reset_prefix_cache(self):
        pass

    @torch.no_grad()
    def generate(self, prompts, sampling_params, use_tqdm):
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        self.asked.append((ids, sampling_params))
        return [self._output(row) for row in ids]

    def _output(self, ids: list[int]):
        logprobs = self.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        tokens = [int(logprobs.argmax()), self.eos]
        entries = [{token: SimpleNamespace(rank=1, logprob=float(logprobs[token]))} for token in tokens]
        completion = SimpleNamespace(token_ids=tokens, logprobs=entries)
        return SimpleNamespace(prompt_token_ids=ids, outputs=[completion])


@pytest.fixture
def make(tiny_lm, tokenizer, arguments, lora, monkeypatch):
    one_process = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # fmt: skip
    for name, value in one_process.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Engine, "eos", tokenizer.eos_token_id, raising=False)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", Engine, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)

    def judge(prompts, completions, references):
        steps = [line_steps(text) for text in completions]
        return [
            ScoredCompletion(spans, [1.0] * len(spans), float(i % 2), correct=False, clean=False)
            for i, spans in enumerate(steps)
        ]

    def trainer(**changes) -> StepPPOTrainer:
        rows = [{"prompt": "7 + 3\n", "reference": "1"}, {"prompt": "5 + 6\n", "reference": "1"}]
        return StepPPOTrainer(
            tiny_lm,
            judge,
            arguments(use_vllm=True, num_iterations=1, **changes),
            Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
        )

    yield trainer
    # The variables made accelerate start a process group, which later tests would find started.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_critic_stays_out_of_what_is_loaded(make):
    trainer = make(advantage="gae")
    trainer.train()
    engine = trainer.vllm_generation.llm
    names = [name for name, _ in engine.model.named_parameters()]
    assert engine.loaded == names * 2
    logged = [line for line in trainer.state.log_history if "critic/value_loss" in line]
    assert [line["sampling/sampling_logp_difference/mean"] < 1 for line in logged] == [True] * 2


def test_rollouts_get_what_is_left_of_the_budget(make):
    trainer = make()
    engine = trainer.vllm_generation.llm
    drawn = trainer.rollouts.sample(2, [[5, 6], [7]], 3)
    assert [len(of_one) for of_one in drawn] == [2, 2]
    [(prompts, sampling)] = engine.asked
    assert (prompts, sampling.n, sampling.max_tokens) == ([[5, 6], [5, 6], [7], [7]], 1, 3)
    trainer.train()
    assert [sampling.max_tokens for _, sampling in engine.asked] == [3, 16, 16]


def test_rollouts_come_in_batches_of_the_samples_number(make):
    """Two prompts, each with its first step's end if it has one; three rollouts each, four sequences at a time."""
    trainer = make(advantage="vine", vine_rollouts=3, max_steps=1)
    trainer.train()
    sampled, *rolled = trainer.vllm_generation.llm.asked
    assert len(sampled[0]) == 4
    assert {len(prompts) for prompts, _ in rolled} == {3}
