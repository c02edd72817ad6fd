import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForTokenClassification, set_seed

from rlstep.core.losses import right_log_odds
from rlstep.policy.refresh.labels import CheckerLabels, RefreshOptions
from rlstep.policy.refresh.training import Refresher
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import line_steps
from rlstep.steps.labels import LabelPolicy
from rlstep.steps.records import write_solutions
from rlstep.verifiers.heads import label_head
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
RIGHT = "7 + 3 = 10\n10 * 7 = 10\nAnswer: 10"


def judged(completion: str) -> ScoredCompletion:
    return ScoredCompletion(line_steps(completion), [], 0.0, correct=False, clean=False)


def observe(refresher: Refresher, solutions) -> None:
    refresher.observe(
        [s.prompt for s in solutions],
        [s.completion for s in solutions],
        [s.reference for s in solutions],
        [judged(s.completion) for s in solutions],
    )


class Given:
    """Labels every step by a function of its completion and its number; keeps the rows that it was asked for."""

    def __init__(self, label=lambda completion, step: 1.0):
        self.label, self.asked = label, []

    def labels(self, prompts, completions, references, steps):
        self.asked += zip(prompts, completions, references, steps, strict=True)
        return [
            [self.label(text, k) for k in range(len(spans))] for text, spans in zip(completions, steps, strict=True)
        ]


@pytest.fixture
def prm(tiny_lm, tokenizer):
    """Makes an untrained PRM, always the same one."""

    def make(policy: LabelPolicy | None = None, packing: bool = True, dtype: str = "float32") -> RewardModel:
        set_seed(1)
        model = new_verifier(tiny_lm, VerifierSpec("prm", policy=policy or LabelPolicy()), dtype)
        return RewardModel(model, tokenizer, "prm", packing=packing)

    return make


@pytest.fixture
def refresher(prm, task):
    """Makes a refresher of an untrained PRM, labelled by the checker."""

    def make(labeler=None, reward_model=None, seed=0, **options) -> Refresher:
        options = {"refresh_every": 1, "refresh_learning_rate": 3e-3} | options
        return Refresher(RefreshOptions(**options), reward_model or prm(), labeler or CheckerLabels(task), seed)

    return make


@pytest.fixture
def replay_file(tmp_path, solutions) -> str:
    path = tmp_path / "replay.jsonl"
    write_solutions(path, solutions)
    return str(path)


def weights(refresher: Refresher) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in refresher.reward_model.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


def taught(solution) -> list[int]:
    """The labels up to the first wrong step: what the default label policy teaches."""
    labels = solution.labels
    return labels[: labels.index(0) + 1] if 0 in labels else labels


def scored(reward_model: RewardModel, solutions) -> torch.Tensor:
    """(N, 2): the score and the label of each step that is taught."""
    scores = reward_model.score([s.prompt for s in solutions], [s.completion for s in solutions])
    pairs = [pair for s, row in zip(solutions, scores, strict=True) for pair in zip(row, taught(s), strict=False)]
    return torch.tensor(pairs, dtype=torch.float64)


def agreement(scored_N2: torch.Tensor) -> float:
    return ((scored_N2[:, 0] >= 0.5) == (scored_N2[:, 1] == 1)).double().mean().item()


def cross_entropy(scored_N2: torch.Tensor) -> float:
    return nn.functional.binary_cross_entropy(*scored_N2.unbind(1)).item()


# --- Which rows, and when


def test_the_newest_distinct_samples_are_kept(refresher):
    labeler = Given()
    one = refresher(labeler, refresh_rows=3)

    def see(*completions, **options):
        count = len(completions)
        one.observe([PROMPT] * count, completions, ["1"] * count, [judged(c) for c in completions], **options)

    see("1\n", "2\n", "3\n")
    see("\n\n", "4\n", "2\n")
    one.refresh(1)
    assert [completion for _, completion, _, _ in labeler.asked] == ["3\n", "4\n", "2\n"]
    labeler.asked.clear()
    see("5\n6\n7", "5\n6\n8", "9", finished=[True, False, False])
    actual = one.refresh(2)
    # What was trained on is gone, and a last step that was cut off is left out.
    assert labeler.asked == [
        (PROMPT, "5\n6\n7", "1", [(0, 2), (2, 4), (4, 5)]),
        (PROMPT, "5\n6\n8", "1", [(0, 2), (2, 4)]),
    ]
    assert (actual["rows"], actual["steps"]) == (2, 5)


def test_a_refresh_is_due_when_a_multiple_of_its_updates_is_reached(refresher):
    one = refresher(refresh_every=3)
    actual = []
    for update in (1, 2, 3, 3, 4, 5, 8, 9, 10):
        if one.due(update):
            actual.append(update)
            one.refresh(update)
    assert actual == [3, 8, 9]
    one.options = RefreshOptions()
    assert not one.due(30)


def test_rows_that_teach_nothing_or_do_not_fit_are_counted(refresher, solutions, prm):
    reward_model = prm()
    longest = max(solutions, key=lambda s: len(s.completion)).completion
    unlabelled = {solutions[0].completion, solutions[1].completion} - {longest}
    reward_model.max_positions = len(reward_model.tokenizer(PROMPT + longest)["input_ids"]) - 1
    one = refresher(Given(lambda text, step: None if text in unlabelled else 1.0), reward_model)
    rows = {s.completion: len(reward_model.tokenizer(s.prompt + s.completion)["input_ids"]) for s in solutions}
    long = sum(n > reward_model.max_positions for text, n in rows.items() if text not in unlabelled)
    observe(one, solutions)
    actual = one.refresh(1)
    assert long >= 1
    assert (actual["rows_unlabelled"], actual["rows_too_long"]) == (len(unlabelled), long)
    assert actual["rows"] == len(rows) - len(unlabelled) - long


def test_without_a_label_nothing_is_trained(refresher, solutions, replay_file):
    one = refresher(Given(lambda text, step: None), refresh_replay=replay_file)
    before = weights(one)
    observe(one, solutions)
    actual = one.refresh(1)
    assert {key: actual[key] for key in ("rows", "steps", "replay_rows", "rows_unlabelled")} == {
        "rows": 0,
        "steps": 0,
        "replay_rows": 0,
        "rows_unlabelled": len(solutions),
    }
    assert "loss_before" not in actual
    assert one.version == 0
    assert same(weights(one), before)
    assert one.refresh(2)["rows_unlabelled"] == 0


# --- Training


def test_rows_that_the_prm_judges_wrongly_are_judged_better_afterwards(refresher, solutions):
    one = refresher(refresh_epochs=40, refresh_learning_rate=1e-2)
    observe(one, solutions)
    actual = one.refresh(1)
    labels = [label for s in solutions for label in taught(s)]
    assert (actual["rows"], actual["steps"]) == (len(solutions), len(labels))
    assert actual["right_share"] == pytest.approx(sum(labels) / len(labels))
    assert actual["agreement_before"] < 0.8
    assert actual["agreement_after"] > 0.95
    assert actual["loss_after"] < 0.2 < actual["loss_before"]
    assert actual["seconds"] > 0
    assert one.version == 1
    # The scores that the policy is paid by, at the places where it is paid.
    paid = scored(one.reward_model, solutions)
    assert actual["agreement_after"] == pytest.approx(agreement(paid))
    assert actual["loss_after"] == pytest.approx(cross_entropy(paid), rel=1e-3)


@pytest.mark.parametrize(("packing", "window", "mask_dimensions"), [(True, None, 4), (True, 8, 2), (False, None, 2)])
def test_weights_move_as_two_steps_of_adamw_by_clipped_gradients_move_them(
    refresher, prm, solutions, packing, window, mask_dimensions
):
    """The oracle runs each row alone, and finds a step's place by tokenising the text up to its end.

    Packed rows have a mask a token; rows beyond the model's attention window are padded.
    """
    rows = solutions[:3]
    labels = {s.completion: [1.0, 0.25, 0.0, 1.0] for s in rows}  # what follows the 0 teaches nothing
    models = [prm(packing=packing), prm()]
    for reward_model in models:
        with torch.no_grad():
            reward_model.model.score.weight.mul_(40)  # gradients beyond the norm that is clipped to
    models[0].model.config.use_sliding_window, models[0].model.config.sliding_window = window is not None, window
    masks = set()
    models[0].model.register_forward_pre_hook(
        lambda module, args, given: masks.add(given["attention_mask"].dim()), with_kwargs=True
    )
    one = refresher(Given(lambda text, k: labels[text][min(k, 3)]), models[0], refresh_epochs=2, refresh_batch_size=3)
    observe(one, rows)
    actual = one.refresh(1)

    model, tokenizer = models[1].model, models[1].tokenizer
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    losses, norms = [], []
    for _ in range(3):
        terms = []
        for solution in rows:
            logits_T2 = model(tokenizer(solution.prompt + solution.completion, return_tensors="pt")["input_ids"]).logits
            for (_, end), label in zip(solution.steps[:3], labels[solution.completion], strict=False):
                place = len(tokenizer(solution.prompt + solution.completion[:end])["input_ids"]) - 1
                odds = logits_T2[0, place, 1] - logits_T2[0, place, 0]
                terms.append(nn.functional.binary_cross_entropy_with_logits(odds, torch.tensor(label)))
        loss = torch.stack(terms).mean()
        losses.append(loss.item())
        if len(losses) < 3:
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
            optimizer.step()
            optimizer.zero_grad()
    assert masks == {mask_dimensions}
    assert min(norms) > 1.5
    assert norms[0] != pytest.approx(norms[1], rel=0.2)
    assert actual["steps"] == len(terms)
    assert (actual["loss_before"], actual["loss_after"]) == (
        pytest.approx(losses[0]),
        pytest.approx(losses[2], rel=1e-3),
    )
    for name, parameter in models[0].model.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), atol=2e-4, rtol=1e-3)
        assert parameter.grad is None


def test_the_label_policy_of_the_checkpoint_decides_what_is_taught(refresher, prm):
    def steps(policy: LabelPolicy) -> int:
        one = refresher(Given(lambda text, k: [1.0, 0.0, 1.0][k]), prm(policy))
        one.observe([PROMPT], ["1\n2\n3"], ["1"], [judged("1\n2\n3")])
        return one.refresh(1)["steps"]

    assert steps(LabelPolicy(after_first_error="mask")) == 2
    assert steps(LabelPolicy(after_first_error="keep")) == 3
    assert steps(LabelPolicy(neutral="class")) == 2


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 1),
        ({"refresh_batch_size": 5}, 3),
        ({"refresh_epochs": 2}, 2),
        ({"refresh_epochs": 2, "refresh_batch_size": 6}, 4),
        ({"refresh_rows": 4, "refresh_batch_size": 3}, 2),
    ],
)
def test_epochs_batch_size_and_rows_set_the_number_of_optimizer_steps(refresher, solutions, options, steps):
    one = refresher(**options)
    observe(one, solutions)
    one.refresh(1)
    moments = one.state_dict()["weights"]["optimizer"]
    assert {value["step"].item() for value in moments.values()} == {steps}


def test_the_learning_rate_sets_how_far_weights_move(refresher, solutions):
    moved = []
    for rate in (1e-5, 1e-3):
        one = refresher(refresh_learning_rate=rate)
        before = weights(one)
        observe(one, solutions)
        one.refresh(1)
        moved.append(max((weights(one)[name] - before[name]).abs().max().item() for name in before))
    # Adam's first step has the length of the learning rate.
    assert moved == [pytest.approx(1e-5, rel=0.05), pytest.approx(1e-3, rel=0.05)]


def test_a_refresh_that_diverges_is_an_error(refresher, solutions):
    one = refresher(refresh_learning_rate=1e30, refresh_epochs=3)
    observe(one, solutions)
    with pytest.raises(UserError, match="loss is nan after the refresh at update 7: lower refresh_learning_rate"):
        one.refresh(7)


def rows_trained_on(one: Refresher) -> Counter:
    """The token sequences that are trained on from now on, and how often each; the PRM must not pack."""
    seen = Counter()

    def count(module, args, given):
        if module.training:
            rows = zip(given["input_ids"], given["attention_mask"].bool(), strict=True)
            seen.update(tuple(ids[mask].tolist()) for ids, mask in rows)

    one.reward_model.model.register_forward_pre_hook(count, with_kwargs=True)
    return seen


@pytest.mark.parametrize(("share", "expected"), [(0.5, 8), (0.2, 2), (0.75, 24)])
def test_replay_makes_up_its_share_of_the_rows(refresher, prm, task, replay_file, share, expected):
    # Three quarters are more rows than the file has: all of them twice.
    one = refresher(reward_model=prm(packing=False), refresh_replay=replay_file, refresh_replay_share=share)
    seen = rows_trained_on(one)
    new = task.demonstrations(8, seed=9)
    observe(one, new)
    actual = one.refresh(1)
    assert (actual["rows"], actual["replay_rows"]) == (8, expected)
    texts = {tuple(one.reward_model.tokenizer(s.prompt + s.completion)["input_ids"]) for s in new}
    replayed = [count for ids, count in seen.items() if not any(text[: len(ids)] == ids for text in texts)]
    assert (seen.total(), sum(replayed)) == (8 + expected, expected)
    # Of the file's twelve rows none comes again before all have come.
    assert max(replayed) == (2 if expected == 24 else 1)


def test_what_the_prm_knew_is_kept_better_with_replay(refresher, prm, solutions, task, replay_file):
    """The first training's labels, then new rows whose labels are all wrong: without replay everything is wrong."""
    reward_model = prm()
    first = refresher(refresh_epochs=40, reward_model=reward_model)
    observe(first, solutions)
    assert first.refresh(1)["agreement_after"] > 0.95
    known = weights(first)
    fresh = task.demonstrations(12, seed=9)
    kept = {}
    for replay in (None, replay_file):
        reward_model.model.load_state_dict(known)
        again = refresher(Given(lambda text, k: 0.0), reward_model, refresh_epochs=10, refresh_replay=replay)
        observe(again, fresh)
        actual = again.refresh(1)
        assert actual["agreement_after"] > 0.8
        kept[replay] = scored(reward_model, solutions)
    alone, mixed = kept[None], kept[replay_file]
    assert cross_entropy(mixed) < 0.5 * cross_entropy(alone)
    assert agreement(mixed) > agreement(alone) + 0.2


@pytest.mark.parametrize("spoil", ["labels", "length"])
def test_replay_without_a_usable_row_shows_at_the_start(refresher, prm, solutions, tmp_path, spoil):
    path, reward_model = tmp_path / "replay.jsonl", prm()
    if spoil == "labels":
        for solution in solutions:
            solution.labels = [None] * len(solution.steps)
    else:
        reward_model.max_positions = 3
    write_solutions(path, solutions)
    with pytest.raises(UserError, match="replay.jsonl has no labelled row that fits the PRM"):
        refresher(reward_model=reward_model, refresh_replay=str(path))


# --- What is trained


def test_frozen_parameters_stay_as_they_are(refresher, prm, solutions):
    reward_model = prm()
    for name, parameter in reward_model.model.named_parameters():
        parameter.requires_grad_("score" in name or "layers.1.mlp" in name)
    one = refresher(reward_model=reward_model)
    before = weights(one)
    observe(one, solutions)
    one.refresh(1)
    after = weights(one)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    mlp = {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert moved == mlp | {"score.weight", "score.bias"}
    assert set(one.state_dict()["weights"]["values"]) == moved


@pytest.mark.parametrize("head", ["classification", "token"])
def test_of_an_adapter_that_was_loaded_frozen_adapter_and_class_head_are_trained(
    refresher, tiny_lm, tokenizer, solutions, head
):
    tokens = tuple(tokenizer.convert_tokens_to_ids(["0", "1"])) if head == "token" else None
    kind = "CAUSAL_LM" if head == "token" else "TOKEN_CLS"
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type=kind)
    model = get_peft_model(new_verifier(tiny_lm, VerifierSpec("prm", head, tokens)), lora).get_base_model()
    model.requires_grad_(False)
    if head == "token":
        label_head(model, tokens)
    one = refresher(reward_model=RewardModel(model, tokenizer, "prm"))
    before = weights(one)
    observe(one, solutions)
    one.refresh(1)
    moved = {name for name, value in weights(one).items() if not torch.equal(value, before[name])}
    # The first gradients of an adapter are those of B, which starts at 0.
    adapter = {f"model.layers.{n}.self_attn.q_proj.lora_B.default.weight" for n in (0, 1)}
    assert moved == adapter | (
        {f"score.modules_to_save.default.{n}" for n in ("weight", "bias")} if not tokens else set()
    )


def test_a_prm_without_a_parameter_to_train_is_refused(refresher, prm):
    reward_model = prm()
    reward_model.model.requires_grad_(False)
    with pytest.raises(UserError, match="all parameters of the PRM are frozen"):
        refresher(reward_model=reward_model)


def test_an_orm_and_a_prm_on_a_server_are_refused(refresher, tiny_lm, tokenizer):
    orm = RewardModel(new_verifier(tiny_lm, VerifierSpec("orm")), tokenizer, "orm")
    with pytest.raises(UserError, match="the reward model is an ORM. Give a PRM"):
        refresher(reward_model=orm)
    with pytest.raises(UserError, match="this one is on a server. Give its folder or hub id"):
        refresher(reward_model=SimpleNamespace(kind="prm"))


def test_updates_too_small_for_bfloat16_add_up(refresher, prm, solutions):
    """Updates of 1e-6 vanish in a weight of 1, whose neighbours in bfloat16 are 0.004 and 0.008 away."""
    one = refresher(reward_model=prm(dtype="bfloat16"), refresh_learning_rate=1e-6)
    name = "model.norm.weight"
    for update in range(1, 4):
        observe(one, solutions)
        one.refresh(update)
    exact = one.state_dict()["weights"]["values"][name]
    assert exact.dtype == torch.float32
    assert (exact - 1).abs().max().item() == pytest.approx(3e-6, rel=0.2)
    assert torch.equal(one.reward_model.model.get_parameter(name), torch.ones(32, dtype=torch.bfloat16))
    coarse = refresher(reward_model=prm(dtype="bfloat16"), refresh_learning_rate=1e-2)
    observe(coarse, solutions)
    coarse.refresh(1)
    exact = coarse.state_dict()["weights"]["values"][name]
    assert (exact - 1).abs().max() > 4e-3
    assert torch.equal(coarse.reward_model.model.get_parameter(name), exact.bfloat16())


def test_a_format_with_one_value_per_token_is_trained_where_it_is_read(refresher, tiny_lm, tokenizer, solutions):
    """A published PRM's prompt format: other tokens, other positions, and a sigmoid."""
    set_seed(1)
    config = AutoConfig.from_pretrained(tiny_lm, num_labels=1)
    model = AutoModelForTokenClassification.from_pretrained(tiny_lm, config=config)
    newline = tokenizer("\n")["input_ids"][-1]

    class OneValue:
        def features(self, prompts, completions, steps, tokenizer):
            from rlstep.verifiers.features import Feature

            rows = []
            for completion, spans in zip(completions, steps, strict=True):
                ids, positions = [], []
                for start, end in spans:
                    ids += [*tokenizer(completion[start:end].strip())["input_ids"], newline, newline]
                    positions.append(len(ids) - 1)
                rows.append(Feature(torch.tensor(ids), torch.tensor(positions)))
            return rows

        def values(self, logits_NK):
            return logits_NK[:, 0].sigmoid()

    one = refresher(reward_model=RewardModel(model, tokenizer, "prm", query_format=OneValue()), refresh_epochs=40)
    observe(one, solutions)
    before = scored(one.reward_model, solutions)
    actual = one.refresh(1)
    assert actual["loss_before"] == pytest.approx(cross_entropy(before), rel=1e-4)
    assert actual["agreement_after"] > 0.95


def test_values_of_a_third_class_count_in_the_agreement_as_in_the_scores(refresher, prm):
    reward_model = prm(LabelPolicy(neutral="class"))
    with torch.no_grad():
        reward_model.model.score.weight.zero_()
        reward_model.model.score.bias.copy_(torch.tensor([1.0, 0.5, 0.9]))  # wrong, right, neutral
    one = refresher(Given(), reward_model, refresh_learning_rate=1e-9)
    one.observe([PROMPT], [RIGHT], ["10"], [judged(RIGHT)])
    # Neutral counts as right: the odds are e^0.5 + e^0.9 to e^1, so the label 1 is met.
    assert one.refresh(1)["agreement_before"] == 1.0
    assert right_log_odds(torch.tensor([[1.0, 0.5, 0.9]]), "negative").item() < 0


# --- Randomness and resuming


def with_dropout(reward_model: RewardModel) -> RewardModel:
    for layer in reward_model.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    return reward_model


def trained(refresher, reward_model, solutions, **options) -> dict[str, torch.Tensor]:
    one = refresher(reward_model=reward_model, refresh_batch_size=4, **options)
    observe(one, solutions)
    one.refresh(1)
    assert not reward_model.model.training
    return weights(one)


def test_the_global_random_state_is_neither_moved_nor_read(refresher, prm, solutions, replay_file):
    actual = []
    for seed in (3, 4):
        reward_model = with_dropout(prm())
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        actual.append(trained(refresher, reward_model, solutions, refresh_replay=replay_file))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*actual)


def test_dropout_is_on_in_training_and_each_refresh_draws_anew(refresher, prm, solutions):
    plain = trained(refresher, prm(), solutions)
    assert not same(plain, trained(refresher, with_dropout(prm()), solutions))
    seeds = []
    one = refresher(reward_model=with_dropout(prm()))
    one.reward_model.model.score.register_forward_hook(
        lambda module, *_: seeds.append(torch.initial_seed()) if module.training else None
    )
    for update in (1, 2):
        observe(one, solutions)
        one.refresh(update)
    assert len(seeds) == len(set(seeds)) == 2


def test_the_seed_sets_the_order_of_the_rows(refresher, prm, solutions):
    first, again, other = (trained(refresher, prm(), solutions, seed=seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_gradients_flow_where_the_caller_has_switched_them_off(refresher, prm, solutions):
    expected = trained(refresher, prm(), solutions)
    with torch.no_grad():
        assert same(trained(refresher, prm(), solutions), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_goes_on_exactly(refresher, prm, solutions, task, replay_file, tmp_path, dtype):
    options = {"refresh_replay": replay_file, "refresh_batch_size": 4, "refresh_every": 2}
    one = refresher(reward_model=with_dropout(prm(dtype=dtype)), **options)
    observe(one, solutions)
    one.refresh(2)
    later = task.demonstrations(6, seed=11)
    observe(one, later[:3])
    state = one.state_dict()
    _assert_plain(state)
    torch.save(state, tmp_path / "state.pt")

    def go_on(refresher: Refresher) -> tuple[dict, dict]:
        assert not refresher.due(3)
        observe(refresher, later[3:])
        assert refresher.due(4)
        actual = refresher.refresh(4)
        assert (actual.pop("seconds") > 0, refresher.version, actual["rows"]) == (True, 2, 6)
        return actual, weights(refresher)

    actual, expected = go_on(one)
    other = refresher(reward_model=with_dropout(prm(dtype=dtype)), seed=77, **options)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    found_again, again = go_on(other)
    assert found_again == actual
    assert same(again, expected)
    # The state is a copy: what was trained since has not moved it.
    third = refresher(reward_model=with_dropout(prm(dtype=dtype)), **options)
    third.load_state_dict(state)
    assert go_on(third)[0] == actual
    fourth = refresher(reward_model=with_dropout(prm(dtype=dtype)), **options)
    fourth.load_state_dict(state)
    assert same(go_on(fourth)[1], expected)


def _assert_plain(value) -> None:
    """Nested dicts with text keys and lists, of JSON values and tensors."""
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        value = list(value.values())
    if type(value) is list:
        for item in value:
            _assert_plain(item)
    else:
        assert value is None or type(value) in (bool, int, float, str, torch.Tensor), type(value)


def test_the_state_of_another_prm_is_refused(refresher, prm):
    state = refresher().state_dict()
    reward_model = prm()
    reward_model.model.score.requires_grad_(False)
    with pytest.raises(UserError, match=re.escape("2 trained weights differ, score.bias first")):
        refresher(reward_model=reward_model).load_state_dict(state)
