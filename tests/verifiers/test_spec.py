from dataclasses import replace

import pytest

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.labels import LabelPolicy
from rlstep.steps.prompts import PromptFormat
from rlstep.verifiers.pretrained import load_config
from rlstep.verifiers.spec import FORMAT, VerifierSpec, label_token_ids
from rlstep.verifiers.training.start import new_verifier

PRM, ORM = VerifierSpec("prm"), VerifierSpec("orm")


def test_newer_format_is_refused(verifier_paths):
    config = load_config(verifier_paths["prm"])
    config.rlstep_verifier = {"kind": "prm", "format": FORMAT + 1}
    with pytest.raises(UserError, match=f"format {FORMAT + 1}"):
        VerifierSpec.from_config("somewhere", config)


def test_spec_survives_the_checkpoint(tiny_lm, tmp_path):
    spec = VerifierSpec("prm", "token", (5, 6, 7), LabelPolicy("class", "keep"), Boundary("tag", "<end>"))
    spec = replace(spec, prompts=PromptFormat("chat", "S", {"thinking": False}, "0123", "4567"))
    new_verifier(tiny_lm, spec).save_pretrained(tmp_path)
    assert VerifierSpec.from_config(str(tmp_path), load_config(str(tmp_path))) == spec


def test_first_format_is_read_as_what_it_was(verifier_paths):
    config = load_config(verifier_paths["prm"])
    config.rlstep_verifier = {"kind": "orm", "format": 1}
    assert VerifierSpec.from_config("somewhere", config) == replace(ORM, prompts=PromptFormat("text"))


def test_label_texts_are_single_tokens_of_their_own(tokenizer):
    three = VerifierSpec("prm", "token", policy=LabelPolicy("class"))
    actual = label_token_ids(tokenizer, ["-", "+"], PRM)
    assert [tokenizer.decode([index]) for index in actual] == ["-", "+"]
    with pytest.raises(UserError, match="give 3 texts, for wrong, right, neutral"):
        label_token_ids(tokenizer, ["-", "+"], three)
    with pytest.raises(UserError, match="'good' is 4 tokens"):
        label_token_ids(tokenizer, ["good", "+"], PRM)
    with pytest.raises(UserError, match="its own token"):
        label_token_ids(tokenizer, ["+", "+"], PRM)
