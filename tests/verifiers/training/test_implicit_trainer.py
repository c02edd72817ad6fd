import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.verifiers.scoring.implicit import ImplicitRewardModel
from rlstep.verifiers.spec import ImplicitSpec
from rlstep.verifiers.training.implicit_trainer import ImplicitTrainer, save_reference

# A tiny model's log-ratios are small: a larger beta than the papers' lets it learn within a few steps.
SPEC = ImplicitSpec(beta=1.0, boundary=Boundary("blank_line"))


def gap(verifier: ImplicitRewardModel, solutions) -> float:
    """Mean probability at the last step of right solutions, minus that of wrong ones."""
    scores = verifier.score([s.prompt for s in solutions], [s.completion for s in solutions])
    last = {True: [], False: []}
    for solution, values in zip(solutions, scores, strict=True):
        last[solution.correct].append(values[-1])
    return sum(last[True]) / len(last[True]) - sum(last[False]) / len(last[False])


def with_lora(tiny_lm):
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))


def test_outcomes_alone_move_right_solutions_above_wrong_ones(tiny_lm, solutions, arguments):
    args = arguments(num_train_epochs=8, save_strategy="no")
    trainer = ImplicitTrainer(tiny_lm, args, [replace(s, steps=None, labels=None) for s in solutions], spec=SPEC)
    first = trainer.evaluate(trainer.train_dataset)
    assert first["eval_loss"] == pytest.approx(math.log(2), abs=1e-4)
    trainer.train()
    assert trainer.evaluate(trainer.train_dataset)["eval_auroc"] > 0.95
    trainer.save_model()
    verifier = ImplicitRewardModel.from_pretrained(args.output_dir, device="cpu", boundary=Boundary())
    assert gap(verifier, solutions) > 0.5
    assert (verifier.beta, ImplicitRewardModel.from_pretrained(args.output_dir).boundary) == (1.0, SPEC.boundary)


def test_the_loss_is_the_cross_entropy_of_the_whole_completions_log_ratio(tiny_lm, solutions, arguments, tokenizer):
    args = arguments(max_steps=3, save_strategy="no")
    trainer = ImplicitTrainer(tiny_lm, args, solutions, solutions, spec=SPEC)
    trainer.train()
    actual = trainer.evaluate()
    reference, losses = AutoModelForCausalLM.from_pretrained(tiny_lm), []
    for solution in solutions:
        start = len(tokenizer(solution.prompt)["input_ids"])
        ids = torch.tensor([tokenizer(solution.prompt)["input_ids"] + tokenizer(solution.completion)["input_ids"]])
        with torch.no_grad():
            logps = [
                lm(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[start - 1 :].sum()
                for lm in (trainer.model.eval(), reference)
            ]
        q = float(logps[0] - logps[1])
        losses.append(math.log1p(math.exp(-q if solution.correct else q)))
    assert actual["eval_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert abs(actual["eval_loss"] - math.log(2)) > 0.01


def first_step(tiny_lm, solutions, args, spec=SPEC) -> list[torch.Tensor]:
    seen = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            seen.extend(parameter.grad.clone() for parameter in model.parameters())

    trainer = ImplicitTrainer(tiny_lm, args, solutions, spec=spec)
    trainer.add_callback(Keep())
    trainer.train()
    return seen


def test_packing_trains_as_padding_does(tiny_lm, solutions, arguments):
    options = {"max_steps": 1, "per_device_train_batch_size": 6, "train_sampling_strategy": "sequential"}
    options |= {"save_strategy": "no", "max_grad_norm": 0.0}
    packed, padded = (
        first_step(tiny_lm, solutions, arguments(packing=packing, **options)) for packing in (True, False)
    )
    for left, right in zip(packed, padded, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
    # At the start q is 0 whatever beta is, so the loss's slope in q is the same, and q's slope is proportional to beta.
    half = first_step(tiny_lm, solutions, arguments(packing=True, **options), ImplicitSpec(beta=0.5))
    for left, right in zip(packed, half, strict=True):
        torch.testing.assert_close(left, 2 * right, atol=1e-5, rtol=1e-3)


def test_accumulated_batches_count_as_one(tiny_lm, solutions, arguments):
    options = {"max_steps": 1, "train_sampling_strategy": "sequential", "save_strategy": "no", "max_grad_norm": 0.0}
    whole = first_step(tiny_lm, solutions, arguments(per_device_train_batch_size=8, **options))
    parts = arguments(per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    for left, right in zip(whole, first_step(tiny_lm, solutions, parts), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_mixed_precision(tiny_lm, solutions, arguments):
    trainer = ImplicitTrainer(tiny_lm, arguments(bf16=True, max_steps=2, save_strategy="no"), solutions, spec=SPEC)
    # The reference is computed as the model is: without that, q at the start would hold the rounding of bfloat16.
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(math.log(2), abs=1e-3)
    trainer.train()


def same_weights(folder: Path, tiny_lm) -> bool:
    actual, expected = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, tiny_lm))
    return actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)


def test_the_reference_is_the_model_at_the_start(tiny_lm, solutions, arguments, tmp_path):
    args = arguments(max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=2)
    trainer = ImplicitTrainer(tiny_lm, args, solutions, spec=SPEC)
    trainer.train()
    trainer.save_model()
    run = Path(args.output_dir)
    assert same_weights(run / "reference", tiny_lm)
    assert not same_weights(run, tiny_lm)
    assert not hasattr(AutoConfig.from_pretrained(run / "reference"), "rlstep_verifier")
    assert not (run / "checkpoint-2" / "reference").exists()
    ImplicitRewardModel.from_pretrained(str(run / "checkpoint-2"))
    trainer.save_model(str(tmp_path / "elsewhere"))
    assert same_weights(tmp_path / "elsewhere" / "reference", tiny_lm)


def test_a_resumed_run_keeps_the_reference(tiny_lm, solutions, arguments, tmp_path):
    options = {"num_train_epochs": 4, "save_strategy": "epoch", "save_total_limit": 4}
    whole = ImplicitTrainer(tiny_lm, arguments(**options), solutions, spec=SPEC)
    whole.train()
    resumed = ImplicitTrainer(tiny_lm, arguments(**options), solutions, spec=SPEC)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    for left, right in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(left, right)
    assert same_weights(tmp_path / "out" / "reference", tiny_lm)


def test_lora_trains_against_the_bare_base_and_merges(tiny_lm, solutions, arguments):
    args = arguments(num_train_epochs=8, save_strategy="no", learning_rate=2e-2)
    trainer = ImplicitTrainer(with_lora(tiny_lm), args, solutions, spec=SPEC)
    trainer.train()
    assert same_weights(Path(args.output_dir) / "reference", tiny_lm)
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(args.output_dir)
    trainer.processing_class.save_pretrained(args.output_dir)
    verifier = ImplicitRewardModel.from_pretrained(args.output_dir, device="cpu", boundary=Boundary())
    assert gap(verifier, solutions) > 0.3


def test_the_reference_has_no_adapter(tiny_lm, solutions, arguments, tmp_path):
    model = with_lora(tiny_lm)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    trainer = ImplicitTrainer(model, arguments(), solutions, spec=SPEC)
    plain = ImplicitTrainer(tiny_lm, arguments(), solutions, spec=SPEC)
    for (actual,), (expected,) in zip(trainer.train_dataset, plain.train_dataset, strict=True):
        torch.testing.assert_close(actual.reference, expected.reference, atol=1e-5, rtol=0)
    save_reference(trainer.model, tmp_path / "reference")
    assert same_weights(tmp_path / "reference", tiny_lm)


def test_a_head_that_is_trained_whole_does_not_reach_the_reference(tiny_lm, solutions, arguments, tmp_path):
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_lm), lora)
    model.config.rlstep_verifier = SPEC.to_config()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(1.0)
    save_reference(model, tmp_path / "reference")
    assert same_weights(tmp_path / "reference", tiny_lm)


def test_what_cannot_be_asked_is_counted(tiny_lm, solutions, arguments):
    rows = [*solutions, replace(solutions[0], completion=""), replace(solutions[1], completion="7 + 3 = 10\n" * 200)]
    trainer = ImplicitTrainer(tiny_lm, arguments(), rows, spec=SPEC)
    assert trainer.train_counts == {"rows": 12, "positions": 12, "rows_too_long": 1, "rows_empty": 1}
    longest = max(len(unit[0].ids) for unit in trainer.train_dataset)
    shorter = ImplicitTrainer(tiny_lm, arguments(max_length=longest - 1), solutions, spec=SPEC)
    assert 0 < shorter.train_counts["rows"] < 12


def test_outcomes_are_needed_and_of_both_kinds(tiny_lm, solutions, arguments):
    with pytest.raises(UserError, match=r"solution 2 .*'correct' is None; an implicit PRM needs true or false"):
        ImplicitTrainer(tiny_lm, arguments(), [solutions[0], replace(solutions[1], correct=None)], spec=SPEC)
    with pytest.raises(UserError, match="there is nothing to tell apart"):
        ImplicitTrainer(tiny_lm, arguments(), [replace(s, correct=True) for s in solutions], spec=SPEC)
