import subprocess
import sys

import pytest

from rlstep.core.calibration import reliability
from rlstep.report.reliability import reliability_figure


def test_the_picture_shows_the_bins_and_their_counts():
    actual = reliability([0.1, 0.15, 0.9], [0, 1, 1], bins=5)
    figure = reliability_figure(actual, "A verifier")
    above, below = figure.axes
    points = next(line for line in above.lines if line.get_marker() == "o")
    assert points.get_xdata() == pytest.approx([0.125, 0.9])
    assert points.get_ydata() == pytest.approx([0.5, 1.0])
    assert [bar.get_height() for bar in below.patches] == [2, 0, 0, 0, 1]
    assert "error 0.2833, 3 steps" in above.get_title(loc="left")
    assert figure.get_suptitle() == "A verifier"


def test_the_picture_goes_to_a_file_and_to_wandb(tmp_path):
    figure = reliability_figure(reliability([0.1, 0.9], [0, 1]))
    figure.savefig(tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 10_000
    # In a fresh process: another test may have imported what wandb needs.
    script = (
        "import wandb\n"
        "from rlstep.core.calibration import reliability\n"
        "from rlstep.report.reliability import reliability_figure\n"
        "print(wandb.Image(reliability_figure(reliability([0.1, 0.9], [0, 1]))).image.size)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "(540, 600)\n", done.stderr
