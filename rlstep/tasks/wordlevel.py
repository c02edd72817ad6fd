"""A Hugging Face tokenizer for a small vocabulary, built offline: each piece of the task's text is one token.

It is a byte-level BPE without merges, of the class that `AutoTokenizer` loads for Qwen2 models, with the pieces as
added tokens: they are matched whole before anything else, spaces and newlines included, and any other text falls back
to bytes, so that nothing is lost.
"""

from tokenizers import pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerBase, Qwen2Tokenizer

PAD, EOS = "<pad>", "<eos>"
TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def word_level_tokenizer(pieces: list[str]) -> PreTrainedTokenizerBase:
    """A tokenizer whose tokens are `pieces` (the longest match wins) and the 256 bytes.

    Offsets are exact, and decoding gives the encoded text back (in Unicode's composed form, NFC, as Qwen2's do).
    """
    if len(set(pieces)) != len(pieces):
        raise ValueError("a piece is given twice")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={byte: index for index, byte in enumerate(alphabet)},
        merges=[],
        unk_token=None,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in pieces])
    return tokenizer


def chat_tokenizer(pieces: list[str]) -> PreTrainedTokenizerBase:
    """A tokenizer as above for a task whose prompts are messages, with the chat template ChatML.

    A text ends with the token that ends a turn.
    """
    tokenizer = word_level_tokenizer([*pieces, "system", "user", "assistant", "\n"])
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN], "eos_token": END_OF_TURN})
    tokenizer.chat_template = CHATML
    return tokenizer
