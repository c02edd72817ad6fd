"""Tiny models of several families of architectures, a batch to ask them, and the arguments of a short training run."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 2}
GROUPED = SMALL | {"intermediate_size": 48, "num_key_value_heads": 1}


@pytest.fixture
def configs() -> dict[str, PretrainedConfig]:
    """Configurations of tiny models with a vocabulary of 40, by family."""
    return {
        "qwen2": Qwen2Config(**GROUPED),
        "llama": LlamaConfig(**GROUPED),
        "mistral": MistralConfig(**GROUPED),
        "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, num_labels=2),
    }


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three padded rows, asked at four positions."""
    return {
        "input_ids": torch.randint(0, 40, (3, 11), generator=torch.Generator().manual_seed(0)),
        "attention_mask": (torch.arange(11) < torch.tensor([[11], [7], [4]])).long(),
        "rows": torch.tensor([0, 0, 1, 2]),
        "positions": torch.tensor([2, 10, 6, 3]),
    }


@pytest.fixture
def whole_logits(batch):
    """From a model to its logits at the batch's positions, chosen from those of all tokens."""

    def choose(model) -> torch.Tensor:
        logits_BTK = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits_BTK[batch["rows"], batch["positions"]]

    return choose


@pytest.fixture
def arguments(tmp_path):
    """Makes VerifierArguments for a few quick steps in tmp_path."""
    from rlstep.verifiers.training.arguments import VerifierArguments

    def make(**changes):
        options = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1,
            "learning_rate": 3e-3,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "use_cpu": True,
        }
        return VerifierArguments(**(options | changes))

    return make
