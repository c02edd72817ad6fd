"""The settings of prompts: what each changes, what they are when a checkpoint was taught something, what is refused."""

import json

import pytest

from rlstep.runtime.config import StrictParser
from rlstep.runtime.errors import UserError
from rlstep.steps.prompt_options import PromptOptions
from rlstep.steps.prompts import PromptFormat

CHAT = [{"role": "user", "content": "What?"}]


@pytest.fixture
def tokenizer(chat_lm):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(chat_lm)


def test_without_settings_the_prompts_own_form_decides(tokenizer):
    assert PromptOptions().for_model(tokenizer, ["What?"], None, "m") == PromptFormat("text")
    assert PromptOptions().for_model(tokenizer, [CHAT], None, "m") == PromptFormat("chat").of_tokenizer(tokenizer)
    with pytest.raises(UserError, match="prompt 0 is plain text and prompt 1 a list of messages"):
        PromptOptions().for_model(tokenizer, ["What?", CHAT], None, "m")


def test_plain_text_for_a_model_with_a_template_is_told_unless_it_was_asked_for_or_taught(tokenizer, task, caplog):
    PromptOptions().for_model(tokenizer, ["What?"], None, "a-chat-model")
    assert "plain text, which a-chat-model is given as it is, although its tokenizer has a chat template" in caplog.text
    caplog.clear()
    PromptOptions(prompt_format="text").for_model(tokenizer, ["What?"], None, "m")
    PromptOptions(prompt_format="chat").for_model(tokenizer, ["What?"], None, "m")
    PromptOptions().for_model(tokenizer, ["What?"], PromptFormat("text"), "m")
    PromptOptions().for_model(tokenizer, [CHAT], None, "m")
    PromptOptions().for_model(task.tokenizer(), ["What?"], None, "m")
    assert not caplog.records


def test_a_file_and_the_command_line_give_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text("prompt_format: chat\nchat_template_arguments: {enable_thinking: false}\n")
    line = ["--prompt_format", "chat", "--chat_template_arguments", '{"enable_thinking": false}']
    parser = StrictParser([PromptOptions])
    assert parser.parse(["--config", str(tmp_path / "a.yaml")]) == parser.parse(line)
    assert parser.parse(line)[0].requested == PromptFormat("chat", None, {"enable_thinking": False})


def test_a_checkpoints_own_settings_need_not_be_repeated(tokenizer):
    taught = PromptFormat("chat", "S", {"thinking": True}).of_tokenizer(tokenizer)
    for options in ({}, {"prompt_format": "chat"}, {"system_prompt": "S"}):
        assert PromptOptions(**options).for_model(tokenizer, [CHAT], taught, "m") == taught


def test_templates_are_compared_within_one_vocabulary_alone(tokenizer, task):
    mine = PromptFormat("chat").of_tokenizer(tokenizer)
    tokenizer.chat_template += " "
    assert "the chat template" in mine.difference(PromptFormat("chat").of_tokenizer(tokenizer))
    other = task.tokenizer()
    other.chat_template = "something else"
    assert mine.difference(PromptFormat("chat").of_tokenizer(other)) is None
    assert "system_prompt" in mine.difference(PromptFormat("chat", "S").of_tokenizer(other))
    assert "prompt_format chat, not text" in mine.difference(PromptFormat("text"))


TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is no UTF-8 text; give a file"),
        (b" \n", "is empty; give a file"),
        # each of these would be written into every prompt
        (b"\xef\xbb\xbf" + TEMPLATE.encode(), r"begins with a byte order mark \(BOM\)"),
        (json.dumps({"chat_template": TEMPLATE}).encode(), "is JSON; give the template alone: `jq -r .chat_template"),
        (b"You are a helpful assistant.", "is no chat template: it does not read the variable messages"),
    ],
)
def test_a_file_that_holds_no_template_is_refused(tmp_path, content, message):
    (tmp_path / "a.jinja").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.jinja, which {message}"):
        PromptOptions(chat_template=str(tmp_path / "a.jinja"))


def test_text_and_the_name_of_a_file_are_not_taken_for_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "system.txt").write_text("You are a helpful assistant.")
    with pytest.raises(UserError, match=r"system_prompt is the text itself, and system\.txt is a file"):
        PromptOptions(system_prompt="system.txt")
    assert PromptOptions(system_prompt="Think. " * 200).requested.system_prompt == "Think. " * 200
    with pytest.raises(UserError, match="chat_template is a template; write it to a file"):
        PromptOptions(chat_template=TEMPLATE * 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_format": "text", "system_prompt": "S"}, "prompt_format is 'text', so system_prompt would do nothing"),
        ({"prompt_format": "text", "chat_template_arguments": {"a": 1}}, "so chat_template_arguments would do nothing"),
        ({"prompt_format": "message"}, "prompt_format is 'message'; it must be one of auto, text, chat"),
        ({"chat_template": "none.jinja"}, "chat_template is none.jinja, which is no file"),
        ({"chat_template_arguments": {"add_generation_prompt": False}}, "add_generation_prompt, which is set here"),
        ({"chat_template_arguments": "thinking"}, "chat_template_arguments is thinking; give a mapping"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        PromptOptions(**options)


def test_what_the_template_closes_a_turn_with(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert PromptFormat("chat").turn_end(tokenizer) == end
    assert PromptFormat("text").turn_end(tokenizer) is None
    for template, expected in [
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }} <eos>{% endfor %}", tokenizer.eos_token_id),
        ("{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}", None),
        ("{{ messages[0].content }}", None),
    ]:
        tokenizer.chat_template = template
        assert PromptFormat("chat").turn_end(tokenizer) == expected
