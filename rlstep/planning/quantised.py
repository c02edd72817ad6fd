"""How large the weights of a quantised checkpoint are, by what its `config.json` says of them."""

from transformers import PretrainedConfig

from rlstep.runtime.errors import UserError

KNOWN = ("gptq", "awq", "bitsandbytes", "fp8", "fbgemm_fp8", "compressed-tensors")
SCALE_BITS = 16


def quantised_bits(path: str, config: PretrainedConfig) -> float | None:
    """Bits of a weight of the layers' matrices, with its share of their scales; None where they are not quantised.

    Args:
        path: of the checkpoint, for messages.
        config: its configuration.

    Raises:
        UserError: a method that is not known, or one whose settings lack the number of bits.
    """
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return None
    values = settings if isinstance(settings, dict) else settings.to_dict()
    method = str(getattr(values.get("quant_method"), "value", values.get("quant_method")))
    if method not in KNOWN:
        raise UserError(
            f"{path}: its weights are quantised by {method}, whose size a plan does not know; it knows "
            f"{', '.join(KNOWN)}. Plan with the checkpoint that it was made from."
        )
    try:
        return _bits(method, values)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: its quantization_config, of {method}, does not say how many bits a weight has ({error})."
        ) from None


def _bits(method: str, values: dict) -> float:
    if method == "bitsandbytes":
        # A scale in float32 for every 64 weights, or, quantised itself, eight bits for as many.
        return 4 + (8 if values.get("bnb_4bit_use_double_quant") else 32) / 64 if values.get("load_in_4bit") else 8.0
    if method in ("fp8", "fbgemm_fp8"):
        return 8.0
    if method == "compressed-tensors":
        weights = [group["weights"] for group in values["config_groups"].values()]
        return max(_with_scales(one["num_bits"], one.get("group_size")) for one in weights)
    # A group has a zero point beside its scale.
    bits, group = values["bits"], values.get("group_size", 128)
    return _with_scales(bits, group) + (bits / group if group > 0 else 0)


def _with_scales(bits: int, group: int | None) -> float:
    """Bits of a weight where as many share a scale; without a number a whole row of the matrix does."""
    return bits + (SCALE_BITS / group if group and group > 0 else 0)
