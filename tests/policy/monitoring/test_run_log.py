"""The run's log: which rows survive a kill, what a page of completions shows, and what reaches wandb."""

import json
import math
import shutil
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from rlstep.policy.monitoring import run_log as runlog
from rlstep.policy.monitoring.run_log import CompletionTable, JsonLog, SamplesAxis, choose, rows_up_to, shade
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.runtime.errors import DataError
from rlstep.steps.boundaries import line_steps


def lines(tmp_path):
    text = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8")
    return [
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in text.splitlines()
    ]


def at(step: int, main: bool = True):
    return SimpleNamespace(global_step=step, is_world_process_zero=main)


# --- metrics.jsonl.


def test_a_line_has_all_that_is_logged(arguments, tmp_path):
    args = arguments()
    log = JsonLog()
    log.on_train_begin(args, at(0), None)
    log.on_log(args, at(2), None, logs={"loss": 0.5, "kl": math.nan, "grad_norm": np.float32(math.inf), "none": None})
    log.on_log(args, at(3), None, logs={"loss": torch.tensor(0.25), "samples": 8, "note": "text"})
    # Batches of 4 samples, two optimizer steps on each.
    assert lines(tmp_path) == [
        {"step": 2, "update": 1, "samples": 4, "loss": 0.5, "kl": None, "grad_norm": None, "none": None},
        {"step": 3, "update": 2, "samples": 8, "loss": 0.25, "note": "text"},
    ]


def test_the_main_process_alone_writes(arguments, tmp_path):
    log = JsonLog()
    log.on_train_begin(arguments(), at(0, main=False), None)
    log.on_log(arguments(), at(1, main=False), None, logs={"loss": 0.5})
    assert not (tmp_path / "out").exists()


def test_a_new_run_empties_the_file_and_a_continued_one_cuts_it_back(arguments, tmp_path):
    args = arguments()
    log = JsonLog()
    log.on_train_begin(args, at(0), None)
    for step in range(6):
        log.on_log(args, at(step), None, logs={"loss": float(step)})
    path = tmp_path / "out" / "metrics.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "loss": "half\u00e9')

    log = JsonLog()
    log.on_train_begin(args, at(4), None)
    assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2, 3, 4]
    log.on_log(args, at(5), None, logs={"loss": 50.0})
    assert [row["loss"] for row in lines(tmp_path)] == [0, 1, 2, 3, 4, 50]

    JsonLog().on_train_begin(args, at(0), None)
    assert lines(tmp_path) == []


def test_a_line_cut_inside_a_character_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes('{"step": 1}\n{"step": 2, "é'.encode()[:-1])
    assert rows_up_to(path, 9) == [{"step": 1}]
    path.write_bytes(b"")
    assert rows_up_to(path, 9) == []


@pytest.mark.parametrize("line", ["nonsense", '{"loss": 1}', "[1]", ""])
def test_another_damaged_line_is_reported(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n', encoding="utf-8")
    with pytest.raises(DataError, match="row 2, field 'step'"):
        rows_up_to(path, 9)


class Killed(Exception):
    pass


class _KillAt(TrainerCallback):
    """Kills the run after a step was logged."""

    def __init__(self, step: int):
        self.step = step

    def on_log(self, args, state, control, logs=None, **_):
        if state.global_step == self.step:
            raise Killed


class _Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return {"loss": (self.weight * x).square().mean()}


@pytest.mark.parametrize("killed", [3, 4, 5, 8])
def test_a_killed_run_loses_and_repeats_no_line(arguments, tmp_path, killed):
    """In the Trainer's own loop: logs at every step, evaluations and checkpoints at every second, an end that logs."""

    def train(step: int | None, resume: bool):
        args = arguments(
            max_steps=8, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2, report_to="none"
        )
        data = [{"x": torch.tensor([float(number)])} for number in range(64)]
        callbacks = [JsonLog(), *([_KillAt(step)] if step else [])]
        trainer = Trainer(_Linear(), args, train_dataset=data, eval_dataset=data[:4], callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume or None)

    train(None, resume=False)
    expected = [(row["step"], sorted(row)) for row in lines(tmp_path)]
    steps = [step for step, _ in expected]
    assert steps == [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 8]

    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(Killed):
        train(killed, resume=False)
    train(None, resume=True)
    assert [(row["step"], sorted(row)) for row in lines(tmp_path)] == expected


def test_what_is_logged_again_at_the_checkpoints_step_is_not_repeated(arguments, tmp_path):
    args = arguments()
    log = JsonLog()
    log.on_train_begin(args, at(0), None)
    log.on_log(args, at(2), None, logs={"loss": 1.0})
    log.on_log(args, at(2), None, logs={"eval_accuracy": 0.5, "eval_runtime": 1.0})

    log = JsonLog()
    log.on_train_begin(args, at(2), None)
    log.on_log(args, at(2), None, logs={"eval_accuracy": 0.5, "eval_runtime": 2.0})
    log.on_log(args, at(2), None, logs={"train_runtime": 3.0})
    assert [row.get("eval_runtime") for row in lines(tmp_path)] == [None, 1.0, None]
    assert lines(tmp_path)[-1]["train_runtime"] == 3.0


# --- Pages of completions.

EVIL = '<script>alert("1")</script>&amp;"\' onmouseover="x\n</div></style>{braces} %s \u202egnp.exe \x00\x1b[31m \ud800'


class _Page(HTMLParser):
    """The elements of a page: (tag, attributes, text)."""

    void = ("meta", "input", "link", "br")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.found, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        self.found.append(element)
        if tag not in self.void:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def of_class(self, name):
        return [element for element in self.found if element[1].get("class") == name]


def judged(text, **more) -> ScoredCompletion:
    plain = {"steps": line_steps(text), "step_rewards": [], "outcome": 0.0, "correct": False, "clean": False}
    return ScoredCompletion(**(plain | more))


@pytest.fixture
def table(arguments):
    return CompletionTable(arguments(report_to="none"), every=10)


def read(tmp_path, update=1) -> str:
    return (tmp_path / "out" / "completions" / f"{update:05d}.html").read_text(encoding="utf-8")


def test_a_page_shows_each_step_with_its_score_label_and_reward(table, tmp_path):
    text = "1 + 1 = 2\n1 + 1 = 2\nA 2\nrest"
    row = judged(
        text,
        step_rewards=[0.5, 0.0, -0.25],
        outcome=2.0,
        correct=True,
        step_scores=[0.9, 0.5, 0.2],
        labels=[1, 0, None],
        guards=[None, "repeats", None, None],
    )
    table.observe(1, ["What is 1 + 1?"], [text], [row], [False])
    page = _Page(read(tmp_path))
    steps = page.of_class("step")
    assert [attributes["title"] for _, attributes, _ in steps] == [
        "step 1, label right, score 0.9000, reward +0.5000",
        "step 2, label wrong, score 0.5000, reward +0.0000, withheld: repeats",
        "step 3, label unknown, score 0.2000, reward -0.2500",
        "step 4, label unknown, no score, not judged",
    ]
    assert "p 0.90" in steps[0][2]
    assert "✓" in steps[0][2]
    assert "r +0.50" in steps[0][2]
    assert "1 + 1 = 2" in steps[0][2]
    assert "repeats" in steps[1][2]
    # From white to the colour of 1, white, from white to the colour of 0; white without a score.
    ob = [attributes["style"].split("--ob:")[1][:7] for _, attributes, _ in steps]
    assert ob == [shade(0.9, "#D55E00", "#0072B2"), "#FFFFFF", shade(0.2, "#D55E00", "#0072B2"), "#FFFFFF"]
    flags = [text for _, _, text in page.of_class("flag")]
    # 0.9 x 0.5 x 0.2
    assert flags == ["answer right", "cut off", "process +0.25", "outcome +2.00", "PRM 0.09"]
    assert [text for _, _, text in page.of_class("prompt")] == ["What is 1 + 1?"]
    assert "4 samples" in next(text for tag, _, text in page.found if tag == "h1")


def test_without_a_prm_the_exact_labels_give_the_colours(table, tmp_path):
    table.observe(1, ["?"], ["a\nb\nc"], [judged("a\nb\nc", labels=[1, 0, None])])
    page = _Page(read(tmp_path))
    colours = [attributes["style"] for _, attributes, _ in page.of_class("step")]
    assert colours == [
        f"--ob:{shade(score, *runlog.PALETTES['ob'])};--rg:{shade(score, *runlog.PALETTES['rg'])};"
        for score in (1, 0, None)
    ]
    assert not [text for _, _, text in page.of_class("flag") if text.startswith("PRM")]


def test_what_stands_outside_of_steps_is_shown(table, tmp_path):
    text = "before\nstep\nafter"
    table.observe(1, ["?"], [text], [judged(text, steps=[(7, 11)])])
    assert [text.strip() for _, _, text in _Page(read(tmp_path)).of_class("between")] == ["before", "after"]


def test_everything_that_was_written_by_others_is_escaped(table, tmp_path):
    plain = judged("a\nb")
    evil = judged(EVIL, guards=[EVIL] * len(line_steps(EVIL)))
    table.observe(1, ["?"], ["a\nb"], [plain])
    expected = [(tag, sorted(attributes)) for tag, attributes, _ in _Page(read(tmp_path)).found]
    table.observe(11, [EVIL], [EVIL], [evil])
    text = read(tmp_path, 11)
    page = _Page(text)
    # Exactly the elements and attributes of a harmless page with as many steps.
    assert [(tag, sorted(attributes)) for tag, attributes, _ in page.found] == expected
    assert "<script" not in text
    # What could not be seen, or would turn the text around, is.
    (prompt,) = (text for _, _, text in page.of_class("prompt"))
    for shown in (
        "<script>alert",
        "&amp;",
        "\u27e8U+202E\u27e9gnp.exe",
        "\u27e8U+0000\u27e9\u27e8U+001B\u27e9[31m",
        "\\ud800",
    ):
        assert shown in prompt
    assert "\u202e" not in text


def test_a_page_stands_alone(table, tmp_path):
    table.observe(1, ["?"], ["a"], [judged("a")])
    text = read(tmp_path)
    page = _Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not [tag for tag, _, _ in page.found if tag in ("script", "link", "img", "iframe")]
    assert not [name for _, attributes, _ in page.found for name in attributes if name in ("src", "href")]
    assert "url(" not in text
    (policy,) = (a["content"] for tag, a, _ in page.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_pages_are_written_from_the_first_update_on(arguments, tmp_path):
    def pages(every):
        table = CompletionTable(arguments(output_dir=str(tmp_path / f"every_{every}")), every)
        for update in range(1, 13):
            table.observe(update, ["?"], ["a"], [judged("a")])
        return sorted(path.name for path in tmp_path.glob(f"every_{every}/completions/*"))

    assert pages(5) == ["00001.html", "00006.html", "00011.html"]
    assert pages(0) == []


def test_other_processes_write_no_page(arguments, tmp_path):
    args = arguments()
    other = SimpleNamespace(output_dir=args.output_dir, process_index=1, report_to=[], generation_batch_size=4)
    CompletionTable(other, 1).observe(1, ["?"], ["a"], [judged("a")])
    assert not (tmp_path / "out").exists()


def test_completions_are_chosen_evenly_and_where_steps_are_paid_without_being_right():
    rows = [judged("a", step_rewards=[float(row)], correct=row == 48) for row in range(51)]
    chosen = choose(rows)
    assert chosen[runlog.EVENLY] == [0, 10, 20, 30, 40, 50]
    # The highest of the wrong ones that are not shown already.
    assert chosen[runlog.TELLINGLY] == [49, 47, 46]
    assert choose(rows[:2]) == {runlog.EVENLY: [0, 1], runlog.TELLINGLY: []}
    assert choose(rows[:1]) == {runlog.EVENLY: [0], runlog.TELLINGLY: []}


def test_colours():
    # Three fifths of the way from white to the end: 255 - 0.6 (255 - c).
    assert shade(1, "#000000", "#0A6414") == "#6CA272"
    assert shade(0, "#0A6414", "#000000") == "#6CA272"
    assert shade(0.75, "#000000", "#0A6414") == "#B6D0B8"
    assert shade(0.5, "#000000", "#000000") == shade(None, "#000000", "#000000") == "#FFFFFF"


@pytest.mark.parametrize("palette", runlog.PALETTES)
def test_text_can_be_read_on_every_colour(palette):
    """Contrast of the text's #222222 by WCAG 2's formula; 4.5 is its level AA."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for score in np.linspace(0, 1, 21):
        contrast = (luminance(shade(score, *runlog.PALETTES[palette])) + 0.05) / (luminance("#222222") + 0.05)
        assert contrast >= 4.5


# --- wandb, offline.


def test_wandb_draws_against_samples_and_gets_the_completions(arguments, wandb_folder, monkeypatch):
    import wandb
    from wandb.sdk.wandb_run import Run

    defined, logged, define = [], [], Run._define_metric

    def spy(run, name, step=None, *rest):
        defined.append((name, step))
        return define(run, name, step, *rest)

    monkeypatch.setattr(Run, "_define_metric", spy)
    args = arguments(report_to="wandb", max_steps=2, run_name="log")

    class Observe(TrainerCallback):
        def on_train_begin(self, *_, **__):
            log = wandb.log  # there since the run has started
            monkeypatch.setattr(wandb, "log", lambda row: (logged.append(dict(row)), log(row)))
            CompletionTable(args, 1).observe(1, ["?"], [EVIL], [judged(EVIL, step_rewards=[0.5], outcome=1.0)])

    data = [{"x": torch.tensor([float(number)])} for number in range(16)]
    Trainer(_Linear(), args, train_dataset=data, callbacks=[SamplesAxis(), Observe()]).train()
    wandb.finish()

    # The last definition for all metrics stands; the Trainer's own, against optimizer steps, comes before.
    assert [step for name, step in defined if name == "*"] == ["train/global_step", "train/samples"]
    assert ("train/samples", None) in defined
    (found,) = (entry for entry in logged if "completions/steps" in entry)
    assert found["train/samples"] == 4
    ((update, chosen, cell, process, outcome, right),) = found["completions/steps"].data
    assert (update, chosen, process, outcome, right) == (1, runlog.EVENLY, 0.5, 1.0, False)
    assert "<script" not in cell.html
    assert "href" not in cell.html  # wandb would put its style sheet there
    assert len(_Page(cell.html).of_class("step")) == len(line_steps(EVIL))
    assert list(wandb_folder.glob("offline-run-*/files/media/table/completions/*.json"))


def test_wandb_is_left_alone_unless_it_is_asked_for(arguments, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it would raise
    args = arguments(report_to="none")
    SamplesAxis().on_train_begin(args, at(0), None)
    CompletionTable(args, 1).observe(1, ["?"], ["a"], [judged("a")])
    assert (tmp_path / "out" / "completions" / "00001.html").is_file()
