"""Step positions under published tokenizers: SmolLM2's, Qwen's and DeepSeek's."""

import pytest

from rlstep.steps.boundaries import line_steps
from rlstep.steps.positions import encode, step_tokens, token_ends_from_ids, token_ends_from_offsets
from rlstep.tasks.word_problems import WordProblems

NAMES = ("smollm2", "qwen", "deepseek")
TEXTS = {
    "plain": "Mia has 3 * 4 = 12 apples.\nThat leaves 12 - 5 = 7 apples.\nAnswer: 7",
    "crlf": "Step 1: 3 * 4 = 12\r\n\r\nStep 2: 12 - 5 = 7\r\nAnswer: 7\r\n",
    "emoji": "Das macht 🙂🙂 drei\n👩‍👩‍👧 = 3\n🇫🇷\n",
    "chinese": "首先，3 乘以 4 等于 12。\n然后减去五，得到 7。\n答案：7",
    "latex": "\\[\nx = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}\n\\]\n$$\n\n\n\\boxed{7}\n",
    "cut off": "3 * 4 = 12\n12 - 5 =",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("name", NAMES)
def test_a_step_ends_where_decoding_first_shows_all_of_it(name, text, real_tokenizer):
    tokenizer, steps = real_tokenizer(name), line_steps(text)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = coded["input_ids"]
    assert tokenizer.decode(ids) == text
    beginnings = [tokenizer.decode(ids[: count + 1]) for count in range(len(ids))]
    expected = [next(i for i, read in enumerate(beginnings) if read[:end] == text[:end]) for _, end in steps]
    assert step_tokens(token_ends_from_offsets(coded["offset_mapping"]), steps) == expected
    assert step_tokens(token_ends_from_ids(tokenizer, ids), steps) == expected


@pytest.mark.parametrize("name", NAMES)
def test_each_calculation_of_a_word_problem_ends_with_its_line(name, real_tokenizer):
    """A step's last token holds its newline, whatever the tokenizer joins with it; the last one's holds the answer."""
    tokenizer = real_tokenizer(name)
    for solution in WordProblems().demonstrations(10, seed=0):
        steps = line_steps(solution.completion)
        encoded = encode(tokenizer, "", solution.completion, steps)
        read = [tokenizer.decode(encoded.ids[encoded.prompt_length : end + 1]) for end in encoded.step_ends]
        assert read == [solution.completion[:end] for _, end in steps]
