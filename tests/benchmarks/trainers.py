"""What the benchmarks of PPO share: a random policy, its prompts, the trainers' arguments and their loop."""

from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, set_seed

from rlstep.tasks.wordlevel import word_level_tokenizer

ROWS, NEW_TOKENS, PROMPT_TOKENS = 64, 128, 32
LINES = 10  # every tenth piece ends a line, so steps have about ten tokens


def tokenizer(vocabulary: int = 8192):
    """256 bytes, two special tokens, and pieces that decode and encode one to one."""
    pieces = [f" t{i}" + ("\n" if i % LINES == 0 else "") for i in range(vocabulary - 258)]
    return word_level_tokenizer(pieces)


SHAPES = {
    "6m": (
        Qwen2Config,
        {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 4},
        8192,
    ),
    # SmolLM2-135M
    "135m": (
        LlamaConfig,
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
         "num_key_value_heads": 3},
        49152,
    ),
    # Qwen2.5-0.5B
    "0.5b": (
        Qwen2Config,
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
         "num_key_value_heads": 2},
        151936,
    ),
}  # fmt: skip


def base(folder: Path, shape: str = "6m", device: str = "cpu") -> str:
    """A random model (`6m`: a Qwen2 of six million parameters, four layers of 256), with its tokenizer.

    On a CPU half a billion random numbers take longer than the updates: `device` is where they are drawn.
    """
    kind, sizes, vocabulary = SHAPES[shape]
    words = tokenizer(vocabulary)
    set_seed(0)
    config = kind(
        vocab_size=len(words), max_position_embeddings=2048, tie_word_embeddings=True,
        pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id, bos_token_id=None, **sizes,
    )  # fmt: skip
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    return str(folder / "base")


def prompts(words, rows: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(300, len(words), (rows, PROMPT_TOKENS), generator=generator)
    return Dataset.from_list([{"prompt": words.decode(row), "reference": ""} for row in ids])


def arguments(
    kind, folder: Path, updates: int, epochs: int, micro: int, rows: int = ROWS, new_tokens: int = NEW_TOKENS, **more
):
    options = {"use_cpu": True, "bf16": False} | more
    return kind(
        output_dir=str(folder / "out"), per_device_train_batch_size=micro, gradient_accumulation_steps=rows // micro,
        steps_per_generation=rows // micro, num_generations=8, num_iterations=epochs, max_steps=updates * epochs,
        max_completion_length=new_tokens, learning_rate=1e-4, beta=0.05, gradient_checkpointing=False,
        disable_tqdm=True, dataloader_pin_memory=False, save_strategy="no", logging_steps=epochs, report_to="none",
        **options,
    )  # fmt: skip


def lora() -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def updates_of(trainer, epochs: int = 1, before_step: Callable | None = None):
    """The trainer's loop, an update at a time: batches in, a backward pass each, an optimizer step per epoch.

    Args:
        trainer: TRL's or ours.
        epochs: its `num_iterations`.
        before_step: called with the trainer when an optimizer step's gradients are complete.
    """
    loader = iter(trainer.get_train_dataloader())
    trainer.create_optimizer()
    accumulation = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = accumulation
    while True:
        for _ in range(epochs):
            for micro in range(accumulation):
                trainer.accelerator.gradient_state._set_sync_gradients(micro == accumulation - 1)
                trainer.training_step(trainer.model, next(loader), None)
            if before_step is not None:
                before_step(trainer)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            trainer.state.global_step += 1
        yield
