"""Skywork-o1-Open-PRM (SkyworkAI/skywork-o1-prm-inference): one value per token, read at each line's newline.

The tokens: the beginning of the text, the problem and a newline together; then each line alone, and a newline's token.
A blank line has its newline, too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from rlstep.runtime.errors import UserError
from rlstep.verifiers.features import Feature, feature_at
from rlstep.verifiers.published.rows import PublishedFormat, step_texts
from rlstep.verifiers.published.weights import Qwen2WithHead, load_qwen2

HEAD = "v_head.summary.weight"


class ValueHead(nn.Module):
    def __init__(self, hidden_size: int):
        super().__init__()
        self.summary = nn.Linear(hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.summary(hidden.to(self.summary.weight.dtype))


class Qwen2ForPrmModel(Qwen2WithHead):
    head_name = "v_head"

    def make_head(self, config) -> nn.Module:
        return ValueHead(config.hidden_size)


@dataclass(frozen=True)
class SkyworkFormat(PublishedFormat):
    """The published recipe takes every line for a step, blank ones as well.

    The tokens here are the recipe's, and a step is asked at the newline of its last visible line. So lines as steps get
    the recipe's values, steps of several lines those of their last ones, and blank lines are read but not asked. A step
    that ends within a line ends that line.

    Attributes:
        newline_id: the token at which the model scores.
    """

    newline_id: int

    def _features(self, problems, completions, steps, tokenizer) -> list[Feature]:
        rows = [
            (tokenizer.bos_token + problem.strip() + "\n", [_lines(text) for text in step_texts(completion, spans)])
            for problem, completion, spans in zip(problems, completions, steps, strict=True)
        ]
        # A problem's samples share their prompt and many lines: each text is tokenised once.
        unique = list(dict.fromkeys(text for prompt, texts in rows for text in (prompt, *sum(texts, [])) if text))
        ids_of = dict(zip(unique, tokenizer(unique, verbose=False)["input_ids"], strict=True)) if unique else {}
        return [self._feature(ids_of, prompt, texts) for prompt, texts in rows]

    def _feature(self, ids_of: dict[str, list[int]], prompt: str, texts: list[list[str]]) -> Feature:
        ids, positions = list(ids_of[prompt]), []
        for lines in texts:
            position = None
            for line in lines:
                ids += [*ids_of.get(line, ()), self.newline_id]
                if position is None or line.strip():
                    position = len(ids) - 1
            positions.append(position)
        return feature_at(ids, positions)

    def values(self, logits_NK: Tensor) -> Tensor:
        return logits_NK[:, 0].float().sigmoid()


def _lines(text: str) -> list[str]:
    """The lines that a step's text ends; there is one at least."""
    return text.removesuffix("\n").split("\n")


def recognises(config: dict, path: str) -> bool:
    if "Qwen2ForPrmModel" in (config.get("architectures") or ()):
        return True
    return config.get("model_type") == "qwen2" and HEAD in weight_names(path)


def weight_names(path: str) -> set[str]:
    """The names of the weights in a folder's safetensors; of a hub id none, for telling would mean to download them."""
    index, single = Path(path) / "model.safetensors.index.json", Path(path) / "model.safetensors"
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    if single.is_file():
        with safe_open(single, framework="pt") as file:
            return set(file.keys())
    return set()


def load(path: str, tokenizer, dtype: str, trust_remote_code: bool):
    if tokenizer.bos_token is None:
        raise UserError(f"{path}: its tokenizer has no bos_token, with which a skywork PRM's input begins.")
    newline_id = tokenizer("\n")["input_ids"][-1]
    return load_qwen2(Qwen2ForPrmModel, path, dtype), SkyworkFormat(newline_id)
