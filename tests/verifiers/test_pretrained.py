import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.labels import LabelPolicy
from rlstep.verifiers.pretrained import (
    FORMAT,
    VerifierSpec,
    classify_at,
    head_of,
    label_head,
    label_token_ids,
    load_config,
    new_verifier,
)

PRM, ORM = VerifierSpec("prm"), VerifierSpec("orm")

SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 2}
GROUPED = SMALL | {"intermediate_size": 48, "num_key_value_heads": 1}
FAMILIES = {
    "qwen2": Qwen2Config(**GROUPED),
    "llama": LlamaConfig(**GROUPED),
    "mistral": MistralConfig(**GROUPED),
    "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, num_labels=2),
}


def batch():
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, 40, (3, 11), generator=generator)
    mask_BT = torch.arange(11) < torch.tensor([[11], [7], [4]])
    return ids_BT, mask_BT.long(), torch.tensor([0, 0, 1, 2]), torch.tensor([2, 10, 6, 3])


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_positions_are_those_of_the_whole_pass(family):
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(FAMILIES[family]).eval()
    ids_BT, mask_BT, rows, columns = batch()
    whole_BT2 = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    torch.testing.assert_close(classify_at(model, ids_BT, mask_BT, rows, columns), whole_BT2[rows, columns])
    # and the model is left as it was
    assert model(input_ids=ids_BT, attention_mask=mask_BT).logits.shape == (3, 11, 2)


def test_head_runs_on_the_chosen_tokens_alone():
    model = AutoModelForTokenClassification.from_config(FAMILIES["qwen2"])
    seen = []
    model.score.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape))
    classify_at(model, *batch())
    assert seen == [(4, 32)]


def test_dropout_is_respected():
    config = Qwen2Config(**GROUPED, classifier_dropout=0.5)
    model = AutoModelForTokenClassification.from_config(config).train()
    assert not torch.equal(classify_at(model, *batch()), classify_at(model, *batch()))


def test_gradients_pass_through_checkpointing():
    model = AutoModelForTokenClassification.from_config(FAMILIES["llama"]).train()
    model.activation_checkpointing_enable()
    classify_at(model, *batch()).sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_model_without_a_known_head_is_refused():
    with pytest.raises(UserError, match="no head named score, classifier"):
        head_of(Qwen2ForCausalLM(FAMILIES["qwen2"]).model)


def test_new_verifier_has_the_generators_weights_and_no_dropout(tiny_lm):
    generator = Qwen2ForCausalLM.from_pretrained(tiny_lm)
    verifier = new_verifier(tiny_lm, PRM)
    for name, weight in generator.model.named_parameters():
        assert torch.equal(weight, verifier.model.get_parameter(name)), name
    assert verifier.dropout.p == 0
    assert verifier.config.id2label == {0: "wrong", 1: "right"}
    assert verifier.config.rlstep_verifier == {
        "kind": "prm", "format": 2, "head": "classification", "neutral": "positive", "after_first_error": "mask",
        "boundary": {"rule": "line", "tag": None},
    }  # fmt: skip


def test_every_kind_of_dropout_is_off(tmp_path):
    GPT2LMHeadModel(FAMILIES["gpt2"]).save_pretrained(tmp_path)  # its configuration has three of 0.1
    verifier = new_verifier(str(tmp_path), PRM).train()
    assert torch.equal(classify_at(verifier, *batch()), classify_at(verifier, *batch()))


def test_checkpoint_round_trip_in_plain_transformers(tiny_lm, tmp_path):
    verifier = new_verifier(tiny_lm, ORM).eval()
    verifier.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.bin")] == []
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    ids_BT = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(loaded(ids_BT).logits, verifier(ids_BT).logits)
    assert VerifierSpec.from_config(str(tmp_path), load_config(str(tmp_path))) == ORM


def test_a_verifier_trained_further_keeps_its_head(verifier_paths):
    before = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    assert torch.equal(new_verifier(verifier_paths["prm"], PRM).score.weight, before.score.weight)


def test_what_is_no_verifier_is_refused(tiny_lm, tmp_path):
    with pytest.raises(UserError, match="is no rlstep verifier"):
        VerifierSpec.from_config(tiny_lm, load_config(tiny_lm))
    with pytest.raises(UserError, match="no model can be loaded"):
        load_config(str(tmp_path / "nowhere"))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="LoRA adapter"):
        load_config(str(tmp_path))


def test_newer_format_is_refused(verifier_paths):
    config = load_config(verifier_paths["prm"])
    config.rlstep_verifier = {"kind": "prm", "format": FORMAT + 1}
    with pytest.raises(UserError, match=f"format {FORMAT + 1}"):
        VerifierSpec.from_config("somewhere", config)


def test_incomplete_checkpoint_is_refused(verifier_paths, tmp_path):
    from rlstep.verifiers.pretrained import load_classifier

    model = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(UserError, match="lacks 3 weights"):
        load_classifier(str(tmp_path), load_config(str(tmp_path)), "float32", False, fresh_head=True)


def test_spec_survives_the_checkpoint(tiny_lm, tmp_path):
    spec = VerifierSpec("prm", "token", (5, 6, 7), LabelPolicy("class", "keep"), Boundary("tag", "<end>"))
    new_verifier(tiny_lm, spec).save_pretrained(tmp_path)
    assert VerifierSpec.from_config(str(tmp_path), load_config(str(tmp_path))) == spec


def test_first_format_is_read_as_what_it_was(verifier_paths):
    config = load_config(verifier_paths["prm"])
    config.rlstep_verifier = {"kind": "orm", "format": 1}
    assert VerifierSpec.from_config("somewhere", config) == ORM


def test_a_neutral_class_is_a_third_label(tiny_lm):
    verifier = new_verifier(tiny_lm, VerifierSpec("prm", policy=LabelPolicy("class")))
    assert verifier.score.out_features == 3
    assert verifier.config.id2label == {0: "wrong", 1: "right", 2: "neutral"}
    # an ORM has no neutral steps
    assert new_verifier(tiny_lm, VerifierSpec("orm", policy=LabelPolicy("class"))).score.out_features == 2


def test_token_head_is_the_language_model_itself(tiny_lm):
    generator = Qwen2ForCausalLM.from_pretrained(tiny_lm)
    verifier = new_verifier(tiny_lm, VerifierSpec("prm", "token", (5, 6)))
    assert type(verifier) is Qwen2ForCausalLM
    for name, weight in generator.named_parameters():
        assert torch.equal(weight, verifier.get_parameter(name)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_label_rows_give_the_logits_of_the_label_tokens(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    ids_BT, mask_BT, rows, columns = batch()
    whole_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    small = label_head(model, (7, 30, 2))
    found = classify_at(small, ids_BT, mask_BT, rows, columns)
    torch.testing.assert_close(found, whole_BTV[rows, columns][:, [7, 30, 2]])


def test_label_texts_are_single_tokens_of_their_own(tokenizer):
    three = VerifierSpec("prm", "token", policy=LabelPolicy("class"))
    found = label_token_ids(tokenizer, ["-", "+"], PRM)
    assert [tokenizer.decode([index]) for index in found] == ["-", "+"]
    with pytest.raises(UserError, match="give 3 texts, for wrong, right, neutral"):
        label_token_ids(tokenizer, ["-", "+"], three)
    with pytest.raises(UserError, match="'good' is 4 tokens"):
        label_token_ids(tokenizer, ["good", "+"], PRM)
    with pytest.raises(UserError, match="its own token"):
        label_token_ids(tokenizer, ["+", "+"], PRM)
