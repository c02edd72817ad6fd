"""Faults that reward-model code is known for, where no other test of this suite looks for them."""

import inspect
from dataclasses import fields, replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast

from rlstep.cli import main
from rlstep.runtime.rows import write_rows
from rlstep.stages.prm import PRMConfig, prm
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.boundaries import Boundary, line_steps
from rlstep.steps.records import Solution, read_solutions, write_solutions
from rlstep.verifiers.features import score_features, train_features
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.start import new_verifier
from rlstep.verifiers.training.trainer import PRMTrainer

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
STEP = "7 + 3 = 10\n"


@pytest.fixture
def arguments(tmp_path):
    return VerifierArguments(
        output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, save_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip


def saved(tiny_lm, tokenizer, folder, spec: VerifierSpec) -> str:
    new_verifier(tiny_lm, spec).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def verifier_path(tiny_lm, tokenizer, tmp_path) -> str:
    return saved(tiny_lm, tokenizer, tmp_path / "prm", VerifierSpec("prm"))


def ragged(count: int = 30) -> list[str]:
    """Completions of one step each, and one of twenty."""
    return [f"{k % 20} + 3 = {(k + 3) % 20}\n" for k in range(count)] + [STEP * 20]


def test_training_and_scoring_see_one_token_sequence_where_joining_the_texts_gives_another():
    """Training tokenises prompt and completion apart, scoring the joined text: other tokens at the seam."""
    backend = Tokenizer(models.BPE({"?": 0, "a": 1, "?a": 2, "b": 3, "ab": 4}, [("?", "a"), ("a", "b")]))
    # One piece, so that merges reach across the seam.
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split(" ", "removed"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    joined = tokenizer("b?" + "ab")["input_ids"]
    solution = Solution("p", "b?", "ab", "", steps=[(0, 2)], labels=[1], correct=True)
    [trained], _ = train_features("prm", [solution], tokenizer, None)
    [scored] = score_features("prm", ["b?"], ["ab"], [[(0, 2)]], tokenizer)
    assert trained.ids.tolist() == scored.ids.tolist() == [3, 0, 4]
    assert joined == [3, 2, 3]


def test_a_soft_label_is_whole_from_the_file_to_the_loss(tiny_lm, solutions, arguments, tmp_path):
    """A label of 0.9 becomes int(0.9) = 0 in a column of integers, and a wrong step ends the supervision."""
    soft = replace(solutions[0], labels=[0.9] * len(solutions[0].steps))
    write_solutions(tmp_path / "soft.parquet", [solutions[1], soft])
    trainer = PRMTrainer(tiny_lm, arguments, read_solutions(tmp_path / "soft.parquet"))
    batch = trainer.data_collator([trainer.train_dataset[1]])
    assert batch["labels"].tolist() == pytest.approx([0.9] * len(soft.steps))
    with torch.no_grad():
        trainer.model.score.weight.zero_()
        trainer.model.score.bias.copy_(torch.tensor([0.0, 1.0]))
    # -(0.9 log sigmoid(1) + 0.1 log sigmoid(-1)) = 0.31326 + 0.1
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(0.41326, abs=1e-5)


@pytest.mark.parametrize("name", ["loss", "neutral", "head", "dtype"])
def test_a_choice_that_is_not_there_is_refused_in_a_recipe(tmp_path, name, capsys):
    """A Literal that only type checkers read lets any text through from YAML."""
    (tmp_path / "r.yaml").write_text(f"model_name_or_path: m\ndata: d\noutput_dir: o\n{name}: anything\n")
    assert main(["orm" if name == "loss" else "prm", "--config", str(tmp_path / "r.yaml")]) == 2
    assert f"{name}: 'anything' is not one of" in capsys.readouterr().err


def test_a_solution_takes_one_forward_pass_however_many_steps_it_has(verifier_path):
    """Each step is scored by a pass over everything up to it: passes grow with the steps, work with their square."""
    verifier = RewardModel.from_pretrained(verifier_path)
    passes = []
    verifier.model.register_forward_hook(lambda *_: passes.append(1))
    assert list(map(len, verifier.score([PROMPT, PROMPT], [STEP * 3, STEP * 20]))) == [3, 20]
    assert len(passes) == 1


def test_tokens_computed_are_tokens_that_are_there(verifier_path, tokenizer):
    """Batches padded to their longest row compute several tokens for each real one."""
    completions = ragged()
    prompts = [PROMPT] * len(completions)
    real = [len(tokenizer(PROMPT + completion)["input_ids"]) for completion in completions]
    verifier = RewardModel.from_pretrained(verifier_path)
    verifier.score(prompts, completions)
    # In one padded batch they would be this many.
    assert len(real) * max(real) > 5 * sum(real)
    # Shared beginnings are computed once, so fewer than the rows hold.
    assert verifier.tokens_scored < sum(real)


def test_training_computes_tokens_that_are_there(tiny_lm, solutions, arguments):
    """As above, in training."""
    rows = []
    for k, text in enumerate(ragged()):
        steps = line_steps(text)
        rows.append(
            replace(solutions[0], prompt=f"{k} + 3\n", completion=text, steps=steps, labels=[k % 2] * len(steps))
        )
    trainer = PRMTrainer(tiny_lm, arguments, rows)
    real = sum(len(row.ids) for unit in trainer.train_dataset for row in unit)
    batch = trainer.data_collator(trainer.train_dataset)
    assert batch["input_ids"].numel() < 1.3 * real


@pytest.mark.parametrize("head", ["classification", "token"])
def test_no_vocabulary_of_logits_is_made_in_scoring(tiny_lm, tokenizer, tmp_path, head):
    """(B, T, V) logits are made, of which one position per step and two columns are read."""
    spec = VerifierSpec("prm", head, (3, 7) if head == "token" else None)
    verifier = RewardModel.from_pretrained(saved(tiny_lm, tokenizer, tmp_path / head, spec))
    shapes = []
    verifier.model.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.logits.shape)))
    verifier.score([PROMPT], [STEP * 4])
    assert shapes == [(4, 2)]


def test_training_makes_logits_at_labelled_positions_alone(tiny_lm, solutions, arguments):
    """The training step keeps logits of every token."""
    trainer = PRMTrainer(tiny_lm, arguments, solutions, spec=VerifierSpec("prm", "token", (3, 7)))
    shapes = []
    trainer.model.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.logits.shape)))
    batch = trainer.data_collator(trainer.train_dataset[:4])
    trainer.compute_loss(trainer.model, batch)
    assert shapes == [(len(batch["labels"]), trainer.model.config.vocab_size)]


# --- settings that do nothing

# Another value than the default for each option of `score` that the verifier is opened with.
OPENED_WITH = {
    "batch_tokens": (77, 77), "kind": ("orm", "orm"), "layout": ("trl", "trl"), "neutral": ("ignore", "ignore"),
    "boundary": ("sentence", Boundary("sentence")), "packing": (False, False), "dtype": ("bfloat16", "bfloat16"),
    "trust_remote_code": (True, True), "attn_implementation": ("eager", "eager"),
}  # fmt: skip
# What the stage itself reads; tests/stages/test_score.py changes each.
OF_THE_STAGE = {"model", "data", "out", "name", "chunk_rows", "boundary_tag", "on_long_row"}


def test_every_option_of_score_is_accounted_for():
    """An option is declared, stored and never read."""
    assert {field.name for field in fields(ScoreConfig)} == set(OPENED_WITH) | OF_THE_STAGE
    taken = inspect.signature(RewardModel.from_pretrained).parameters
    assert set(OPENED_WITH) <= set(taken)


@pytest.mark.parametrize("name", OPENED_WITH)
def test_an_option_of_score_reaches_the_verifier(name, solutions, monkeypatch, tmp_path):
    """As above, on the way from the stage to the engine."""

    class Opened(Exception):
        pass

    def open_with(path, **options):
        raise Opened(options[name])

    monkeypatch.setattr(RewardModel, "from_pretrained", open_with)
    write_solutions(tmp_path / "d.jsonl", solutions)
    model, data, out = (str(tmp_path / part) for part in ("m", "d.jsonl", "o.jsonl"))
    given, wanted = OPENED_WITH[name]
    with pytest.raises(Opened) as plain:
        score(ScoreConfig(model, data, out))
    assert plain.value.args != (wanted,)
    with pytest.raises(Opened) as changed:
        score(ScoreConfig(model, data, out, **{name: given}))
    assert changed.value.args == (wanted,)


def test_options_of_the_engine_change_what_it_does(verifier_path):
    """As above, in the engine."""
    completions = ragged()
    prompts = [PROMPT * 2] * len(completions)

    def scored(**options) -> tuple[RewardModel, int, list]:
        verifier = RewardModel.from_pretrained(verifier_path, **options)
        passes = []
        verifier.model.register_forward_hook(lambda *_: passes.append(1))
        values = verifier.score(prompts, completions)
        return verifier, len(passes), values

    plain, passes, values = scored()
    assert passes == 1
    assert scored(batch_tokens=100)[1] > 1
    assert scored(packing=False)[0].tokens_scored > plain.tokens_scored
    half, _, rounded = scored(dtype="bfloat16")
    assert (half.model.dtype, plain.model.dtype) == (torch.bfloat16, torch.float32)
    assert rounded != values


def test_the_weights_type_of_training_is_the_one_asked_for(tiny_lm, solutions, arguments, tmp_path):
    """As above, of `prm` and `orm`; float32, the default, has its test in tests/verifiers/training/test_trainer.py."""
    write_rows(tmp_path / "rows.jsonl", (solution.to_row() for solution in solutions))
    prm(PRMConfig(tiny_lm, str(tmp_path / "rows.jsonl"), dtype="bfloat16"), arguments)
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
