"""Tiny random checkpoints in the layouts of the published ones: their configurations, special tokens, chat templates
and the names of their weights. Their folders hold code that must never run."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerBase

BACKBONE = {"vocab_size": 640, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
CORPUS = [
    "Step 1: Janet's ducks lay 16 eggs per day. So 16 - 3 = 13 are left, and 4 + 9 = 13.\n\n",
    "Step 2: (x + 1) * 2 = 2x + 2, so the caf\u00e9 sells \\boxed{18} of them.\n",
]
ROWS = [
    (
        "Janet's ducks lay 16 eggs per day. How many are left?",
        ["Step 1: She eats 3, so 16 - 3 = 13.", "Step 2: 13 - 4 = 9 \u00e9\U0001f600.", "So \\boxed{9}"],
    ),
    ("What is 4 + 9?", ["4 + 9 = 13"]),
    ("Expand (x + 1) * 2.", [f"Step {n}: 2 * x + {n} = 2x + {n}" for n in range(1, 7)]),
]


@pytest.fixture(scope="session")
def solutions() -> tuple[list[str], list[str], list[list[tuple[int, int]]], list[list[str]]]:
    """Problems, completions with a step a line, the steps' spans, and their texts."""
    from rlstep.steps.boundaries import line_steps

    completions = ["\n".join(steps) for _, steps in ROWS]
    spans = [line_steps(completion) for completion in completions]
    return [problem for problem, _ in ROWS], completions, spans, [steps for _, steps in ROWS]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory) -> Callable[..., Path]:
    def make(name: str, config: dict, weights: dict[str, torch.Tensor], tokenizer, dtype="float32") -> Path:
        folder = tmp_path_factory.mktemp("hub") / name
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}))
        save_file({key: tensor.contiguous().clone() for key, tensor in weights.items()}, folder / "model.safetensors")
        for reference in (config.get("auto_map") or {}).values():
            (folder / f"{reference.partition('.')[0]}.py").write_text("raise SystemExit('remote code ran')\n")
        return folder

    return make


def backbone_weights(model_class, config) -> dict[str, torch.Tensor]:
    """Random weights under the published names, wide enough for scores that differ."""
    from transformers import set_seed

    set_seed(0)
    weights = model_class(config).state_dict()
    return {name: tensor * (12 if tensor.dim() == 2 else 1) for name, tensor in weights.items()}


def qwen_tokenizer(specials: list[str], **options):
    from transformers import AddedToken, Qwen2Tokenizer

    alphabet = {byte: index for index, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bare = Qwen2Tokenizer(
        vocab=alphabet, merges=[], unk_token=None, pad_token="<|endoftext|>", eos_token="<|im_end|>", **options
    )
    tokenizer = bare.train_new_from_iterator(CORPUS, 380, show_progress=False)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=True) for text in ("<|im_start|>", *specials)])
    tokenizer.chat_template = (
        "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nHelp.<|im_end|>\\n' }}{%- endif %}"
        "{%- for message in messages %}"
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    return tokenizer


def qwen2_config(**changes) -> dict:
    return {"model_type": "qwen2", "tie_word_embeddings": False, "rms_norm_eps": 1e-6, **BACKBONE, **HEADS} | changes


@pytest.fixture(scope="session")
def qwen_path(make_checkpoint) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = qwen2_config(
        architectures=["Qwen2ForProcessRewardModel"],
        auto_map={
            "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
            "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
        },
    )
    weights = backbone_weights(Qwen2ForCausalLM, Qwen2Config(**qwen2_config()))
    first, last = nn.Linear(32, 32), nn.Linear(32, 2)
    weights |= {f"score.0.{name}": tensor for name, tensor in first.state_dict().items()}
    weights |= {f"score.2.{name}": tensor for name, tensor in last.state_dict().items()}
    return make_checkpoint("Qwen2.5-Math-PRM-7B", config, weights, qwen_tokenizer(["<extra_0>"]))


@pytest.fixture(scope="session")
def reasonflux_path(qwen_path, tmp_path_factory) -> Path:
    return Path(shutil.copytree(qwen_path, tmp_path_factory.mktemp("hub") / "ReasonFlux-PRM-7B"))


@pytest.fixture(scope="session")
def skywork_path(make_checkpoint) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = qwen2_config(architectures=["Qwen2ForPrmModel"], tie_word_embeddings=True)
    weights = backbone_weights(Qwen2ForCausalLM, Qwen2Config(**config))
    del weights["lm_head.weight"]
    weights |= {f"v_head.summary.{name}": tensor for name, tensor in nn.Linear(32, 1).state_dict().items()}
    tokenizer = qwen_tokenizer([], bos_token="<|endoftext|>")
    return make_checkpoint("Skywork-o1-Open-PRM-Qwen-2.5-1.5B", config, weights, tokenizer)


@pytest.fixture(scope="session")
def trl_path(make_checkpoint) -> Path:
    from transformers import Qwen2Config, Qwen2ForTokenClassification

    config = qwen2_config(architectures=["Qwen2ForTokenClassification"])
    weights = backbone_weights(Qwen2ForTokenClassification, Qwen2Config(**config))
    return make_checkpoint("my-prm", config, weights, qwen_tokenizer([], bos_token="<|endoftext|>"))


@pytest.fixture(scope="session")
def math_shepherd_path(make_checkpoint) -> Path:
    """Its tokenizer is of sentencepiece's kind: a space opens a word, and what is unknown falls back to bytes."""
    from transformers import LlamaTokenizer, MistralConfig, MistralForCausalLM

    # A letter's bytes come first, as in sentencepiece; a newline is a byte, so that words never run over line ends.
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    words = [word for text in CORPUS for word in text.split()] + ["\u043a\u0438", "+", "-"] * 9
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False)
    trained.train_from_iterator(words, trainer)
    bpe = json.loads(trained.to_str())["model"]
    tokenizer = LlamaTokenizer(
        vocab=bpe["vocab"], merges=[tuple(pair) for pair in bpe["merges"]], add_bos_token=True, unk_token="<unk>"
    )
    config = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096}
    config |= {**BACKBONE, **HEADS}
    weights = backbone_weights(MistralForCausalLM, MistralConfig(**config))
    return make_checkpoint("math-shepherd-mistral-7b-prm", config, weights, tokenizer)


LLAMA_TEMPLATE = (
    "{{- bos_token }}{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: 26 Jul 2024\\n\\n<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)


@pytest.fixture(scope="session")
def rlhflow_path(make_checkpoint) -> Path:
    return make_checkpoint("Llama3.1-8B-PRM-Deepseek-Data", *llama())


@pytest.fixture(scope="session")
def versa_path(make_checkpoint) -> Path:
    return make_checkpoint("VersaPRM", *llama(["x \n\n\n\n"] * 9))


def llama(more: Sequence[str] = ()) -> tuple[dict, dict[str, torch.Tensor], PreTrainedTokenizerBase]:
    """Configuration, weights and tokenizer of a Llama 3, whose tokens come from the corpus and more texts."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    trained = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([*CORPUS, *["x\n\n"] * 9, *more], trainer)
    trained.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=LLAMA_TEMPLATE
    )
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **BACKBONE, **HEADS}
    weights = backbone_weights(LlamaForCausalLM, LlamaConfig(**config))
    return config, weights, tokenizer


@pytest.fixture
def changed(tmp_path) -> Callable[..., str]:
    """A copy of a checkpoint with other weights or configuration."""

    def change(folder: Path, weights=lambda actual: actual, name: str | None = None, **config) -> str:
        copy = tmp_path / (name or folder.name)
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        save_file(weights(load_file(folder / "model.safetensors")), copy / "model.safetensors")
        actual = json.loads((folder / "config.json").read_text()) | config
        (copy / "config.json").write_text(json.dumps(actual))
        return str(copy)

    return change
