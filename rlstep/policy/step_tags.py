"""Whether a policy's completions can have the tag that ends a step."""

from transformers import PreTrainedTokenizerBase

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary


def check_tag(whose: str, boundary: Boundary, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses steps that end with a tag that no completion has: completions are read without special tokens.

    Args:
        whose: the steps are, for messages.
        boundary: what a step is.
        tokenizer: the policy's.

    Raises:
        UserError: a token of the tag is special.
    """
    if boundary.tag is None:
        return
    for token in tokenizer(boundary.tag, add_special_tokens=False, verbose=False)["input_ids"]:
        name = tokenizer.decode([token])
        if name and not tokenizer.decode([token], skip_special_tokens=True):
            raise UserError(
                f"{whose} has steps by {boundary}, and to the policy that is its special token {name!r}, without "
                "which completions are read: no step would end. Take other steps, or a policy that writes the tag "
                "as text."
            )
