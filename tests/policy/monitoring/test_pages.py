"""What a page of completions shows, and what of a run reaches wandb."""

import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from rlstep.policy.monitoring.completions import EVENLY
from rlstep.policy.monitoring.pages import PALETTES, CompletionTable, shade
from rlstep.policy.monitoring.run_log import SamplesAxis
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.steps.boundaries import line_steps

EVIL = '<script>alert("1")</script>&amp;"\' onmouseover="x\n</div></style>{braces} %s \u202egnp.exe \x00\x1b[31m \ud800'


class _Page(HTMLParser):
    """The elements of a page: (tag, attributes, text)."""

    void = ("meta", "input", "link", "br")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.actual, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        self.actual.append(element)
        if tag not in self.void:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def of_class(self, name):
        return [element for element in self.actual if element[1].get("class") == name]


def scored(text, **more) -> ScoredCompletion:
    plain = {"steps": line_steps(text), "step_rewards": [], "outcome": 0.0, "correct": False, "clean": False}
    return ScoredCompletion(**(plain | more))


@pytest.fixture
def table(arguments):
    return CompletionTable(arguments(report_to="none"), every=10)


def read(tmp_path, update=1) -> str:
    return (tmp_path / "out" / "completions" / f"{update:05d}.html").read_text(encoding="utf-8")


def test_a_page_shows_each_step_with_its_score_label_and_reward(table, tmp_path):
    text = "1 + 1 = 2\n1 + 1 = 2\nA 2\nrest"
    row = scored(
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
        "step 4, label unknown, no score, no reward",
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
    assert flags == ["answer right", "truncated", "process +0.25", "outcome +2.00", "PRM 0.09"]
    assert [text for _, _, text in page.of_class("prompt")] == ["What is 1 + 1?"]
    assert "4 samples" in next(text for tag, _, text in page.actual if tag == "h1")


def test_without_a_prm_the_exact_labels_give_the_colours(table, tmp_path):
    table.observe(1, ["?"], ["a\nb\nc"], [scored("a\nb\nc", labels=[1, 0, None])])
    page = _Page(read(tmp_path))
    colours = [attributes["style"] for _, attributes, _ in page.of_class("step")]
    assert colours == [
        f"--ob:{shade(score, *PALETTES['ob'])};--rg:{shade(score, *PALETTES['rg'])};" for score in (1, 0, None)
    ]
    assert not [text for _, _, text in page.of_class("flag") if text.startswith("PRM")]


def test_a_completion_that_was_cut_for_the_prm_has_no_score_of_its_own(table, tmp_path):
    table.observe(1, ["?"], ["a\nb"], [scored("a\nb", step_scores=[0.5], step_rewards=[0.0], cut_by=["prm"])])
    flags = [text for _, _, text in _Page(read(tmp_path)).of_class("flag")]
    assert "cut for the prm" in flags
    assert not [text for text in flags if text.startswith("PRM")]


def test_what_stands_outside_of_steps_is_shown(table, tmp_path):
    text = "before\nstep\nafter"
    table.observe(1, ["?"], [text], [scored(text, steps=[(7, 11)])])
    assert [text.strip() for _, _, text in _Page(read(tmp_path)).of_class("between")] == ["before", "after"]


def test_everything_that_was_written_by_others_is_escaped(table, tmp_path):
    plain = scored("a\nb")
    evil = scored(EVIL, guards=[EVIL] * len(line_steps(EVIL)))
    table.observe(1, ["?"], ["a\nb"], [plain])
    expected = [(tag, sorted(attributes)) for tag, attributes, _ in _Page(read(tmp_path)).actual]
    table.observe(11, [EVIL], [EVIL], [evil])
    text = read(tmp_path, 11)
    page = _Page(text)
    # Exactly the elements and attributes of a harmless page with as many steps.
    assert [(tag, sorted(attributes)) for tag, attributes, _ in page.actual] == expected
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
    table.observe(1, ["?"], ["a"], [scored("a")])
    text = read(tmp_path)
    page = _Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not [tag for tag, _, _ in page.actual if tag in ("script", "link", "img", "iframe")]
    assert not [name for _, attributes, _ in page.actual for name in attributes if name in ("src", "href")]
    assert "url(" not in text
    (policy,) = (a["content"] for tag, a, _ in page.actual if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_pages_are_written_from_the_first_update_on(arguments, tmp_path):
    def pages(every):
        table = CompletionTable(arguments(output_dir=str(tmp_path / f"every_{every}")), every)
        for update in range(1, 13):
            table.observe(update, ["?"], ["a"], [scored("a")])
        return sorted(path.name for path in tmp_path.glob(f"every_{every}/completions/*"))

    assert pages(5) == ["00001.html", "00006.html", "00011.html"]
    assert pages(0) == []


def test_other_processes_write_no_page(arguments, tmp_path):
    args = arguments()
    other = SimpleNamespace(output_dir=args.output_dir, process_index=1, report_to=[], generation_batch_size=4)
    CompletionTable(other, 1).observe(1, ["?"], ["a"], [scored("a")])
    assert not (tmp_path / "out").exists()


def test_colours():
    # Three fifths of the way from white to the end: 255 - 0.6 (255 - c).
    assert shade(1, "#000000", "#0A6414") == "#6CA272"
    assert shade(0, "#0A6414", "#000000") == "#6CA272"
    assert shade(0.75, "#000000", "#0A6414") == "#B6D0B8"
    assert shade(0.5, "#000000", "#000000") == shade(None, "#000000", "#000000") == "#FFFFFF"


@pytest.mark.parametrize("palette", PALETTES)
def test_text_can_be_read_on_every_colour(palette):
    """Contrast of the text's #222222 by WCAG 2's formula; 4.5 is its level AA."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for score in np.linspace(0, 1, 21):
        contrast = (luminance(shade(score, *PALETTES[palette])) + 0.05) / (luminance("#222222") + 0.05)
        assert contrast >= 4.5


# --- wandb, offline.


class _Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return {"loss": (self.weight * x).square().mean()}


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
            CompletionTable(args, 1).observe(1, ["?"], [EVIL], [scored(EVIL, step_rewards=[0.5], outcome=1.0)])

    data = [{"x": torch.tensor([float(number)])} for number in range(16)]
    Trainer(_Linear(), args, train_dataset=data, callbacks=[SamplesAxis(), Observe()]).train()
    wandb.finish()

    # The last definition for all metrics stands; the Trainer's own, against optimizer steps, comes before.
    assert [step for name, step in defined if name == "*"] == ["train/global_step", "train/samples"]
    assert ("train/samples", None) in defined
    (actual,) = (entry for entry in logged if "completions/steps" in entry)
    assert actual["train/samples"] == 4
    ((update, chosen, cell, process, outcome, right),) = actual["completions/steps"].data
    assert (update, chosen, process, outcome, right) == (1, EVENLY, 0.5, 1.0, False)
    assert "<script" not in cell.html
    assert "href" not in cell.html  # wandb would put its style sheet there
    assert len(_Page(cell.html).of_class("step")) == len(line_steps(EVIL))
    assert list(wandb_folder.glob("offline-run-*/files/media/table/completions/*.json"))


def test_wandb_is_left_alone_unless_it_is_asked_for(arguments, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it would raise
    args = arguments(report_to="none")
    SamplesAxis().on_train_begin(args, SimpleNamespace(global_step=0, is_world_process_zero=True), None)
    CompletionTable(args, 1).observe(1, ["?"], ["a"], [scored("a")])
    assert (tmp_path / "out" / "completions" / "00001.html").is_file()
