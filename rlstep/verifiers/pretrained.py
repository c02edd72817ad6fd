"""Configuration, weights and tokenizer of a folder or hub id, with the errors that a user can act on.

`rlstep.verifiers.load` opens whole verifiers; what it opens, it opens with these.
"""

from collections.abc import Sequence
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as transformers_logging

from rlstep.runtime.errors import UserError
from rlstep.verifiers.heads import head_of, is_class_head
from rlstep.verifiers.model_files import ADAPTER_CONFIG, check_files, refuse_pointers, tokenizer_folder
from rlstep.verifiers.spec import Head, config_entry


def load_config(path: str, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of a model or of a verifier, also of one that was saved as an adapter.

    Raises:
        UserError: there is none, or it is the adapter of something else, for example of a policy.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        refuse_pointers(path)
        _refuse_adapter(path)
        raise UserError(f"{path}: no model can be loaded from here ({_first_line(error)})") from error
    if not config_entry(config):
        _refuse_adapter(path)
    return without_router_loss(config)


def _refuse_adapter(path: str) -> None:
    if (Path(path) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{path} is a policy's LoRA adapter, no verifier. To train a verifier from it, set use_peft: true, which "
            "goes on with the adapter, or merge_base: true, which merges it into its base first."
        )


def without_router_loss(config: PretrainedConfig) -> PretrainedConfig:
    """Switches off, in place, the router logits that a mixture of experts returns for its auxiliary loss.

    TRL asks for them where it trains with that loss. Saved in a configuration, they would be computed in every pass,
    with a mask that in generation is longer than what passes.
    """
    text_config = config.get_text_config()
    if getattr(text_config, "output_router_logits", False):
        text_config.output_router_logits = False
    return config


def refuse_quantised(path: str, config: PretrainedConfig) -> None:
    """Refuses weights of a few bits where they are to be trained or merged.

    Raises:
        UserError: the checkpoint holds such.
    """
    settings = getattr(config, "quantization_config", None)
    if settings:
        method = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
        raise UserError(
            f"{path} holds quantised weights ({getattr(method, 'value', method)}), which rlstep does not train; take "
            "the checkpoint that it was made from, with dtype: bfloat16 and use_peft: true where memory is short."
        )


def require_token_classifier(path: str, config: PretrainedConfig) -> None:
    """Refuses families for which transformers has no token classifier, where one is needed.

    Raises:
        UserError: it is one of those.
    """
    known = type(config) in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    if not known and "AutoModelForTokenClassification" not in (getattr(config, "auto_map", None) or {}):
        raise UserError(
            f"{path} is a {config.model_type} model, for which transformers has no token classifier. A PRM can be "
            "trained on its label tokens (`rlstep prm --head token`), and an ORM's place can be taken by an implicit "
            "PRM (`rlstep orm --loss implicit`)."
        )


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer at a folder or hub id, as its files say; of an adapter without one, that of its base.

    Raises:
        UserError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(tokenizer_folder(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        refuse_pointers(path)
        raise UserError(f"{path}: no tokenizer can be loaded from here ({_first_line(error)})") from error


def read_generation_config(folder: str | Path) -> GenerationConfig | None:
    """The generation configuration in a local folder, None where there is none."""
    if not (Path(folder) / GENERATION_CONFIG_NAME).is_file():
        return None
    return GenerationConfig.from_pretrained(folder)


def auto_class_of(head: Head) -> type:
    """The class of transformers that loads a model with this head."""
    return AutoModelForCausalLM if head == "token" else AutoModelForTokenClassification


def load_weights(
    auto_class: type,
    path: str,
    config: PretrainedConfig,
    dtype: str,
    trust_remote_code: bool,
    fresh_head: bool = False,
    revision: str | None = None,
) -> PreTrainedModel:
    """A verifier all of whose weights come from a checkpoint; other weights that the checkpoint holds are not read.

    Args:
        auto_class: of `auto_class_of`.
        path: folder or hub id.
        config: the model's configuration.
        dtype: the weights' type, or "auto" for that of the checkpoint.
        trust_remote_code: run model code from the hub.
        fresh_head: a class head may be missing, and is then drawn at random.
        revision: of a hub id.

    Raises:
        UserError: nothing loadable is there, weights are missing, or the model has no head that rlstep knows.
    """
    what = "causal LM"
    if auto_class is not AutoModelForCausalLM:
        require_token_classifier(path, config)
        what = "token classifier"
    options = {"config": config, "dtype": dtype, "trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    model, missing, _ = _from_pretrained(auto_class, path, what, options)
    head_of(model)
    _refuse_missing(path, model, [name for name in missing if not (fresh_head and is_class_head(name))])
    return model


def load_causal_lm(
    path: str, dtype: str = "auto", trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedModel:
    """A language model to sample from or to put an adapter on, all of whose weights come from the checkpoint.

    Args:
        path: folder or hub id of whole weights.
        dtype: the weights' type, or "auto" for that of the checkpoint.
        trust_remote_code: run model code from the hub.
        revision: of a hub id.

    Raises:
        UserError: there is no language model, or weights are missing.
    """
    options = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    model, missing, _ = _from_pretrained(AutoModelForCausalLM, path, "causal LM", options)
    _refuse_missing(path, model, missing)
    without_router_loss(model.config)
    return model


def _refuse_missing(path: str, model: PreTrainedModel, missing: Sequence[str]) -> None:
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} weights of {type(model).__name__}, {missing[0]} first: the checkpoint is "
            "incomplete or of another architecture."
        )


def load_every_weight(
    model_class: type,
    path: str,
    config: PretrainedConfig,
    dtype: str,
    trust_remote_code: bool = False,
    unread: Sequence[str] = (),
) -> PreTrainedModel:
    """A model with a place for every weight of its checkpoint, and every weight from there, out of safetensors alone.

    Stricter than `load_weights`: for models that others published, where a weight without a place tells that the
    checkpoint is of another family than the one it is read as.

    Args:
        model_class: a class of transformers, an auto class, or one of ours.
        path: folder or hub id.
        config: the checkpoint's configuration.
        dtype: the weights' type, or "auto".
        trust_remote_code: for auto classes: run the checkpoint's model code.
        unread: weights that may be in the checkpoint without a place in the model.

    Raises:
        UserError: the weights are a pickle, some are missing, or some have no place.
    """
    refuse_pickles(path)
    options = {"config": config, "dtype": dtype, "trust_remote_code": trust_remote_code, "use_safetensors": True}
    model, missing, unexpected = _from_pretrained(model_class, path, model_class.__name__, options)
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} weights of {type(model).__name__}, {missing[0]} first: the checkpoint is "
            "incomplete, or of another family than the one it is read as."
        )
    if without_place := [name for name in unexpected if name not in unread]:
        raise UserError(
            f"{path} has {len(without_place)} weights that {type(model).__name__} has no place for, "
            f"{without_place[0]} first: the checkpoint is of another family than the one it is read as."
        )
    return model


def _from_pretrained(
    model_class: type, path: str, what: str, options: dict
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """(model, names of weights that it lacks, names of weights in the checkpoint that it has no place for)."""
    check_files(path)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of missing weights: the callers make it an error
    try:
        model, report = model_class.from_pretrained(path, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"{path}: cannot be loaded as a {what} ({_first_line(error)})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    _refuse_unread_bits(path, model)
    return model, sorted(report["missing_keys"]), sorted(report["unexpected_keys"])


def _refuse_unread_bits(path: str, model: PreTrainedModel) -> None:
    """Refuses quantised weights of a method that transformers does not know, and has read as if they were whole.

    Raises:
        UserError: the configuration names such a method.
    """
    settings = getattr(model.config, "quantization_config", None)
    if settings and getattr(model, "hf_quantizer", None) is None:
        method = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
        raise UserError(f"{path} holds weights that are quantised by {method!r}, which transformers does not read.")


def refuse_pickles(path: str) -> None:
    """Refuses a folder whose weights are a pickle, which can run any code while it is read.

    Raises:
        UserError: there are pickles and no safetensors. For a hub id, transformers says so itself.
    """
    folder = Path(path)
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        pickles = sorted(file.name for ending in ("bin", "pt", "pth") for file in folder.glob(f"*.{ending}"))
        if pickles:
            raise UserError(
                f"{path} holds its weights as a pickle ({pickles[0]}), which rlstep does not open. If you trust it, "
                "convert it once: load it with transformers and call save_pretrained(), which writes safetensors."
            )


def max_positions(config: PretrainedConfig) -> int | None:
    """The longest sequence that a model admits, in tokens; None where its configuration names none."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
