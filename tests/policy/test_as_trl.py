"""Where completions are paid as a whole, a training is that of TRL's GRPOTrainer: the same weights, the same log."""

import random

import pytest
import torch
from datasets import Dataset
from transformers import set_seed
from trl import GRPOTrainer

from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.policy.trainer import StepPPOTrainer

PROMPTS = ["1\n", "2 + 3 = 5\n", "1\n", "1 + 2 + 3 + 4\n"]  # of 1 to 14 tokens, one of them twice
ONE_PASS = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
# Read once and trained on in another order, which TRL shuffles row by row, and rlstep problem by problem.
IN_PARTS = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}


def worth(text: str) -> float:
    return float(len(text) % 3)


def judge(prompts, completions, references) -> list[ScoredCompletion]:
    return [ScoredCompletion([], [], worth(text), correct=False, clean=False) for text in completions]


def pay(prompts, completions, **_) -> list[float]:
    return [worth(text) for text in completions]


def completions_of(tokenizer):
    """Of 1 to 9 tokens, with equal ones, one that begins another, one that is empty and some that are cut off."""
    drawn = random.Random(0)

    def write(prompt_ids, *rest) -> tuple[list[list[int]], None]:
        long = [drawn.randrange(3, len(tokenizer)) for _ in range(9)]
        rows = [long, long[:4], [*long[:4], tokenizer.eos_token_id], [tokenizer.eos_token_id], long[:1], long[:1]]
        return [rows[index % len(rows)] for index in range(len(prompt_ids))], None

    return write


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "grpo", "beta": 0.2, "delta": 1.5, **ONE_PASS},
        {"loss_type": "cispo", "epsilon_high": 3.0, "mask_truncated_completions": True, **ONE_PASS},
        {"loss_type": "bnpo", "top_entropy_quantile": 0.5, "entropy_coef": 0.1, **ONE_PASS},
        {"loss_type": "sapo", "sync_ref_model": True, "ref_model_sync_steps": 1, "beta": 0.2, **ONE_PASS},
        {"loss_type": "dapo", "steps_per_generation": 2, "num_iterations": 1, **IN_PARTS},
        {"loss_type": "dr_grpo", "beta": 0.2, "use_bias_correction_kl": True, **IN_PARTS},
    ],
    ids=lambda settings: settings["loss_type"],
)
def test_an_update_is_trls(tiny_lm, tokenizer, arguments, settings):
    weights, logs = [], []
    for trainer_class, rewards in ((StepPPOTrainer, {"reward_source": judge}), (GRPOTrainer, {"reward_funcs": [pay]})):
        set_seed(0)
        args = arguments(max_steps=4, optim="sgd", learning_rate=0.05, logging_steps=1, **settings)
        data = Dataset.from_list([{"prompt": prompt, "reference": "1"} for prompt in PROMPTS])
        trainer = trainer_class(tiny_lm, args=args, train_dataset=data, processing_class=tokenizer, **rewards)
        trainer._generate_single_turn = completions_of(tokenizer)
        before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
        trainer.train()
        weights.append(dict(trainer.model.named_parameters()))
        logs.append(trainer.state.log_history)
    ours, theirs = weights
    assert max((theirs[name] - before[name]).abs().max() for name in before) > 1e-3
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name], parameter, atol=1e-6, rtol=1e-4)
    named = ("loss", "grad_norm", "reward", "reward_std", "num_tokens", "completions/mean_length")
    if settings["per_device_train_batch_size"] == 8:  # means of a pass, not of all that an optimizer step reads
        named += tuple(name for name in logs[1][0] if "clip_ratio" in name or name in ("kl", "entropy"))
    for line, trls in zip(logs[0][:-1], logs[1][:-1], strict=True):
        assert {name: line.get(name) for name in named} == pytest.approx(
            {name: trls.get(name) for name in named}, abs=1e-5, nan_ok=True
        )
