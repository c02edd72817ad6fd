import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationMixin

from rlstep.policy.continuations import Continuations, Continuer
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.label import LabelConfig, label
from rlstep.steps.answers import same_answer
from rlstep.steps.boundaries import line_steps
from rlstep.steps.records import Solution, read_solutions
from rlstep.tasks.increasing import greater, read_problem, write_solution
from rlstep.verifiers import pretrained

PROMPT = "Increasing? 3 8\n"


@pytest.fixture
def config(tmp_path, tiny_lm) -> LabelConfig:
    """Twenty solutions of `increasing`; the policy is `Careful` in most tests."""
    from rlstep.tasks.increasing import Increasing

    data = tmp_path / "samples.jsonl"
    write_rows(data, (solution.to_row() for solution in Increasing().demonstrations(20, seed=0)))
    return LabelConfig(
        data=str(data), out=str(tmp_path / "labelled.jsonl"), task="increasing", by="monte_carlo", policy=tiny_lm,
        max_new_tokens=4, batch_size=7,
    )  # fmt: skip


class Careful:
    """Stands for a policy's sampling: it goes on without an error in half of its continuations, and else gives up.

    What was written wrong before stays wrong: the answer follows from what the lines say.

    Attributes:
        batches: drawn so far.
        dies_at: the batch before which it is killed.
    """

    def __init__(self, dies_at: int | None = None):
        self.batches, self.dies_at = 0, dies_at

    def __call__(self, continuer, beginnings, numbers, seed):
        if self.batches == self.dies_at:
            raise KeyboardInterrupt
        self.batches += 1
        rng = random.Random(seed)
        asked = zip(beginnings, numbers, strict=True)
        texts = [[self.tail(rng, *beginning) for _ in range(number)] for beginning, number in asked]
        return Continuations(texts, [[True] * n for n in numbers], 10 * sum(numbers), len(numbers))

    def tail(self, rng, prompt, begun) -> str:
        lines = write_solution(read_problem(prompt), greater).splitlines()[:-1]
        written = begun.splitlines()
        whole = written + lines[len(written) :]
        answer = "no" if any(line.endswith(": no") for line in whole) else "yes"
        rest = "\n".join([*lines[len(written) :], f"Answer: {answer}"])
        return rest if rng.random() < 0.5 else "I give up"


@pytest.fixture
def careful(monkeypatch):
    def use(dies_at: int | None = None) -> Careful:
        policy = Careful(dies_at)
        monkeypatch.setattr(Continuer, "draw", lambda self, *args, **given: policy(self, *args, **given))
        return policy

    return use


def rows(config: LabelConfig) -> list[dict]:
    return [json.loads(line) for line in Path(config.out).read_text().splitlines()]


def test_a_solution_is_labelled_by_what_its_rollouts_reach(config, careful):
    """Sixteen rollouts miss a step from which half of them arrive once in 65,536 times.

    Of a sequence that increases each slip is the first step from which no answer is right any more.
    """
    careful()
    metrics = label(replace(config, rollouts=16))
    for solution in read_solutions(config.out):
        lines, without_slip = (
            text.splitlines() for text in (solution.completion, write_solution(read_problem(solution.prompt), greater))
        )
        slips = [step for step, line in enumerate(lines) if line != without_slip[step]]
        if solution.reference == "yes" and slips:
            assert solution.labels == [1] * slips[0] + [0] + [None] * (len(lines) - slips[0] - 1)
        elif not slips:
            assert solution.labels == [1] * len(lines)
        assert solution.steps == line_steps(solution.completion)
        assert solution.correct == same_answer(solution.answer, solution.reference)
    assert metrics["rollout_tokens"] == 10 * metrics["rollouts"]
    assert 0.2 < metrics["rollouts_right"] < 0.6


def test_the_record_has_seed_and_metrics(config, careful):
    careful()
    metrics = label(replace(config, seed=3))
    record = json.loads(Path(config.out + ".run.json").read_text())
    assert (record["seed"], record["metrics"], record["config"]["by"]) == (3, metrics, "monte_carlo")
    assert {"rows", "step_accuracy", "states", "rollouts", "prefix_tokens", "left_by_budget"} <= set(metrics)


@pytest.mark.parametrize("options", [{}, {"search": "binary"}, {"labels": "soft"}])
@pytest.mark.parametrize("dies_at", [0, 1, 5])
def test_a_killed_run_loses_the_batch_in_flight_alone(config, careful, tmp_path, options, dies_at):
    config = replace(config, **options)
    whole = careful()
    metrics = label(replace(config, out=str(tmp_path / "whole.jsonl")))
    careful(dies_at=dies_at)
    with pytest.raises(KeyboardInterrupt):
        label(config)
    partial = Path(config.out + ".partial")
    lines = partial.read_text().splitlines() if partial.exists() else []
    assert len(lines) == (1 + dies_at if dies_at else 0)  # a header and a line per batch; without any, no file
    assert not Path(config.out).exists()
    with partial.open("a") as file:
        file.write('{"states": [["')  # the batch in flight, cut off as it was written
    rest = careful()
    assert label(config) == metrics
    assert rest.batches == whole.batches - dies_at
    assert rows(config) == rows(replace(config, out=str(tmp_path / "whole.jsonl")))
    assert not partial.exists()


@pytest.mark.parametrize("change", [{"seed": 1}, {"rollouts": 3}, {"batch_size": 5}, {"search": "binary"}])
def test_rollouts_of_other_settings_are_neither_taken_over_nor_lost(config, careful, tmp_path, change):
    careful(dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        label(config)
    careful()
    partial = Path(config.out + ".partial")
    before = partial.read_bytes()
    with pytest.raises(UserError, match="holds 3 finished parts of a run with other data or settings"):
        label(replace(config, **change))
    assert partial.read_bytes() == before
    partial.unlink()
    label(replace(config, **change))
    label(replace(config, **change, out=str(tmp_path / "fresh.jsonl")))
    assert rows(config) == rows(replace(config, out=str(tmp_path / "fresh.jsonl")))


def test_a_run_goes_on_with_another_budget(config, careful, tmp_path):
    careful(dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        label(replace(config, token_budget=400))
    rest = careful()
    metrics = label(config)
    assert metrics["left_by_budget"] == 0
    careful()
    assert label(replace(config, out=str(tmp_path / "whole.jsonl"))) == metrics
    assert rest.batches > 0


def test_what_the_budget_leaves_open_is_written_without_labels(config, careful):
    careful()
    metrics = label(replace(config, token_budget=400, batch_size=1))
    left = [row for row in rows(config) if row["labels"] == [None] * len(row["steps"])]
    assert 0 < len(left) == metrics["left_by_budget"] < 20
    assert metrics["rollout_tokens"] == 400
    assert all(row["correct"] is not None for row in left)


def test_a_file_that_needs_no_rollouts_draws_none(config, careful):
    """By halves the steps of right answers are right; a text without steps has none to ask about."""
    policy = careful()
    right = Solution("p", PROMPT, "3: yes\n8 > 3: yes\nAnswer: yes", "yes")
    write_rows(config.data, [right.to_row(), replace(right, sample=1, completion="").to_row()])
    metrics = label(replace(config, search="binary"))
    assert [row["labels"] for row in rows(config)] == [[1, 1, 1], []]
    assert (policy.batches, metrics["rollouts"], metrics["rollouts_right"]) == (0, 0, None)


def test_step_labels_are_never_replaced(config, careful):
    policy = careful()
    mine = Solution("p", PROMPT, "3: no\nAnswer: yes", "yes", steps=[(0, 6), (6, 17)], labels=[0.25, None], neutral=[1])
    write_rows(config.data, [mine.to_row()])
    with pytest.raises(UserError, match="it has step labels already"):
        label(config)
    label(replace(config, labelled="keep"))
    (kept,) = read_solutions(config.out)
    assert (kept.labels, kept.neutral, kept.steps, kept.correct) == ([0.25, None], [1], mine.steps, True)
    assert policy.batches == 0


def test_messages_are_continued_and_graded_by_the_problem_they_state(config, monkeypatch):
    seen = []

    def draw(self, beginnings, numbers, seed):
        seen.extend(beginnings)
        return Continuations([["x"] * number for number in numbers], [[True] * number for number in numbers], 1, 1)

    monkeypatch.setattr(Continuer, "draw", draw)
    monkeypatch.setattr(Continuer, "check_room", lambda *_: None)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 7 + 3?"}]
    write_rows(config.data, [Solution("p", chat, "7 + 3 is 10.\n#### 10", "10").to_row()])
    label(replace(config, task="gsm8k", rollouts=1))
    assert seen == [(chat, "7 + 3 is 10.\n")]
    assert [row["labels"] for row in rows(config)] == [[0, None]]


# --- What a step is


@pytest.mark.parametrize(
    ("options", "steps", "of_checker"),
    [
        ({}, ["2 and <<2+2=4>>4.\n", "So <<4+1=6>>6.\n\n", "#### 5"], [1, 0, 1]),
        ({"boundary": "blank_line"}, ["2 and <<2+2=4>>4.\nSo <<4+1=6>>6.\n\n", "#### 5"], [0, 1]),
        (
            {"boundary": "tag", "boundary_tag": "4."},
            ["2 and <<2+2=4>>4.", "\nSo <<4+1=6>>6.\n\n#### 5"],
            [1, 0],
        ),
    ],
)
def test_the_boundary_says_what_a_step_is(config, careful, monkeypatch, options, steps, of_checker):
    text = "2 and <<2+2=4>>4.\nSo <<4+1=6>>6.\n\n#### 5"
    write_rows(config.data, [Solution("p", "Add.", text, "5").to_row()])

    def draw(self, beginnings, numbers, seed) -> Continuations:
        return Continuations([["#### 5"] * n for n in numbers], [[True] * n for n in numbers], 1, 1)

    monkeypatch.setattr(Continuer, "draw", draw)
    plain = LabelConfig(data=config.data, out=config.out, task="gsm8k", **options)
    label(plain)
    (by_checker,) = read_solutions(config.out)
    assert (by_checker.step_texts, by_checker.labels) == (steps, of_checker)
    label(replace(config, task="gsm8k", **options))
    (by_rollouts,) = read_solutions(config.out)
    assert (by_rollouts.step_texts, by_rollouts.labels) == (steps, [1] * len(steps))


# --- A real policy


def test_settings_reach_the_policy(config, monkeypatch):
    generate, seen = GenerationMixin.generate, []

    def watched(self, *args, **options):
        seen.append((self.generation_config, self.dtype))
        return generate(self, *args, **options)

    monkeypatch.setattr(GenerationMixin, "generate", watched)
    label(replace(config, temperature=0.5, top_p=0.75, top_k=5, max_new_tokens=3, dtype="bfloat16", rollouts=2))
    for settings, dtype in seen:
        assert (settings.temperature, settings.top_p, settings.top_k, settings.max_new_tokens) == (0.5, 0.75, 5, 3)
        assert dtype == torch.bfloat16


def test_the_seed_reaches_the_policy(config, monkeypatch):
    def texts(seed: int) -> list:
        drawn, draw = [], Continuer.draw
        with monkeypatch.context() as patch:
            patch.setattr(Continuer, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
            label(replace(config, seed=seed, rollouts=2))
        return [one.texts for one in drawn]

    assert texts(0) == texts(0) != texts(1)


def test_model_code_from_the_hub_is_run_only_if_asked(config, careful, monkeypatch):
    careful()
    asked, load = [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda path, **options: asked.append(options["trust_remote_code"]) or load(path, output_loading_info=True),
    )
    label(config)
    label(replace(config, trust_remote_code=True))
    assert asked == [False, True]


# --- Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": None}, "by 'monte_carlo' needs policy"),
        ({"rollouts": 0}, "rollouts is 0; it must be at least 1"),
        ({"token_budget": 0}, "token_budget is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": 0.0}, "temperature 0 gives one continuation 8 times over"),
        ({"temperature": 0.0, "rollouts": 1, "top_k": 3}, "temperature is 0.0, so top_k would do nothing"),
        ({"search": "binary", "labels": "soft"}, "search is 'binary', so labels would do nothing; set search to 'lin"),
        ({"search": "binary", "after_first_error": "label"}, "so after_first_error would do nothing"),
        ({"boundary_tag": "x"}, "boundary is .line., so boundary_tag would do nothing"),
        ({"by": "checker"}, "by is 'checker', so policy would do nothing; set by to 'monte_carlo'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, options, message):
    with pytest.raises(UserError, match=message):
        replace(config, **options)


def test_a_missing_policy_is_named(config, tmp_path):
    with pytest.raises(UserError, match="no-such-policy: no tokenizer can be loaded"):
        label(replace(config, policy=str(tmp_path / "no-such-policy")))
    assert not Path(config.out).exists()


def test_solutions_without_room_for_a_continuation_are_refused_before_any_is_drawn(config, careful):
    policy = careful()
    with pytest.raises(UserError, match=r"problem 'increasing-\S+', sample 0: \d+ tokens of prompt and completion and"):
        label(replace(config, max_new_tokens=pretrained.max_positions(tiny(config)) - 20))
    assert policy.batches == 0


def tiny(config: LabelConfig):
    return AutoModelForCausalLM.from_pretrained(config.policy).config


def test_a_solution_without_a_reference_is_refused(config, careful):
    policy = careful()
    write_rows(config.data, [Solution("p", PROMPT, "3: yes\nAnswer: yes", "").to_row()])
    with pytest.raises(UserError, match="row 1, field 'reference': is empty"):
        label(config)
    assert policy.batches == 0
