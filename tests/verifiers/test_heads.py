import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Qwen2ForCausalLM

from rlstep.runtime.errors import UserError
from rlstep.verifiers.forward import logits_at
from rlstep.verifiers.heads import head_of, label_head, require_plain_head


def test_model_without_a_known_head_is_refused(configs):
    with pytest.raises(UserError, match="no head named score, classifier"):
        head_of(Qwen2ForCausalLM(configs["qwen2"]).model)


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral", "gpt2"])
def test_label_rows_give_the_logits_of_the_label_tokens(family, configs, batch, whole_logits):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs[family]).eval()
    expected = whole_logits(model)[:, [7, 30, 2]]
    torch.testing.assert_close(logits_at(label_head(model, (7, 30, 2)), batch), expected)


@pytest.mark.parametrize("cap", [0.5, 300.0])  # no logit of a new model comes near the second
def test_models_that_change_their_heads_logits_are_refused(cap, tiny_lm):
    require_plain_head(AutoModelForCausalLM.from_pretrained(tiny_lm))
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 1}
    config = Gemma2Config(vocab_size=50, hidden_size=16, intermediate_size=16, final_logit_softcapping=cap, **sizes)
    with pytest.raises(UserError, match="Gemma2ForCausalLM changes the logits that its head gives"):
        require_plain_head(Gemma2ForCausalLM(config))
