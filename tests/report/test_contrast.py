import json

import numpy as np
import pytest
from matplotlib.image import imread

from rlstep.report.arms import CONTRAST
from rlstep.report.contrast import report_contrast
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows

# clean accuracy by arm and seed, after 0, 100, 200 and 300 samples
CLEAN = {
    "outcome": [[0.1, 0.2, 0.3, 0.5], [0.1, 0.1, 0.2, 0.4]],
    "process_sum": [[0.1, 0.6, 0.2, 0.0], [0.1, 0.6, 0.1, 0.0]],
    "process_clip_delta": [[0.1, 0.1, 0.1, 0.1]] * 2,
    "process_min_form": [[0.1, 0.4, 0.5, 0.7], [0.1, 0.5, 0.6, 0.7]],
    "process": [[0.1, 0.5, 0.6, 0.8], [0.1, 0.5, 0.7, 0.9]],
    "first_error": [[0.1, 0.3, 0.4, 0.6], [0.1, 0.3, 0.5, 0.6]],
    "centred": [[0.1, 0.2, 0.4, 0.6], [0.1, 0.3, 0.4, 0.5]],
    "filtered": [[0.1, 0.2, 0.3, 0.5], [0.1, 0.2, 0.3, 0.4]],
}


def make_runs(folder, alarms: dict[str, int] | None = None):
    """Two seeds; the answer is right 0.1 more often than all steps. `alarms`: arm -> update, in the first seed."""
    runs = []
    for seed in range(2):
        runs.append(folder / f"seed-{seed}")
        for arm in [arm.name for arm in CONTRAST]:
            rows = [
                {"samples": 100 * k, "update": k, "accuracy": value + 0.1, "clean_accuracy": value}
                for k, value in enumerate(CLEAN[arm][seed])
            ]
            write_rows(runs[-1] / f"ppo_{arm}" / "eval.jsonl", rows)
            raised = (alarms or {}).get(arm) if seed == 0 else None
            log = [{"step": 2 * k, "update": k, "alarm": float(raised is not None and k >= raised)} for k in (1, 2, 3)]
            # Evaluations have lines of their own, without an alarm.
            write_rows(runs[-1] / f"ppo_{arm}" / "metrics.jsonl", [{"step": 0, "update": 0}, *log])
    return runs


def test_samples_accuracies_and_alarms_of_each_arm(tmp_path):
    runs = make_runs(tmp_path, {"process_sum": 2})
    summary = report_contrast(runs, tmp_path / "report", level=0.5)
    assert json.loads((tmp_path / "report" / "summary.json").read_text()) == summary
    arms = summary["arms"]
    assert arms["process"]["reached"] == [100, 100]
    assert arms["process_min_form"]["reached"] == [200, 100]
    assert arms["process_min_form"]["reached_mean"]["mean"] == 150
    assert arms["outcome"]["reached"] == [300, None]
    assert arms["outcome"]["reached_mean"] is None
    assert arms["process"]["clean_accuracy"]["mean"] == pytest.approx([0.1, 0.5, 0.65, 0.85])
    # 0.8 and 0.9: half the 95% t-interval of two values is 12.706 * 0.0707 / sqrt(2)
    assert arms["process"]["clean_accuracy"]["low"][-1] == pytest.approx(0.85 - 0.6353, abs=1e-3)
    # the worst evaluation after the start, in each seed 0.1
    assert arms["process_sum"]["lowest_accuracy"]["mean"] == pytest.approx(0.1)
    assert arms["process_sum"]["alarms"] == [2, None]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| outcome only | 300, never | 0.55" in text
    assert "1 of 2 (update 2)" in text
    assert text.count("0 of 2") == 7
    pixels = imread(tmp_path / "report" / "contrast.png")
    assert len(np.unique((pixels[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)) > 50


def test_another_level_counts_other_samples(tmp_path):
    summary = report_contrast(make_runs(tmp_path), tmp_path / "report", level=0.7)
    assert summary["arms"]["process"]["reached"] == [300, 200]
    assert "samples to 70% clean" in (tmp_path / "report" / "report.md").read_text()


def test_seeds_evaluated_elsewhere_are_refused(tmp_path):
    runs = make_runs(tmp_path)
    path = runs[1] / "ppo_process" / "eval.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match="not evaluated at the same samples"):
        report_contrast(runs, tmp_path / "report", level=0.5)


def test_an_arm_that_is_missing_is_named(tmp_path):
    runs = make_runs(tmp_path)
    (runs[0] / "ppo_process" / "eval.jsonl").unlink()
    with pytest.raises(UserError, match=r"ppo_process/eval.jsonl: no such file"):
        report_contrast(runs, tmp_path / "report", level=0.5)
