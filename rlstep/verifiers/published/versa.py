"""VersaPRM (Zeng et al., 2502.06737): a Llama whose next token at the line breaks after a step is "+" or "-".

The text, as the model card writes it, is the problem, " \\n\\n", and each step with " \\n\\n\\n\\n" after it.
"""

from transformers import AutoModelForCausalLM

from rlstep.verifiers.heads import label_head
from rlstep.verifiers.pretrained import load_config, load_every_weight
from rlstep.verifiers.published.rows import AskedAtTags, Marked, clean, join_marked, one_token, step_texts
from rlstep.verifiers.published.weights import published_name

RIGHT, WRONG = "+", "-"
TAG = " \n\n\n\n"
AFTER_PROBLEM = " \n\n"


class VersaFormat(AskedAtTags):
    """Steps lose the white space around them."""

    def _row(self, tokenizer, problem, completion, steps) -> Marked:
        texts = [clean(text) for text in step_texts(completion, steps)]
        start = problem.strip() + AFTER_PROBLEM
        return join_marked([start + texts[0], *texts[1:], ""] if texts else [start], TAG)


def recognises(config: dict, path: str) -> bool:
    causal = "LlamaForCausalLM" in (config.get("architectures") or ())
    return causal and published_name(path, r"VersaPRM(-Base-\d+B)?|Llama-PRM800K")


def load(path: str, tokenizer, dtype: str, trust_remote_code: bool):
    tag_id = one_token(tokenizer, TAG, "versa")
    right, wrong = (one_token(tokenizer, sign, "versa") for sign in (RIGHT, WRONG))
    config = load_config(path, trust_remote_code)
    model = load_every_weight(AutoModelForCausalLM, path, config, dtype, trust_remote_code)
    return label_head(model, (wrong, right)), VersaFormat(tag_id)
