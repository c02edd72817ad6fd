import json

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text

from rlstep.report.bad_prm import report_bad_prm
from rlstep.report.bad_prm_plan import OUTCOME, WAYS, Level, Plan
from rlstep.report.figures import bad_prm_map
from rlstep.report.policies import is_lost
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json, write_rows

BAD, GOOD = Level(200, 0.2), Level(5000, 0.0)
SUM, FIRST_ERROR = (next(way for way in WAYS if way.name == name) for name in ("sum", "first_error"))
PLAN = Plan([GOOD, BAD], [SUM, FIRST_ERROR], 0.5)
# clean accuracy by folder and seed, after 0, 100, 200 and 300 samples
CLEAN = {
    OUTCOME.folder(None): [[0.1, 0.2, 0.3, 0.5], [0.1, 0.2, 0.3, 0.4]],
    SUM.folder(BAD): [[0.1, 0.1, 0.0, 0.0], [0.1, 0.6, 0.2, 0.05]],
    SUM.folder(GOOD): [[0.1, 0.5, 0.6, 0.7], [0.1, 0.4, 0.5, 0.7]],
    FIRST_ERROR.folder(BAD): [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.5, 0.6]],
    FIRST_ERROR.folder(GOOD): [[0.1, 0.4, 0.6, 0.7], [0.1, 0.4, 0.6, 0.7]],
}
JUDGED = {BAD.folder: [(0.55, 0.8), (0.65, 0.8)], GOOD.folder: [(0.98, 0.99), (0.98, 0.99)]}


@pytest.fixture
def runs(tmp_path):
    """Two seeds."""
    made = [tmp_path / f"seed-{seed}" for seed in range(2)]
    for seed, run in enumerate(made):
        for folder, of_seeds in CLEAN.items():
            rows = [
                {"samples": 100 * k, "update": k, "accuracy": clean, "clean_accuracy": clean}
                for k, clean in enumerate(of_seeds[seed])
            ]
            write_rows(run / folder / "eval.jsonl", rows)
        for folder, of_seeds in JUDGED.items():
            balanced, plain = of_seeds[seed]
            steps = {"balanced_accuracy": balanced, "accuracy": plain, "first_error_exact": 0.5}
            (run / folder / "evaluate").mkdir()
            write_json(run / folder / "evaluate" / "best_of_n.json", {"prm_steps": steps})
    return made


def test_the_map_by_hand(runs, tmp_path):
    summary = report_bad_prm(runs, PLAN, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "summary.json").read_text()) == summary
    assert (summary["seeds"], summary["samples"], summary["target"]) == (["seed-0", "seed-1"], 300, 0.5)
    assert summary["prms"][BAD.name]["balanced_accuracy"]["mean"] == pytest.approx(0.6)
    # one seed never gets there, and counts with the whole run's samples
    outcome = summary["outcome"]
    assert outcome["reached"] == [300, None]
    assert (outcome["samples"]["mean"], outcome["samples"]["bound"]) == (300, True)
    bad, good = (summary["ways"]["sum"][level.name] for level in (BAD, GOOD))
    assert (good["reached"], good["samples"]["mean"], good["samples"]["bound"]) == ([100, 200], 150, False)
    # 100 and 200: half the 95% t-interval is 12.706 * 70.71 / sqrt(2)
    assert good["samples"]["low"] == pytest.approx(150 - 635.3, abs=0.1)
    # never above its start; above it, but below it in the end
    assert (bad["lost"]["mean"], good["lost"]["mean"]) == (1.0, 0.0)
    # Wilson's interval of 2 of 2: 1 / (1 + 1.96^2 / 2) to 1
    assert bad["lost"]["low"] == pytest.approx(1 / (1 + 1.959964**2 / 2))
    assert (bad["lost"]["high"], good["lost"]["low"]) == (1.0, 0.0)
    assert summary["ways"]["first_error"][BAD.name]["reached"] == [None, 200]
    # minus outcome-only, seed by seed: (0, 0, -0.1) and (0, 0.2, 0.2); their means -1/30 and 4/30
    lead = summary["ways"]["first_error"][BAD.name]["minus_outcome"]
    assert (lead["mean"]["mean"], lead["last"]["mean"]) == (pytest.approx(0.05), pytest.approx(0.05))
    # half of each interval is 12.706 standard errors, which of two numbers is half their distance
    assert lead["mean"]["high"] == pytest.approx(0.05 + 12.706 / 12, abs=1e-3)
    assert lead["last"]["low"] == pytest.approx(0.05 - 12.706 * 0.15, abs=1e-3)


def test_the_page_shows_each_cell_and_what_each_prm_is_worth(runs, tmp_path):
    report_bad_prm(runs, PLAN, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| way | 5,000 labels, 0% flipped | 200 labels, 20% flipped |" in text
    assert "0.60 [-0.04, 1.24] (0.80)" in text
    assert "| outcome only | >= 300 [300, 300]; 0.00 [0.00, 0.66] | >= 300" in text
    assert "| first error + outcome | 200 [200, 200]; 0.00" in text
    # the good PRM: 0.7 / 3 and 0.8 / 3; 0.2 and 0.3
    assert (
        "| first error + outcome | 0.25 [0.04, 0.46]; 0.25 [-0.39, 0.89] | 0.05 [-1.01, 1.11]; 0.05 [-1.86, 1.96] |"
        in text
    )
    assert "![Samples and lost runs, by way and PRM](map.png)" in text
    pixels = imread(tmp_path / "report" / "map.png")
    assert pixels.std() > 0.05


@pytest.mark.parametrize("levels", [[BAD], [GOOD, BAD]])
def test_texts_of_the_map_lie_in_the_figure_and_labels_beside_one_another(runs, tmp_path, monkeypatch, levels):
    drawn = []
    monkeypatch.setattr(bad_prm_map, "save", lambda figure, path: drawn.append(figure))
    report_bad_prm(runs, Plan(levels, [SUM], 0.5), tmp_path / "report")
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = {text: text.get_window_extent() for text in texts}
    outside = [text.get_text() for text, box in boxes.items() if box.x0 < 0 or box.x1 > figure.bbox.x1]
    assert outside == []
    below = [box for text, box in boxes.items() if text in [axes.xaxis.label for axes in figure.axes]]
    assert not any(one.overlaps(other) for one in below for other in below if one is not other)


@pytest.mark.parametrize(
    ("clean", "lost"),
    [
        ([0.3, 0.4, 0.5], False),
        ([0.3, 0.2, 0.3], True),
        ([0.3, 0.5, 0.2], True),
        ([0.3, 0.1, 0.4], False),
        ([0.3, 0.5, 0.3], False),
    ],
)
def test_a_run_is_lost_that_never_rises_or_ends_below_its_start(clean, lost):
    assert is_lost(clean) == lost


def test_policies_evaluated_elsewhere_are_refused(runs, tmp_path):
    write_rows(
        runs[1] / SUM.folder(BAD) / "eval.jsonl",
        [{"samples": 0, "update": 0, "accuracy": 0.1, "clean_accuracy": 0.1}],
    )
    with pytest.raises(UserError, match="prm_200_0.2/ppo_sum was evaluated at other samples than"):
        report_bad_prm(runs, PLAN, tmp_path / "report")


def test_a_prm_that_was_not_measured_is_named(runs, tmp_path):
    measured = runs[0] / BAD.folder / "evaluate" / "best_of_n.json"
    write_json(measured, {"prm_steps": {"accuracy": 0.8}})
    with pytest.raises(UserError, match="has no balanced_accuracy: the test solutions need right steps and wrong ones"):
        report_bad_prm(runs, PLAN, tmp_path / "report")
    measured.unlink()
    with pytest.raises(UserError, match="is missing: the PRM was not measured"):
        report_bad_prm(runs, PLAN, tmp_path / "report")
