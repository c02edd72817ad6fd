"""What the benchmarks of PPO share: a random policy, its prompts, the trainers' arguments and their loop."""

from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

from rlstep.tasks.wordlevel import word_level_tokenizer

ROWS, NEW_TOKENS, PROMPT_TOKENS = 64, 128, 32
LINES = 10  # every tenth piece ends a line, so steps have about ten tokens


def tokenizer(vocabulary: int = 8192):
    """256 bytes, two special tokens, and pieces that decode and encode one to one."""
    pieces = [f" t{i}" + ("\n" if i % LINES == 0 else "") for i in range(vocabulary - 258)]
    return word_level_tokenizer(pieces)


def base(folder: Path) -> str:
    """A random Qwen2 of six million parameters (four layers of 256), with its tokenizer."""
    words = tokenizer()
    set_seed(0)
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    return str(folder / "base")


def prompts(words, rows: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(300, len(words), (rows, PROMPT_TOKENS), generator=generator)
    return Dataset.from_list([{"prompt": words.decode(row), "reference": ""} for row in ids])


def arguments(kind, folder: Path, updates: int, epochs: int, micro: int, **more):
    return kind(
        output_dir=str(folder / "out"), per_device_train_batch_size=micro, gradient_accumulation_steps=ROWS // micro,
        steps_per_generation=ROWS // micro, num_generations=8, num_iterations=epochs, max_steps=updates * epochs,
        max_completion_length=NEW_TOKENS, learning_rate=1e-4, beta=0.05, gradient_checkpointing=False, bf16=False,
        use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, save_strategy="no", logging_steps=epochs,
        report_to="none", **more,
    )  # fmt: skip


def lora() -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def updates_of(trainer):
    """The trainer's loop, an update at a time: batches in, a backward pass each, one optimizer step."""
    loader = iter(trainer.get_train_dataloader())
    trainer.create_optimizer()
    accumulation = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = accumulation
    while True:
        for micro in range(accumulation):
            trainer.accelerator.gradient_state._set_sync_gradients(micro == accumulation - 1)
            trainer.training_step(trainer.model, next(loader), None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        trainer.state.global_step += 1
        yield
