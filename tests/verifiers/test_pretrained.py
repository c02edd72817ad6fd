import json
import shutil

import pytest
from transformers import AutoModelForTokenClassification

from rlstep.policy.models import load_policy
from rlstep.runtime.errors import UserError
from rlstep.verifiers.pretrained import load_config, load_tokenizer, load_weights
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec


def test_what_is_no_verifier_is_refused(tiny_lm, tmp_path):
    with pytest.raises(UserError, match="is no rlstep verifier"):
        VerifierSpec.from_config(tiny_lm, load_config(tiny_lm))
    with pytest.raises(UserError, match="no model can be loaded"):
        load_config(str(tmp_path / "nowhere"))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="LoRA adapter"):
        load_config(str(tmp_path))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("config.json", load_config),
        ("generation_config.json", load_policy),  # transformers would pass over it, and with it over the end tokens
        ("model.safetensors", load_policy),
        ("tokenizer.json", load_tokenizer),
    ],
)
def test_a_clone_without_its_large_files_is_named(name, load, tiny_lm, tmp_path):
    shutil.copytree(tiny_lm, tmp_path / "lm")
    load(str(tmp_path / "lm"))
    (tmp_path / "lm" / name).write_text(POINTER)
    with pytest.raises(UserError, match=rf"lm/{name} is a Git LFS pointer: .*git lfs pull"):
        load(str(tmp_path / "lm"))


def test_weights_that_are_cut_off_are_named(tiny_lm, tmp_path):
    shutil.copytree(tiny_lm, tmp_path / "lm")
    file = tmp_path / "lm" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"lm/model.safetensors is damaged or cut off .*copy it again"):
        load_policy(str(tmp_path / "lm"))


@pytest.mark.parametrize("what", ["policy", "verifier"])
def test_weights_of_an_unknown_quantisation_are_not_read_as_whole_ones(what, tiny_lm, verifier_paths, tmp_path):
    shutil.copytree(tiny_lm if what == "policy" else verifier_paths["prm"], tmp_path / "few")
    file = tmp_path / "few" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "exl3"}}))
    load = load_policy if what == "policy" else RewardModel.from_pretrained
    with pytest.raises(UserError, match="quantised by 'exl3', which transformers does not read"):
        load(str(tmp_path / "few"))


def test_incomplete_checkpoint_is_refused(verifier_paths, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    path = str(tmp_path)
    with pytest.raises(UserError, match="lacks 3 weights"):
        load_weights(AutoModelForTokenClassification, path, load_config(path), "float32", False, fresh_head=True)
