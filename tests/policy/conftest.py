"""Trainers whose completions and judgements are set by hand, and the arguments of short runs."""

import re
from dataclasses import dataclass, replace

import pytest


@dataclass(frozen=True)
class Row:
    """One sampled completion and what it is worth.

    Attributes:
        text: the completion; its lines are its steps.
        step_rewards: one a line.
        outcome: the outcome's reward.
        finished: whether it ends with an end-of-sequence token.
    """

    text: str
    step_rewards: tuple[float, ...] = ()
    outcome: float = 0.0
    finished: bool = True


@pytest.fixture
def row():
    return Row


@pytest.fixture
def arguments(ppo_arguments):
    return ppo_arguments


@pytest.fixture
def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture
def pays_ones():
    """A reward source: every line with a 1 is worth 1, and a text of odd length as a whole 1 more."""
    from rlstep.policy.rewards.scored import ScoredCompletion
    from rlstep.steps.boundaries import line_steps

    def judge(prompts, completions, references):
        scored = []
        for text in completions:
            steps = line_steps(text)
            worth = [float("1" in text[start:end]) for start, end in steps]
            scored.append(ScoredCompletion(steps, worth, float(len(text) % 2), correct=False, clean=False))
        return scored

    return judge


@pytest.fixture
def scripted(tiny_lm, tokenizer, arguments, lora):
    """Makes a trainer that "samples" the given rows, a problem's two samples one after the other.

    Newlines are tokens of their own, which the tokenizer itself would not make them: a policy may sample so.

    `trainer.batch()` is what the data hook gives to the loss for them, in the rows' order. `trainer.sample_by(write)`
    has `write(prompt_ids, n)` write completions instead, None the model itself. `trainer.logged()` is what is logged of
    the batches since it was last asked.
    """
    from datasets import Dataset

    from rlstep.policy.rewards.scored import ScoredCompletion
    from rlstep.policy.trainer import StepPPOTrainer
    from rlstep.steps.boundaries import line_steps

    def judge(row: Row) -> ScoredCompletion:
        right = row.outcome > 0
        return ScoredCompletion(line_steps(row.text), list(row.step_rewards), row.outcome, correct=right, clean=right)

    def make(rows: list[Row], source=None, adapter=True, **changes) -> StepPPOTrainer:
        def judge_rows(prompts, completions, references):
            assert list(completions) == [row.text for row in rows]
            return [judge(row) for row in rows]

        data = [{"prompt": f"{number}\n", "reference": "1"} for number in range(len(rows) // 2)]
        trainer = StepPPOTrainer(
            tiny_lm,
            source or judge_rows,
            arguments(**{"per_device_train_batch_size": len(rows), "whiten_advantages": "none"} | changes),
            Dataset.from_list(data),
            processing_class=tokenizer,
            peft_config=replace(lora) if adapter else None,
        )
        pieces = [re.findall(r"[^\n]+|\n", row.text) for row in rows]
        ids = [
            [i for piece in line for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
            + [tokenizer.eos_token_id] * row.finished
            for line, row in zip(pieces, rows, strict=True)
        ]

        # TRL's own names, here alone; test_trl_seam.py holds TRL to them.
        def sample_by(write) -> None:
            if write is None:
                del trainer._generate_single_turn
            else:
                trainer._generate_single_turn = lambda prompt_ids, *rest: (write(prompt_ids, rest[-1]), None)

        def logged() -> dict[str, float]:
            trainer.log(logs := {})
            return logs

        trainer.sample_by, trainer.logged, trainer.row_ids = sample_by, logged, ids
        trainer.sample_by(lambda prompt_ids, n: [list(row) for row in ids])
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        trainer.batch = lambda: trainer._generate_and_score_completions([data[i // 2] for i in range(len(rows))])
        return trainer

    return make
