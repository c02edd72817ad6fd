"""Published tokenizers under chat templates of their families: our tokens are those of the tokenizer's own way."""

import pytest

from rlstep.steps.positions import encode
from rlstep.steps.prompts import PromptFormat

CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
# It writes the token that opens a text, and a thought that the completion begins in.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<\uff5cUser\uff5c>' + m.content }}"
    "{% else %}{{ '<\uff5cAssistant\uff5c>' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\n' }}{% endif %}"
)
TEMPLATES = {"qwen": CHATML, "deepseek": R1, "smollm2": None}
MESSAGES = [
    {"role": "system", "content": "Please reason step by step."},
    {"role": "user", "content": "What is 7 \u00d7 8\u202f? \u4f60\u597d \U0001f600\n\\[ x^2 \\]"},
]


@pytest.fixture(params=TEMPLATES)
def tokenizer(request, real_tokenizer):
    actual = real_tokenizer(request.param)
    template = TEMPLATES[request.param]
    before = actual.chat_template
    if template is not None:
        actual.chat_template = template
    yield actual
    actual.chat_template = before


@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}])
def test_a_chats_tokens_are_the_tokenizers_own(tokenizer, arguments):
    own = tokenizer.apply_chat_template(
        MESSAGES, tokenize=True, add_generation_prompt=True, return_dict=True, **arguments
    )["input_ids"]
    asked = PromptFormat("chat", template_arguments=arguments)
    assert asked.encode(tokenizer, [MESSAGES]) == [own]
    system = PromptFormat("chat", MESSAGES[0]["content"], arguments)
    assert system.encode(tokenizer, [MESSAGES[1:], MESSAGES[1]["content"]]) == [own, own]
    if tokenizer.bos_token_id is not None and own[0] == tokenizer.bos_token_id:
        assert own[1] != tokenizer.bos_token_id


def test_text_is_opened_as_the_tokenizer_does_and_not_closed(tokenizer):
    text = MESSAGES[1]["content"]
    (ids,) = PromptFormat("text").encode(tokenizer, [text])
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[len(ids) - len(plain) :] == plain
    assert ids == tokenizer(text)["input_ids"][: len(ids)]


def test_steps_of_a_completion_that_begins_in_thought(tokenizer):
    completion = "First, 7 \u00d7 8 = 56.\nYes.\n</think>\n\nAnswer: 56"
    spans = [(0, 21), (21, 26), (26, 35), (35, 46)]
    assert [completion[start:end].strip() for start, end in spans][-1].endswith("56")
    encoded = encode(tokenizer, MESSAGES, completion, spans)
    own = tokenizer.apply_chat_template(MESSAGES, tokenize=True, add_generation_prompt=True, return_dict=True)
    assert encoded.ids[: encoded.prompt_length] == own["input_ids"]
    for (_, end), place in zip(spans, encoded.step_ends, strict=True):
        read = tokenizer.decode(encoded.ids[encoded.prompt_length : place + 1])
        before = tokenizer.decode(encoded.ids[encoded.prompt_length : place])
        assert read.startswith(completion[:end])
        assert not before.startswith(completion[:end])


def test_a_turn_ends_with_the_familys_token(tokenizer):
    end = PromptFormat("chat").turn_end(tokenizer)
    assert end == tokenizer.eos_token_id
