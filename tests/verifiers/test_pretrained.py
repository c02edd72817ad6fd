import pytest
from transformers import AutoModelForTokenClassification

from rlstep.runtime.errors import UserError
from rlstep.verifiers.pretrained import load_config, load_weights
from rlstep.verifiers.spec import VerifierSpec


def test_what_is_no_verifier_is_refused(tiny_lm, tmp_path):
    with pytest.raises(UserError, match="is no rlstep verifier"):
        VerifierSpec.from_config(tiny_lm, load_config(tiny_lm))
    with pytest.raises(UserError, match="no model can be loaded"):
        load_config(str(tmp_path / "nowhere"))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="LoRA adapter"):
        load_config(str(tmp_path))


def test_incomplete_checkpoint_is_refused(verifier_paths, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    path = str(tmp_path)
    with pytest.raises(UserError, match="lacks 3 weights"):
        load_weights(AutoModelForTokenClassification, path, load_config(path), "float32", False, fresh_head=True)
