"""Math-Shepherd's PRM (Wang et al., 2312.08935): a causal LM whose next token at a step's tag is "+" or "-".

The text, as the model card writes it::

    the problem Step 1: ... ки
    Step 2: ... ки
"""

from transformers import AutoModelForCausalLM

from rlstep.runtime.errors import UserError
from rlstep.verifiers.heads import label_head
from rlstep.verifiers.pretrained import load_config, load_every_weight
from rlstep.verifiers.published.rows import AskedAtTags, Marked, clean, join_marked, one_token, step_texts
from rlstep.verifiers.published.weights import published_name

TAG = "ки"


class MathShepherdFormat(AskedAtTags):
    """Steps lose the white space around them, and a tag at their end."""

    def _row(self, tokenizer, problem, completion, steps) -> Marked:
        texts = [clean(text, TAG) for text in step_texts(completion, steps)]
        starts = [problem.strip() + " ", *["\n"] * len(texts)]
        parts = [start + text + " " for start, text in zip(starts, texts, strict=False)]
        return join_marked([*parts, ""], TAG)


def recognises(config: dict, path: str) -> bool:
    causal = "MistralForCausalLM" in (config.get("architectures") or ())
    return causal and published_name(path, r"math-shepherd-mistral-7b-prm")


def load(path: str, tokenizer, dtype: str, trust_remote_code: bool):
    tag_id = one_token(tokenizer, TAG, "math_shepherd")
    # After a space, as they were in training: "▁+" and "▁-" of a sentencepiece vocabulary.
    signs = tokenizer("+ -", add_special_tokens=False)["input_ids"]
    if len(signs) != 2 or tokenizer.unk_token_id in signs:
        raise UserError(f"{path}: '+ -' is {len(signs)} tokens in its tokenizer; a math_shepherd PRM has one a sign.")
    right, wrong = signs
    config = load_config(path, trust_remote_code)
    model = load_every_weight(AutoModelForCausalLM, path, config, dtype, trust_remote_code)
    return label_head(model, (wrong, right)), MathShepherdFormat(tag_id)
