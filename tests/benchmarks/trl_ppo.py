"""The PPOTrainer of TRL 1.12, the last one with it, on the work of `bench_ppo.py --work full`.

A LoRA policy and its reference, a value model and a reward model of the same shape, 64 completions of 128 tokens an
update, four epochs over them in micro-batches of the same size. The value model trains all of its weights, which is
what this trainer does; the reward model gives one number per completion, which is less work than a number per step.

It needs an environment of its own, with that version and the other packages of `constraints.txt`:

    python -m venv trl112
    trl112/bin/pip install trl==1.12.0 torch transformers peft datasets accelerate
    OMP_NUM_THREADS=1 trl112/bin/python tests/benchmarks/trl_ppo.py
    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/bench_ppo.py --work full --micro 8
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)

ROWS, NEW_TOKENS, PROMPT_TOKENS, VOCABULARY = 64, 128, 32, 8192


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"t{number}": number for number in range(VOCABULARY - 2)} | {
        "<pad>": VOCABULARY - 2,
        "<eos>": VOCABULARY - 1,
    }
    backend = Tokenizer(models.WordLevel(words, unk_token="t0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def save_base(folder: Path, words: PreTrainedTokenizerFast) -> str:
    """The shape of `bench_ppo.py`: six million parameters, four layers of 256."""
    set_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def run(folder: Path, updates: int, epochs: int, micro: int) -> dict:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    words = tokenizer()
    path = save_base(folder / "base", words)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(300, VOCABULARY - 2, (ROWS * (updates + 2), PROMPT_TOKENS), generator=generator)
    data = Dataset.from_list([{"input_ids": row} for row in prompts.tolist()])
    args = PPOConfig(
        output_dir=str(folder / "out"), per_device_train_batch_size=micro, gradient_accumulation_steps=ROWS // micro,
        num_mini_batches=1, num_ppo_epochs=epochs, total_episodes=ROWS * (updates + 2), response_length=NEW_TOKENS,
        local_rollout_forward_batch_size=ROWS, learning_rate=1e-4, kl_coef=0.05, gradient_checkpointing=False,
        bf16=False, use_cpu=True, report_to="none", save_strategy="no", num_sample_generations=0, disable_tqdm=True,
        dataloader_pin_memory=False, temperature=1.0, missing_eos_penalty=None,
    )  # fmt: skip
    scorers = [AutoModelForSequenceClassification.from_pretrained(path, num_labels=1) for _ in range(2)]
    trainer = PPOTrainer(
        args, words, AutoModelForCausalLM.from_pretrained(path), None, scorers[0], data, scorers[1],
        eval_dataset=data.select(range(micro)),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    marks = []
    log = trainer.log
    trainer.log = lambda *args, **kwargs: (
        marks.append((time.process_time(), time.perf_counter())),
        log(*args, **kwargs),
    )
    trainer.train()
    pairs = list(zip(marks, marks[1:], strict=False))
    return {
        "trainer": "TRL 1.12 PPOTrainer",
        "cpu_seconds_per_update": statistics.median(after[0] - before[0] for before, after in pairs),
        "seconds_per_update": statistics.median(after[1] - before[1] for before, after in pairs),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "updates": len(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--micro", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(Path(folder), options.updates, options.epochs, options.micro), indent=2))


if __name__ == "__main__":
    main()
