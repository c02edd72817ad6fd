"""The model card (README.md) of an exported model: what it was made of, how well it did, and how to load it."""

import json
import textwrap
from pathlib import Path
from typing import Any, Literal

import yaml

from rlstep.runtime.record import RECORD, versions

Form = Literal["adapter", "merged", "prm"]
CARD = "README.md"

# Settings by what they say, in the order of the card; those that a stage does not have, or that are null, are left out.
MADE_OF = {
    "Base": ("model_name_or_path", "model_revision"),
    "Data": ("data", "problems", "split", "eval_data", "eval_problems", "task"),
    "Prompts": ("prompt_format", "system_prompt", "chat_template"),
    "Reward": (
        "reward", "prm", "orm", "implicit", "process_weight", "outcome_weight", "missing_answer_reward", "head",
        "neutral", "after_first_error", "loss",
    ),
    "Credit": ("credit", "advantage", "delta", "gamma", "lam", "step_discount", "kl", "beta"),
    "Training": (
        "use_peft", "lora_r", "lora_alpha", "learning_rate", "num_train_epochs", "max_steps",
        "per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "temperature", "dtype",
    ),
}  # fmt: skip
# Metrics of a stage that tell nothing of the model.
_OF_THE_RUN = ("runtime", "per_second", "total_flos", "epoch", "samples", "demonstrations", "packing")


def write_card(folder: Path, form: Form, run: Path, place: str, facts: dict[str, Any]) -> None:
    """Writes the card into an exported model's folder.

    Args:
        folder: the exported model.
        form: what it is.
        run: the folder that was exported, with its `run.json` in it or, for a checkpoint, beside it.
        place: folder or hub id by which the card tells to load it.
        facts: what the record does not hold: `base` of an adapter, its `rank`, and why vLLM cannot take it (`no_vllm`).
    """
    (folder / CARD).write_text(_card(place, form, read_record(run), facts), encoding="utf-8")


def read_record(run: Path) -> dict[str, Any]:
    """The record of the run that wrote a folder; empty where it has none."""
    for folder in (run, run.parent) if run.name.startswith("checkpoint-") else (run,):
        if (folder / RECORD).is_file():
            return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return {}


def _card(place: str, form: Form, record: dict[str, Any], facts: dict[str, Any]) -> str:
    config = record.get("config", {})
    base = facts.get("base") or config.get("model_name_or_path")
    parts = [f"---\n{_metadata(form, base)}---\n\n# {name_of(place)}\n", _what(form, record)]
    rows = [
        (what, f"`{setting}`", _cell(config[setting]))
        for what, settings in MADE_OF.items()
        for setting in settings
        if config.get(setting) is not None
    ]
    if facts.get("base"):
        rows.insert(0, ("Base", "of the adapter", _cell(facts["base"])))
    if record.get("seed") is not None:
        rows.append(("Seed", "`seed`", _cell(record["seed"])))
    parts += ["## What it was made of\n", _table(("", "Setting", "Value"), rows)] if rows else []
    if measured := _measured(record.get("metrics", {})):
        parts += [
            "## Measured\n\nBy the run itself, on the data that it was given for evaluation.\n",
            _table(("Metric", "Value"), measured),
        ]
    parts += ["## How to load it\n", _loading(place, form, base, facts)]
    made_with = record.get("versions") or versions()
    commit = f", commit `{record['commit']}`" if record.get("commit") else ""
    parts += [
        "## Versions\n",
        ", ".join(f"{package} {number}" for package, number in made_with.items()) + commit + "\n",
    ]
    return "\n".join(parts)


def name_of(place: str) -> str:
    """A model's name, after its folder; a folder of one of two forms is called after what it is in."""
    path = Path(place).resolve()
    return path.parent.name if path.name in ("adapter", "merged") else path.name


def _metadata(form: Form, base: str | None) -> str:
    """The header that the hub reads."""
    head: dict[str, Any] = {
        "library_name": "peft" if form == "adapter" else "transformers",
        "pipeline_tag": "token-classification" if form == "prm" else "text-generation",
        "tags": ["rlstep", *(["lora"] if form == "adapter" else ["process-reward-model"] if form == "prm" else [])],
    }
    # A folder means nothing to others, and the hub refuses it.
    if base and not Path(base).exists() and base.count("/") == 1 and not base.startswith((".", "/")):
        head["base_model"] = base
    return yaml.safe_dump(head, sort_keys=False)


def _what(form: Form, record: dict[str, Any]) -> str:
    kinds = {
        "adapter": "A LoRA adapter of a policy",
        "merged": "A policy, with its LoRA adapter merged where it had one",
        "prm": "A verifier: a token classifier with the classes wrong (0) and right (1)",
    }
    stage = f" by `rlstep {record['stage']}`" if record.get("stage") else ""
    return f"{kinds[form]}, trained{stage} and exported by `rlstep export`.\n"


def _measured(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    return [
        (f"`{name}`", f"{value:.4g}")
        for name, value in numbers.items()
        if not any(name.endswith(word) for word in _OF_THE_RUN) and not isinstance(value, bool)
    ]


def _loading(place: str, form: Form, base: str | None, facts: dict[str, Any]) -> str:
    text = {"adapter": _ADAPTER, "merged": _MERGED, "prm": _PRM}[form]
    vllm = {"adapter": _VLLM_ADAPTER, "merged": _VLLM_MERGED, "prm": _VLLM_PRM}[form]
    if reason := facts.get("no_vllm"):
        vllm = f"vLLM does not take it: {reason}.\n"
    filled = {"DIR": place, "NAME": name_of(place), "BASE": base or "BASE", "RANK": str(facts.get("rank", 16))}
    for word, value in filled.items():
        text, vllm = text.replace(f"<{word}>", value), vllm.replace(f"<{word}>", value)
    return textwrap.dedent(text) + "\n" + textwrap.dedent(vllm)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    """A value in a table; what stands in it is text, not mark-up."""
    return "`" + str(value).replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"


_ADAPTER = """\
    ```python
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model = AutoPeftModelForCausalLM.from_pretrained("<DIR>")
    tokenizer = AutoTokenizer.from_pretrained("<DIR>")
    ```
    """
_VLLM_ADAPTER = """\
    ```bash
    vllm serve <BASE> --enable-lora --max-lora-rank <RANK> --lora-modules <NAME>=<DIR>
    ```
    """
_MERGED = """\
    ```python
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("<DIR>")
    tokenizer = AutoTokenizer.from_pretrained("<DIR>")
    ```
    """
_VLLM_MERGED = """\
    ```bash
    vllm serve <DIR> --served-model-name <NAME>
    ```
    """
_PRM = """\
    A step's score is the probability of the class right (1) at the step's last token.

    ```python
    from rlstep.verifiers.load import load_verifier

    scores = load_verifier("<DIR>").score(["1 + 2 + 3 = ?"], ["1 + 2 = 3\\n3 + 3 = 6"])  # one for each step
    ```

    Without rlstep:

    ```python
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained("<DIR>")
    tokenizer = AutoTokenizer.from_pretrained("<DIR>")
    ```
    """
_VLLM_PRM = """\
    ```bash
    vllm serve <DIR> --runner pooling --convert classify
    curl localhost:8000/pooling -H 'Content-Type: application/json' \\
        -d '{"model": "<DIR>", "task": "token_classify", "input": "1 + 2 + 3 = ?\\n1 + 2 = 3\\n3 + 3 = 6"}'
    ```
    """
