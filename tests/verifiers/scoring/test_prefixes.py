"""Rows that continue a cached beginning get the values that they have alone."""

import pytest
import torch
from transformers import AutoModelForTokenClassification, LlamaConfig, Qwen2Config

from rlstep.verifiers.features import Feature
from rlstep.verifiers.forward import Prefix, collate, logits_at
from rlstep.verifiers.scoring.prefixes import can_cache, families, without_prefix
from rlstep.verifiers.scoring.reward_model import RewardModel

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip


def model_of(config, attention: str = "sdpa"):
    torch.manual_seed(0)
    return AutoModelForTokenClassification.from_config(config, attn_implementation=attention).eval()


def features() -> list[Feature]:
    """Six rows on a prompt of 20 tokens and two on their own, asked at two places each."""
    generator = torch.Generator().manual_seed(0)

    def words(n: int) -> torch.Tensor:
        return torch.randint(1, 60, (n,), generator=generator)

    prompt = words(20)
    rows = [torch.cat([prompt, words(n)]) for n in (5, 30, 12, 12, 7, 3)] + [words(9), words(25)]
    return [Feature(row, torch.tensor([len(row) - 3, len(row) - 1])) for row in rows]


def test_a_family_is_what_shares_enough_and_its_prefix_is_asked_nowhere():
    rows = features()
    groups, alone = families(rows)
    assert sorted(alone) == [6, 7]
    (family,) = groups
    assert family.members[0] == 1  # the longest first
    assert sorted(family.members) == [0, 1, 2, 3, 4, 5]
    assert family.prefix == rows[0].ids[:20].tolist()
    early = [Feature(row.ids, torch.tensor([15, len(row.ids) - 1])) for row in rows]
    assert len(families(early)[0][0].prefix) == 15


def test_little_to_share_is_not_worth_a_pass():
    rows = features()
    assert families(rows[:1])[0] == []
    long = [
        Feature(torch.cat([row.ids[:10], torch.arange(400) % 50 + i]), torch.tensor([405]))
        for i, row in enumerate(rows[:2])
    ]
    assert families(long)[0] == []


def test_problems_behind_one_instruction_keep_their_own_prompts():
    instruction = torch.arange(1, 31)
    rows = []
    for problem in range(3):
        prompt = torch.cat([instruction, torch.full((40,), 40 + problem)])
        rows += [torch.cat([prompt, torch.full((6,), 50 + sample)]) for sample in range(4)]
    asked = [Feature(row, torch.tensor([len(row) - 1])) for row in rows]
    groups, alone = families(asked)
    assert alone == []
    assert sorted(len(family.prefix) for family in groups) == [70, 70, 70]
    assert sorted(sorted(family.members) for family in groups) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config", [Qwen2Config(**SIZES), LlamaConfig(**SIZES)], ids=["qwen2", "llama"])
def test_logits_are_those_of_single_rows(config, attention):
    model = model_of(config, attention)
    assert can_cache(model)
    rows = features()[:6]
    with torch.no_grad():
        prefix = Prefix.of(model, rows[0].ids[:20].tolist())
        rest = [without_prefix(row, 20) for row in rows]
        for _ in range(2):  # the cache is left as it was
            actual = logits_at(model, collate(rest, 0, packing=True), prefix)
            alone = torch.cat([model(row.ids[None]).logits[0, row.positions] for row in rows])
            torch.testing.assert_close(actual, alone, atol=1e-5, rtol=0)


def test_a_model_without_such_a_cache_is_packed_instead():
    class NoCache(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner, self.config, self.device, self.dtype = model, model.config, model.device, model.dtype

        base_model = property(lambda self: self)

        def forward(self, input_ids, use_cache=False, **_):
            return self.inner(input_ids)

    assert not can_cache(NoCache(model_of(Qwen2Config(**SIZES))))


def test_samples_of_a_problem_compute_their_prompt_once(verifier_paths, task):
    verifier = RewardModel.from_pretrained(verifier_paths["prm"])
    (problem,) = task.problems("train", 1, seed=0)
    solutions = task.demonstrations(40, seed=1)
    prompts, completions = [problem.prompt] * 40, [s.completion for s in solutions]
    length = len(verifier.tokenizer(problem.prompt)["input_ids"])
    cached = verifier.score(prompts, completions)
    with_cache, verifier.tokens_scored, verifier.caching = verifier.tokens_scored, 0, False
    packed = verifier.score(prompts, completions)
    verifier.packing = False
    padded = verifier.score(prompts, completions)
    for left, middle, right in zip(cached, packed, padded, strict=True):
        assert left == pytest.approx(right, abs=1e-5)
        assert middle == pytest.approx(right, abs=1e-5)
    unique = {c: len(verifier.tokenizer(c)["input_ids"]) for c in completions}
    assert with_cache < length + 1.3 * sum(unique.values())
