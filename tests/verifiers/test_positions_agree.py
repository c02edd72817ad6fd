"""Training and scoring read the same token of each step, and it is the step's last one."""

import pytest
import torch

from rlstep.steps.boundaries import line_steps
from rlstep.steps.records import Solution
from rlstep.verifiers.pretrained import auto_class_of, load_config, load_weights
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.training.trainer import PRMTrainer

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
COMPLETIONS = ["7 + 3 = 10\n10 * 7 = 10\nAnswer: 10", "7 + 3 = 11\n\n11 * 7 = 17\n Answer: 17", "Answer: 3\n", "7"]


@pytest.fixture
def model(verifier_paths):
    """A verifier whose value at a position is a function of the token there alone, another for each token."""
    model = load_weights(
        auto_class_of("classification"), verifier_paths["prm"], load_config(verifier_paths["prm"]), "float32", False
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model


def log_odds_at_step_ends(model, tokenizer, completion: str) -> torch.Tensor:
    """(S,). Knows nothing of offsets: it decodes ever longer prefixes until the step's text is complete."""
    ids = tokenizer(PROMPT)["input_ids"] + tokenizer(completion)["input_ids"]
    prefixes = [tokenizer.decode(ids[: index + 1]) for index in range(len(ids))]
    ends = [prefixes.index(PROMPT + completion[:end]) for _, end in line_steps(completion)]
    with torch.no_grad():
        logits_T2 = model(torch.tensor([ids])).logits[0]
    odds_T = logits_T2[:, 1] - logits_T2[:, 0]
    for end in ends:
        # A token earlier or later has another value.
        beside = [odds_T[place] for place in (end - 1, end + 1) if place < len(odds_T)]
        assert all((odds - odds_T[end]).abs() > 1e-3 for odds in beside)
    return odds_T[ends]


@pytest.mark.parametrize("packing", [True, False])
def test_scores_are_read_at_the_last_token_of_each_step(model, tokenizer, packing):
    actual = RewardModel(model, tokenizer, "prm", packing=packing).score([PROMPT] * len(COMPLETIONS), COMPLETIONS)
    for completion, scores in zip(COMPLETIONS, actual, strict=True):
        assert scores == pytest.approx(log_odds_at_step_ends(model, tokenizer, completion).sigmoid().tolist(), abs=1e-6)


@pytest.mark.parametrize("packing", [True, False])
def test_training_teaches_the_last_token_of_each_step(model, tokenizer, arguments, packing):
    """Each row's loss, evaluated alone, is that of its labels at those tokens."""
    for completion in COMPLETIONS:
        steps = line_steps(completion)
        labels = [0.75] * (len(steps) - 1) + [0]
        row = Solution("p", PROMPT, completion, "10", steps=steps, labels=labels, correct=False)
        trainer = PRMTrainer(model, arguments(packing=packing), None, [row], processing_class=tokenizer)
        odds_S = log_odds_at_step_ends(model, tokenizer, completion)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(odds_S, torch.tensor(labels, dtype=torch.float))
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), abs=1e-5)
