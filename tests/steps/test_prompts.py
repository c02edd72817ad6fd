"""How prompts become text and tokens: once each special token, the template's own, and what is refused."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlstep.runtime.errors import UserError
from rlstep.steps.positions import encode
from rlstep.steps.prompts import PromptFormat, problem_text

WORDS = ["<bos>", "<eos>", "<unk>", "<|user|>", "<|system|>", "<|assistant|>", "<think>", "a", "b", "c"]
BOS, EOS, USER, SYSTEM, ASSISTANT, THINK, A, B, C = (WORDS.index(word) for word in WORDS if word != "<unk>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<|{{ m.role }}|> {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if think is not defined or think %}<think>{% endif %}{% endif %}"
)
CHAT = [{"role": "user", "content": "a b"}]
SYSTEM_SAYS = {"role": "system", "content": "c"}


@pytest.fixture
def make_tokenizer():
    """Makes a tokenizer of whole words that opens each text with <bos>, closes it with <eos>, and has a template."""

    def make(template: str | None = TEMPLATE, bos: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        parts = [*(["<bos>"] if bos else []), "$A", *(["<eos>"] if eos else [])]
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join(parts), special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
        )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<bos>",
            eos_token="<eos>",
            unk_token="<unk>",
            additional_special_tokens=["<|user|>", "<|system|>", "<|assistant|>", "<think>"],
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


def test_text_is_opened_and_not_closed(make_tokenizer):
    assert PromptFormat().encode(make_tokenizer(), ["a b", "c", "a b"]) == [[BOS, A, B], [BOS, C], [BOS, A, B]]


def test_an_end_token_of_the_text_itself_stays(make_tokenizer):
    assert PromptFormat().encode(make_tokenizer(), ["a <eos>"]) == [[BOS, A, EOS]]


def test_messages_go_through_the_template_and_begin_once(make_tokenizer):
    (ids,) = PromptFormat().encode(make_tokenizer(), [CHAT])
    assert ids == [BOS, USER, A, B, ASSISTANT, THINK]


def test_a_text_that_was_templated_by_hand_begins_once_too(make_tokenizer):
    tokenizer = make_tokenizer()
    by_hand = PromptFormat().render(tokenizer, CHAT)
    assert PromptFormat().encode(tokenizer, [by_hand]) == PromptFormat().encode(tokenizer, [CHAT])


def test_the_tokens_are_those_of_the_tokenizers_own_way(make_tokenizer):
    tokenizer = make_tokenizer()
    own = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert PromptFormat().encode(tokenizer, [CHAT]) == [own["input_ids"]]


def test_chat_makes_a_users_message_of_text(make_tokenizer):
    tokenizer = make_tokenizer()
    assert PromptFormat("chat").encode(tokenizer, ["a b", CHAT]) == PromptFormat().encode(tokenizer, [CHAT, CHAT])


def test_the_system_prompt_comes_first(make_tokenizer):
    (ids,) = PromptFormat("chat", system_prompt="c").encode(make_tokenizer(), [CHAT])
    assert ids == [BOS, SYSTEM, C, USER, A, B, ASSISTANT, THINK]


def test_a_template_can_be_told_not_to_open_a_thought(make_tokenizer):
    (ids,) = PromptFormat("chat", template_arguments={"think": False}).encode(make_tokenizer(), [CHAT])
    assert ids == [BOS, USER, A, B, ASSISTANT]


def test_mixed_prompts_are_decided_by_their_own_form_until_one_is_asked_for(make_tokenizer):
    assert PromptFormat().encode(make_tokenizer(), ["a", CHAT]) == [[BOS, A], [BOS, USER, A, B, ASSISTANT, THINK]]
    with pytest.raises(UserError, match="prompt 1 is plain text and prompt 0 a list of messages"):
        PromptFormat().resolved([CHAT, "a"])
    assert PromptFormat().resolved(["a", "b"]).form == "text"
    assert PromptFormat().resolved([CHAT]).form == "chat"
    assert PromptFormat(system_prompt="c").resolved(["a"]).form == "chat"


@pytest.mark.parametrize(
    ("make_format", "prompt", "message"),
    [
        (lambda: PromptFormat("text"), CHAT, "prompt_format is text, and a prompt is a list of messages"),
        (lambda: PromptFormat("text", system_prompt="c"), "a", "system_prompt would do nothing"),
        (lambda: PromptFormat("text", template_arguments={"a": 1}), "a", "chat_template_arguments would do nothing"),
        (
            lambda: PromptFormat(system_prompt="c"),
            [{"role": "system", "content": "b"}, *CHAT],
            "begins with a system message of its own",
        ),
        (lambda: PromptFormat(), [*CHAT, {"role": "assistant", "content": "c"}], "last message is the assistant's"),
        (lambda: PromptFormat(), [*CHAT, {"role": "tool", "content": "c"}], "roles user, tool: no tools here"),
    ],
)
def test_what_makes_no_sense_is_refused(make_tokenizer, make_format, prompt, message):
    with pytest.raises(UserError, match=message):
        make_format().encode(make_tokenizer(), [prompt])


def test_a_chat_needs_a_template(make_tokenizer):
    with pytest.raises(UserError, match="has no chat template"):
        PromptFormat().encode(make_tokenizer(template=None), [CHAT])


def test_a_template_that_leaves_out_what_was_said_is_refused(make_tokenizer):
    """As Phi-3's first one did with the system's: the setting, or the message, would do nothing."""
    user_alone = (
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|> {{ m.content }} {% endfor %}<|assistant|>"
    )
    tokenizer = make_tokenizer(user_alone)
    for prompt_format, prompt in ((PromptFormat("chat", "c"), CHAT), (PromptFormat(), [SYSTEM_SAYS, *CHAT])):
        with pytest.raises(UserError, match="leaves out the system message of a prompt with the roles system, user"):
            prompt_format.encode(tokenizer, [CHAT, prompt])
    assert PromptFormat().encode(tokenizer, [CHAT]) == [[USER, A, B, ASSISTANT]]


def test_a_template_may_take_words_out_of_a_message_and_the_assistants_out_of_a_history(make_tokenizer):
    tokenizer = make_tokenizer(
        "{% for m in messages if m.role != 'assistant' %}<|{{ m.role }}|> {{ m.content | replace('/no_think', '') }} "
        "{% endfor %}<|assistant|>"
    )
    history = [{"role": "user", "content": "a /no_think"}, {"role": "assistant", "content": "b"}, *CHAT]
    assert PromptFormat().encode(tokenizer, [history]) == [[USER, A, USER, A, B, ASSISTANT]]


def test_a_format_survives_its_checkpoint():
    for one in (PromptFormat("text"), PromptFormat("chat", "Be brief.", {"enable_thinking": False})):
        assert PromptFormat.from_dict(one.to_dict()) == one


def test_step_positions_stand_after_the_template(make_tokenizer):
    encoded = encode(make_tokenizer(), CHAT, "a b c", [(0, 2), (2, 5)])
    assert encoded.ids == [BOS, USER, A, B, ASSISTANT, THINK, A, B, C]
    assert (encoded.prompt_length, encoded.step_ends) == (6, [6, 8])


def test_a_problem_is_what_the_user_said_last():
    assert problem_text("a") == "a"
    assert problem_text([{"role": "system", "content": "s"}, *CHAT, {"role": "assistant", "content": "c"},
                         {"role": "user", "content": "d"}]) == "d"  # fmt: skip
