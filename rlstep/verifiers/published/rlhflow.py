"""RLHFlow's PRMs (Xiong et al., 2024, RLHFlow/RLHF-Reward-Modeling): a chat model that answers each step with + or -.

    user       the problem step 1
    assistant  +
    user       step 2
    assistant  +

The published recipe asks once per step, with the conversation up to it, at the token before its last "+". A token's
value does not depend on those after it, so one pass over the whole conversation gives the same values.
"""

from dataclasses import dataclass

from transformers import AutoModelForCausalLM

from rlstep.verifiers.features import Feature
from rlstep.verifiers.heads import label_head
from rlstep.verifiers.pretrained import load_config, load_every_weight
from rlstep.verifiers.published.rows import (
    Marked,
    TwoClasses,
    ask_at_marks,
    chat_parts,
    clean,
    free_character,
    join_marked,
    one_token,
    require_chat_template,
    step_texts,
)
from rlstep.verifiers.published.weights import published_name

RIGHT, WRONG = "+", "-"
# In the data of the Mistral generator it closes every step; the recipe takes it away.
TAG = "ки"


@dataclass(frozen=True)
class RLHFlowFormat(TwoClasses):
    """Steps lose the white space around them, and Math-Shepherd's tag at their end.

    Attributes:
        right_id: the token of "+", whose place in every answer the model is asked to predict.
    """

    right_id: int

    def _features(self, problems, completions, steps, tokenizer) -> list[Feature]:
        rows = [self._row(tokenizer, *row) for row in zip(problems, completions, steps, strict=True)]
        return ask_at_marks(tokenizer, rows, self.right_id, add_special_tokens=False, before=True)

    def _row(self, tokenizer, problem, completion, steps) -> Marked:
        texts = [clean(text, TAG) for text in step_texts(completion, steps)]
        if not texts:
            return join_marked([""], RIGHT)
        texts[0] = f"{problem.strip()} {texts[0]}"
        placeholder = free_character(*texts)
        messages = [
            message
            for text in texts
            for message in ({"role": "user", "content": text}, {"role": "assistant", "content": placeholder})
        ]
        return join_marked(chat_parts(tokenizer, messages, placeholder, len(texts)), RIGHT)


def recognises(config: dict, path: str) -> bool:
    causal = "LlamaForCausalLM" in (config.get("architectures") or ())
    return causal and published_name(path, r"Llama-?3\.1-8B-PRM-(Mistral|Deepseek)-Data")


def load(path: str, tokenizer, dtype: str, trust_remote_code: bool):
    require_chat_template(tokenizer, path)
    right, wrong = (one_token(tokenizer, sign, "rlhflow") for sign in (RIGHT, WRONG))
    config = load_config(path, trust_remote_code)
    model = load_every_weight(AutoModelForCausalLM, path, config, dtype, trust_remote_code)
    return label_head(model, (wrong, right)), RLHFlowFormat(right)
