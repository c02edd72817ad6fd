"""Heads, label policies, pairs and step alternatives, from data to scores."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.orm import ORMConfig, orm
from rlstep.stages.prm import PRMConfig, prm
from rlstep.steps.boundaries import Boundary
from rlstep.steps.labels import LabelPolicy
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution
from rlstep.verifiers.features import train_features
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec, label_token_ids
from rlstep.verifiers.training.start import new_verifier
from rlstep.verifiers.training.trainer import ORMTrainer, PRMTrainer
from rlstep.verifiers.training.units import pair_up

NEUTRAL_CLASS = VerifierSpec("prm", policy=LabelPolicy("class"))


@pytest.fixture
def data(tmp_path, solutions) -> str:
    path = tmp_path / "labelled.jsonl"
    write_rows(path, (solution.to_row() for solution in solutions))
    return str(path)


def alternatives(solution: Solution) -> list[Solution]:
    """A trajectory, and two other third steps behind its first two."""
    start = solution.completion[: solution.steps[1][1]]
    actual = [replace(solution, tree="t", labels=[1] * len(solution.steps))]
    for sample, text in enumerate(("3 + 3 = 6\n", "9 - 2 = 1\n"), start=1):
        steps = [*solution.steps[:2], (len(start), len(start) + len(text))]
        row = replace(solution, completion=start + text, steps=steps, labels=[1, 1, 0], sample=sample, tree="t")
        actual.append(row)
    return actual


def losses_and_gradients(trainer) -> list[torch.Tensor]:
    seen = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            seen.extend(parameter.grad.clone() for parameter in model.parameters())

    trainer.add_callback(Keep())
    loss = trainer.train().training_loss
    return [torch.tensor(loss), *seen]


@pytest.mark.parametrize("trainer_class", [PRMTrainer, ORMTrainer])
def test_packing_trains_as_padding_does(tiny_lm, solutions, arguments, trainer_class):
    rows = [*solutions[:6], *alternatives(solutions[7])]
    actual = []
    for packing in (True, False):
        args = arguments(
            packing=packing, max_steps=1, per_device_train_batch_size=9, train_sampling_strategy="sequential",
            save_strategy="no", max_grad_norm=0.0,
        )  # fmt: skip
        trainer = trainer_class(tiny_lm, args, rows)
        assert trainer.packing is packing
        actual.append(losses_and_gradients(trainer))
    for packed, padded in zip(*actual, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-4)


def test_rows_of_a_tree_are_one_unit_and_their_prefix_is_computed_once(tiny_lm, solutions, arguments):
    first, second = alternatives(solutions[7]), [replace(row, tree="u") for row in alternatives(solutions[7])]
    # the order of the rows, in a shuffled file say, does not matter
    rows = [solutions[0], *first[:2], solutions[1], *second, first[2]]
    trainer = PRMTrainer(tiny_lm, arguments(), rows)
    assert [len(unit) for unit in trainer.train_dataset] == [1, 3, 1, 3]
    assert {len(unit) for unit in PRMTrainer(tiny_lm, arguments(packing=False), rows).train_dataset} == {1}
    unit = trainer.train_dataset[1]
    batch = trainer.data_collator([unit])
    own = [len(trainer.processing_class(text)["input_ids"]) for text in ("3 + 3 = 6\n", "9 - 2 = 1\n")]
    used = (batch["ends"] > torch.arange(1, batch["ends"].shape[1] + 1)).sum() + len(unit)
    assert used == len(unit[0].ids) + sum(own)


@pytest.mark.parametrize("packing", [True, False])
def test_evaluation_judges_branches_whole_and_counts_their_steps_once(tiny_lm, solutions, arguments, packing):
    rows = alternatives(solutions[7])
    steps = len(rows[0].steps)
    trainer = PRMTrainer(tiny_lm, arguments(packing=packing), solutions, eval_dataset=rows)
    with torch.no_grad():
        trainer.model.score.weight.zero_()  # every p is one half: nothing is called wrong
    metrics = trainer.evaluate()
    assert metrics["eval_positions"] == steps + 2
    assert metrics["eval_accuracy"] == pytest.approx(steps / (steps + 2))
    # No error is found in the two branches, which have one; that the path has none is right.
    assert metrics["eval_first_error_exact"] == pytest.approx(1 / 3)


def test_what_has_no_labels_of_its_own_teaches_nothing_twice(tokenizer, solutions):
    features, counts = train_features("prm", alternatives(solutions[7]), tokenizer, None)
    assert [len(feature.targets) for feature in features] == [len(solutions[7].steps), 1, 1]
    assert counts["positions"] == len(solutions[7].steps) + 2


def test_random_batches_with_packing_and_length_groups_without(tiny_lm, solutions, arguments):
    from torch.utils.data import RandomSampler

    from rlstep.verifiers.training.sampling import LengthGroupedSampler

    def sampler(**changes):
        return PRMTrainer(tiny_lm, arguments(**changes), solutions).get_train_dataloader().batch_sampler.sampler

    assert isinstance(sampler(), RandomSampler)
    assert isinstance(sampler(packing=False), LengthGroupedSampler)
    assert isinstance(sampler(train_sampling_strategy="group_by_length"), LengthGroupedSampler)
    assert isinstance(sampler(packing=False, train_sampling_strategy="random"), RandomSampler)


def test_a_model_that_cannot_be_packed_is_padded_and_says_so(tiny_lm, solutions, arguments, caplog):
    model = new_verifier(tiny_lm, VerifierSpec("prm"))
    model.config.layer_types = ["chunked_attention", "full_attention"]
    trainer = PRMTrainer(model, arguments(), solutions)
    assert not trainer.packing
    assert "rows are padded in batches of similar lengths" in caplog.text


# --- heads


def test_token_head_learns_and_scores_by_its_label_tokens(tiny_lm, solutions, arguments, tokenizer, data, tmp_path):
    config = PRMConfig(tiny_lm, data, head="token", label_tokens=["7", "3"])
    metrics = prm(config, arguments(num_train_epochs=60, save_strategy="no", learning_rate=1e-2))
    assert metrics["positions"] > 0
    out = str(tmp_path / "out")
    verifier = RewardModel.from_pretrained(out)
    values = verifier.score([s.prompt for s in solutions], [s.completion for s in solutions])
    for solution, scores in zip(solutions, values, strict=True):
        taught = solution.labels.index(0) + 1 if 0 in solution.labels else len(scores)
        assert [round(score) for score in scores[:taught]] == solution.labels[:taught]
    # The paper's reading: the language model's own next token behind the step is the label's.
    lm = AutoModelForCausalLM.from_pretrained(out).eval()
    wrong, right = label_token_ids(tokenizer, ["7", "3"], VerifierSpec("prm"))
    first = solutions[0]
    ids = tokenizer(first.prompt)["input_ids"] + tokenizer(first.step_texts[0])["input_ids"]
    with torch.no_grad():
        logits_V = lm(torch.tensor([ids])).logits[0, -1]
    assert logits_V.argmax().item() == (right if first.labels[0] else wrong)
    p = logits_V[[wrong, right]].softmax(-1)[1].item()
    assert values[0][0] == pytest.approx(p, abs=1e-5)


def test_a_trained_token_head_has_no_other_loss_than_its_labels(tiny_lm, solutions, arguments, tokenizer):
    """The loss is the language model's own next-token loss at the labelled positions."""
    ids = label_token_ids(tokenizer, ["-", "+"], VerifierSpec("prm"))
    trainer = PRMTrainer(tiny_lm, arguments(), solutions, spec=VerifierSpec("prm", "token", ids))
    rows = [row for unit in trainer.train_dataset for row in unit]
    loss = trainer.compute_loss(trainer.model, trainer.data_collator([[row] for row in rows]))
    expected, count = 0.0, 0
    for row in rows:
        logits_TV = trainer.model(row.ids[None]).logits[0]
        labels = torch.tensor([ids[int(target)] for target in row.targets])
        expected += torch.nn.functional.cross_entropy(logits_TV[row.positions], labels, reduction="sum")
        count += len(labels)
    torch.testing.assert_close(loss, expected / count, atol=1e-5, rtol=1e-5)


def test_a_token_heads_loss_does_not_depend_on_how_a_batch_is_accumulated(tiny_lm, solutions, arguments, tokenizer):
    """For a causal LM the Trainer would count a batch's labels without the first."""
    ids = label_token_ids(tokenizer, ["-", "+"], VerifierSpec("prm"))
    losses = []
    for size, steps in ((8, 1), (2, 4), (1, 8)):
        args = arguments(
            per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=1, save_strategy="no",
            train_sampling_strategy="sequential",
        )  # fmt: skip
        trainer = PRMTrainer(tiny_lm, args, solutions, spec=VerifierSpec("prm", "token", ids))
        losses.append(trainer.train().training_loss)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_lora_and_checkpointing_train_a_token_head(tiny_lm, data, arguments, tmp_path):
    config = PRMConfig(tiny_lm, data, head="token", use_peft=True, lora_r=4)
    prm(config, arguments(activation_checkpointing=True, max_steps=2, save_strategy="no", learning_rate=1e-2))
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    start = AutoModelForCausalLM.from_pretrained(tiny_lm)
    changed = {n for n, w in trained.named_parameters() if not torch.equal(w, start.get_parameter(n))}
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert "model.embed_tokens.weight" not in changed


def test_neutral_class_is_learned_and_counted_as_asked(tiny_lm, solutions, arguments, tmp_path):
    for solution in solutions:
        solution.labels = [None, *solution.labels[1:]]
        solution.neutral = [0]
    args = arguments(num_train_epochs=60, save_strategy="no", learning_rate=1e-2)
    trainer = PRMTrainer(tiny_lm, args, solutions, solutions, spec=NEUTRAL_CLASS)
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] > 0.9
    trainer.save_model()
    first = {}
    for neutral in ("positive", "negative", None):
        verifier = RewardModel.from_pretrained(str(tmp_path / "out"), neutral=neutral)
        first[neutral] = verifier.score([solutions[0].prompt], [solutions[0].completion])[0][0]
    assert first["positive"] > 0.9
    assert first["negative"] < 0.1
    assert first[None] == first["positive"]


def test_policy_is_stored_and_a_mismatch_refused(tiny_lm, data, arguments, tmp_path):
    config = PRMConfig(tiny_lm, data, neutral="negative", boundary="tag", boundary_tag="=", after_first_error="keep")
    prm(config, arguments(max_steps=1, save_strategy="no"))
    out = str(tmp_path / "out")
    verifier = RewardModel.from_pretrained(out, neutral="negative", boundary=Boundary("tag", "="))
    assert verifier.boundary == Boundary("tag", "=")
    assert len(verifier.score(["Left to right, mod 20: 7 + 3\n"], ["7 + 3 = 10"])[0]) == 2  # split at the tag
    with pytest.raises(UserError, match="taught neutral steps as 'negative', so its scores cannot count them as"):
        RewardModel.from_pretrained(out, neutral="positive")
    with pytest.raises(UserError, match="was taught steps by "):
        RewardModel.from_pretrained(out, boundary=Boundary("line"))


def test_label_policy_reaches_the_targets(tiny_lm, solutions, arguments):
    wrong = next(s for s in solutions if 0 in s.labels[:-1])
    counts = {}
    for after in ("mask", "keep"):
        spec = VerifierSpec("prm", policy=LabelPolicy(after_first_error=after))
        counts[after] = PRMTrainer(tiny_lm, arguments(), [wrong, solutions[0]], spec=spec).train_counts["positions"]
    assert counts["keep"] > counts["mask"]


def test_options_that_would_do_nothing_are_refused(tiny_lm, data):
    with pytest.raises(UserError, match="head is 'classification', so label_tokens would do nothing"):
        PRMConfig(tiny_lm, data, label_tokens=["-", "+"])


def test_a_checkpoint_trained_further_by_its_path_stays_what_it_is(tiny_lm, data, arguments, tmp_path, solutions):
    config = PRMConfig(tiny_lm, data, head="token", label_tokens=["7", "3"], neutral="class")
    with pytest.raises(UserError, match="give 3 texts"):
        prm(config, arguments())
    prm(PRMConfig(tiny_lm, data, neutral="class"), arguments(max_steps=1, save_strategy="no"))
    trainer = PRMTrainer(str(tmp_path / "out"), arguments(), solutions)
    assert trainer.spec == replace(NEUTRAL_CLASS, prompts=PromptFormat("text"))
    rows = [replace(s, prompt=[{"role": "user", "content": s.prompt}]).to_row() for s in solutions]
    write_rows(tmp_path / "chats.jsonl", rows)
    chats = PRMConfig(str(tmp_path / "out"), str(tmp_path / "chats.jsonl"), neutral="class")
    with pytest.raises(UserError, match="was taught prompt_format text, not chat. Train it further as it was"):
        prm(chats, arguments(output_dir=str(tmp_path / "again")))
    with pytest.raises(UserError, match="taught with .*class.*, not a prm with .*positive"):
        prm(PRMConfig(str(tmp_path / "out"), data), arguments(output_dir=str(tmp_path / "again")))


# --- pairs


def test_pairs_use_every_solution_of_mixed_problems(tokenizer, solutions):
    from rlstep.steps.records import Solution as Row

    def row(problem: str, sample: int, correct: bool) -> Row:
        return replace(solutions[0], problem_id=problem, sample=sample, correct=correct)

    rows = [row("a", 0, True), row("a", 1, False), row("a", 2, False), row("b", 0, True), row("a", 3, False)]
    features, _ = train_features("orm", rows, tokenizer, None)
    pairs = pair_up(features)
    assert [[bool(member.targets[0]) for member in pair] for pair in pairs] == [[True, False]] * 3
    assert {id(member) for pair in pairs for member in pair} == {id(features[i]) for i in (0, 1, 2, 4)}


def test_pairwise_orm_ranks_right_above_wrong(tiny_lm, solutions, arguments, tmp_path, data):
    problem = solutions[0].problem_id
    for index, solution in enumerate(solutions):
        solution.problem_id, solution.sample, solution.prompt = problem, index, solutions[0].prompt
    args = arguments(num_train_epochs=30, save_strategy="no", learning_rate=1e-2)
    trainer = ORMTrainer(tiny_lm, args, solutions, solutions, loss="pairwise")
    assert trainer.train_counts["pairs"] == max(
        sum(s.correct for s in solutions), sum(not s.correct for s in solutions)
    )
    trainer.train()
    assert trainer.evaluate()["eval_final_auroc"] > 0.95


def test_pairs_hold_whole_solutions(tiny_lm, solutions, arguments):
    for index, solution in enumerate(solutions):
        solution.problem_id, solution.sample = "p", index
    lengths = [len(unit[0].ids) for unit in ORMTrainer(tiny_lm, arguments(), None, solutions).eval_dataset]
    limit = sorted(lengths)[len(lengths) // 2]
    trainer = ORMTrainer(tiny_lm, arguments(max_length=limit), None, solutions, loss="pairwise")
    assert trainer.eval_counts["rows_too_long"] == sum(length > limit for length in lengths)
    assert {len(unit[0].ids) for unit in trainer.eval_dataset} <= set(lengths)


def test_pairwise_loss_needs_mixed_problems(tiny_lm, solutions, arguments):
    for index, solution in enumerate(solutions):
        solution.problem_id = f"p{index}"
    with pytest.raises(UserError, match="no problem of the training data has both"):
        ORMTrainer(tiny_lm, arguments(), solutions, loss="pairwise")
    with pytest.raises(UserError, match="loss is 'hinge'"):
        ORMTrainer(tiny_lm, arguments(), solutions, loss="hinge")


def test_pairwise_stage(tiny_lm, solutions, arguments, tmp_path):
    for index, solution in enumerate(solutions):
        solution.problem_id, solution.sample = "p", index
    write_rows(tmp_path / "pairs.jsonl", (solution.to_row() for solution in solutions))
    config = ORMConfig(tiny_lm, str(tmp_path / "pairs.jsonl"), loss="pairwise")
    assert orm(config, arguments(max_steps=1, save_strategy="no"))["pairs"] > 0
    assert RewardModel.from_pretrained(str(tmp_path / "out")).kind == "orm"


def test_implicit_stage_trains_on_outcomes_and_scores_like_any_verifier(tiny_lm, data, arguments, tmp_path, solutions):
    args = arguments(max_steps=2, save_strategy="no", learning_rate=1e-2)
    orm(ORMConfig(tiny_lm, data, loss="implicit", beta=0.1, boundary="line"), args)
    out = str(tmp_path / "out")
    verifier = RewardModel.from_pretrained(out)
    assert verifier.beta == 0.1
    assert verifier.kind == "orm"
    prompts, completions = [s.prompt for s in solutions], [s.completion for s in solutions]
    for scores, rewards in zip(
        verifier.score(prompts, completions), verifier.step_log_ratios(prompts, completions), strict=True
    ):
        assert scores == pytest.approx(torch.tensor(rewards).cumsum(0).sigmoid().tolist(), abs=1e-6)
    with pytest.raises(UserError, match="is an implicit PRM"):
        RewardModel.from_pretrained(out, neutral="positive")
    # taught at every token, it may be asked at any step
    assert RewardModel.from_pretrained(out, boundary=Boundary("sentence")).boundary == Boundary("sentence")
    with pytest.raises(UserError, match="loss is 'token', so beta would do nothing"):
        ORMConfig(tiny_lm, data, beta=0.1)
