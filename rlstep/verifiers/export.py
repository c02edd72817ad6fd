"""Exports a verifier as a plain token classifier, which AutoModelForTokenClassification and vLLM's pooling load."""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForTokenClassification, PretrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import find_adapter, load_adapter
from rlstep.verifiers.heads import head_of
from rlstep.verifiers.pretrained import (
    auto_class_of,
    load_config,
    load_tokenizer,
    load_weights,
    require_token_classifier,
)
from rlstep.verifiers.spec import CLASSES, IMPLICIT, VerifierSpec, config_entry


def export_verifier(path: Path, folder: Path, dtype: str = "auto", trust_remote_code: bool = False) -> int:
    """Writes a verifier as whole weights with a class head: an adapter is merged, label tokens become classes.

    Args:
        path: a PRM's or an ORM's folder.
        folder: made where it is missing.
        dtype: the weights' type; auto: that of the checkpoint.
        trust_remote_code: run model code from the hub.

    Returns:
        The number of parameters.

    Raises:
        UserError: it is no verifier of rlstep's, or none that one token classifier can stand for.
    """
    if find_adapter(str(path)) and not (path / CONFIG_NAME).is_file():
        raise UserError(f"{path} is a policy's LoRA adapter, no verifier; what: adapter or merged writes it.")
    config = load_config(str(path), trust_remote_code)
    if config_entry(config).get("kind") == IMPLICIT:
        raise UserError(
            f"{path} is an implicit PRM: its scores are the difference of two models, which no token classifier gives. "
            "Serve it with `rlstep serve`."
        )
    spec = VerifierSpec.from_config(str(path), config)
    require_token_classifier(str(path), config)
    if adapter := find_adapter(str(path)):
        model = load_adapter(adapter, config, spec.head, dtype, trust_remote_code).merge_and_unload()
        model.config.rlstep_verifier.pop("base_weights", None)
    else:
        model = load_weights(auto_class_of(spec.head), str(path), config, dtype, trust_remote_code)
    if spec.head == "token":
        model = as_classifier(model, config, spec, trust_remote_code)
    # One type for all: a class head that was trained in float32 beside an adapter is read in the others' type.
    model.to(model.base_model.dtype if dtype == "auto" else getattr(torch, dtype))
    model.save_pretrained(folder)
    load_tokenizer(str(path), trust_remote_code).save_pretrained(folder)
    return model.num_parameters()


@torch.no_grad()
def as_classifier(
    model: PreTrainedModel, config: PretrainedConfig, spec: VerifierSpec, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A causal LM that answers by label tokens as a token classifier: the LM head's rows of them are its class head.

    Args:
        model: the causal LM, V logits per token.
        config: its configuration.
        spec: what it was taught; K label tokens.
        trust_remote_code: run model code from the hub.

    Returns:
        A model with K logits per token, the same as the LM's for the label tokens.

    Raises:
        UserError: the LM changes the logits that its head gives (Gemma 2's soft cap), which a class head does not.
    """
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(CLASSES[: spec.classes]))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.classifier_dropout = 0.0
    config.rlstep_verifier = replace(spec, head="classification", label_tokens=None).to_config()
    with torch.random.fork_rng([]):  # weights that are replaced at once are drawn first
        classifier = AutoModelForTokenClassification.from_config(config, trust_remote_code=trust_remote_code)
    classifier.to(model.dtype).eval()
    classifier.base_model.load_state_dict(model.base_model.state_dict())
    head, whole = head_of(classifier), model.get_output_embeddings()
    rows = torch.tensor(spec.label_tokens)
    head.weight.copy_(whole.weight[rows])
    if head.bias is not None:
        head.bias.zero_() if whole.bias is None else head.bias.copy_(whole.bias[rows])
    ids = torch.arange(1, 9)[None] % config.get_text_config().vocab_size
    if not torch.allclose(classifier(ids).logits.float(), model.eval()(ids).logits[..., rows].float(), atol=1e-4):
        raise UserError(
            f"{type(model).__name__} changes the logits that its head gives, which a token classifier does not; serve "
            "this verifier with `rlstep serve`."
        )
    return classifier
