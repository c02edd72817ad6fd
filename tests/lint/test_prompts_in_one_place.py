"""Prompts become tokens in one place: elsewhere no text gets special tokens, nor goes through a chat template."""

import ast
from pathlib import Path

import pytest

import rlstep

ROOT = Path(rlstep.__file__).parent
# The one place; and the published PRMs', which write conversations of their own.
TEMPLATES = {"steps/prompts.py", "verifiers/published/rows.py"}
# A text's own special tokens; and Skywork's published recipe, which writes <bos> into the text itself.
OPENED = {"steps/prompts.py", "verifiers/published/skywork.py", "verifiers/published/rows.py"}
TOKENIZERS = {"tokenizer", "_tokenizer", "processing_class"}


def calls(tree: ast.AST):
    """Yields (name that is called, the keywords) of each call with an argument."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (node.args or node.keywords):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            yield name, {word.arg: word.value for word in node.keywords}


def strays(source: str, place: str) -> list[str]:
    """What a module does with prompts that `rlstep.steps.prompts` is for."""
    actual = []
    for name, keywords in calls(ast.parse(source)):
        if name == "apply_chat_template" and place not in TEMPLATES:
            actual.append(name)
        special = keywords.get("add_special_tokens")
        adds = not (isinstance(special, ast.Constant) and special.value is False)
        if (name in TOKENIZERS or name == "encode_plus") and adds and place not in OPENED:
            actual.append(name)
    return actual


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_writes_prompts_by_itself(path):
    assert strays(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "source",
    [
        'tokenizer(prompt)["input_ids"]',
        "trainer._tokenizer(text, verbose=False)",
        "self.processing_class(texts, add_special_tokens=True)",
        "tokenizer.apply_chat_template(messages)",
    ],
)
def test_what_would_be_found(source):
    assert strays(source, "policy/somewhere.py")
    assert not strays("tokenizer(completion, add_special_tokens=False)", "policy/somewhere.py")
