import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from rlstep.policy.continuations import Continuer
from rlstep.runtime.errors import UserError

BEGINNINGS = [
    ("Left to right, mod 20: 7 + 3 * 7\n", "7 + 3 = 10\n"),
    ("Left to right, mod 20: 7 + 3 * 7\n", ""),
    ("Left to right, mod 20: 12 max 8 - 5 + 3\n", "12 max 8 = 12\n12 - 5 = 7\n"),
]


@pytest.fixture
def model(tiny_lm):
    return AutoModelForCausalLM.from_pretrained(tiny_lm).eval()


def test_each_beginning_gets_its_number_of_continuations(model, tokenizer):
    drawn = Continuer(model, tokenizer, max_new_tokens=6).draw(BEGINNINGS, [2, 1, 3], seed=0)
    assert [len(texts) for texts in drawn.texts] == [2, 1, 3]
    assert len({text for texts in drawn.texts for text in texts}) > 1


def test_the_likeliest_tokens_are_those_after_each_beginning_alone(model, tokenizer):
    """Padding, and the prefix that several continuations share, change nothing."""
    greedy = Continuer(model, tokenizer, max_new_tokens=8, temperature=0)
    together = greedy.draw(BEGINNINGS, [2, 1, 3], seed=0).texts
    for (prompt, begun), texts in zip(BEGINNINGS, together, strict=True):
        ids = tokenizer(prompt + begun, return_tensors="pt")["input_ids"]
        config = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, ids.shape[1] :]
        assert set(texts) == {tokenizer.decode(alone, skip_special_tokens=True)}


def test_the_seed_decides(model, tokenizer):
    continuer = Continuer(model, tokenizer, max_new_tokens=6)
    first = continuer.draw(BEGINNINGS, [2, 2, 2], seed=1)
    assert continuer.draw(BEGINNINGS, [2, 2, 2], seed=1) == first
    assert continuer.draw(BEGINNINGS, [2, 2, 2], seed=2) != first


def test_a_prefix_is_computed_once_for_all_its_continuations(model, tokenizer, monkeypatch):
    shapes, forward = [], model.forward

    def counted(*args, **options):
        shapes.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    monkeypatch.setattr(model, "forward", counted)
    drawn = Continuer(model, tokenizer, max_new_tokens=3).draw(BEGINNINGS, [4, 4, 4], seed=0)
    lengths = [len(tokenizer(prompt + begun)["input_ids"]) for prompt, begun in BEGINNINGS]
    assert shapes[0] == (3, max(lengths) - 1)
    assert set(shapes[1:]) == {(12, 1)}
    assert drawn.prefix_tokens == sum(lengths)


class Scripted:
    """Stands for a model: writes the given tokens after whatever is given."""

    device, config = torch.device("cpu"), None

    def __init__(self, *rows: list[int]):
        self.rows, self.generation_config = rows, GenerationConfig()

    def generate(self, input_ids, **_):
        return torch.cat([input_ids, torch.tensor(self.rows)], dim=1)


def test_tokens_are_counted_up_to_the_end_token(tokenizer):
    eos, pad, ten = tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("10")
    model = Scripted([ten, eos, pad, pad], [ten, ten, ten, eos], [ten, ten, ten, ten])
    drawn = Continuer(model, tokenizer, max_new_tokens=4).draw(BEGINNINGS, [1, 1, 1], seed=0)
    assert drawn.tokens == 2 + 4 + 4
    assert drawn.texts == [["10"], ["101010"], ["10101010"]]
    assert drawn.finished == [[True], [True], [False]]


def test_the_space_before_a_continuation_is_kept():
    """Tokenizers of the SentencePiece kind drop a text's first space, which here stands within the solution."""
    pieces = ["<pad>", "<eos>", "\u2581a", "\u2581is", "\u2581b", "."]
    words = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<pad>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    drawn = Continuer(Scripted([3, 4, 1]), tokenizer, max_new_tokens=3).draw([("b", "a")], [1], seed=0)
    assert drawn.texts == [[" is b"]]


def test_a_beginning_without_room_is_refused(model, tokenizer):
    """The model has 512 positions."""
    longest = max(len(tokenizer(prompt + begun)["input_ids"]) for prompt, begun in BEGINNINGS)
    Continuer(model, tokenizer, max_new_tokens=512 - longest).check_room(BEGINNINGS, ["a", "b", "c"])
    with pytest.raises(UserError, match=f"c: {longest} tokens of prompt and completion and {513 - longest} new ones"):
        Continuer(model, tokenizer, max_new_tokens=513 - longest).check_room(BEGINNINGS, ["a", "b", "c"])


def test_a_chat_goes_through_the_template(model, tokenizer, monkeypatch):
    chat, generate, seen = [{"role": "user", "content": "7 + 3"}], model.generate, []

    def watched(input_ids, **options):
        seen.append(tokenizer.decode(input_ids[0]))
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", watched)
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}<{{ m.role }}>{{ m.content }}:{% endfor %}")
    Continuer(model, tokenizer, max_new_tokens=1).draw([(chat, "7 + 3 = 10\n")], [1], seed=0)
    assert seen == ["<user>7 + 3:7 + 3 = 10\n"]
