"""The report's figures, one module each. matplotlib, which they need, takes half a second to import."""

from rlstep.report.figures.bad_prm_map import draw_bad_prm_map
from rlstep.report.figures.best_of_n import draw_best_of_n
from rlstep.report.figures.equal_tokens import draw_equal_tokens
from rlstep.report.figures.label_series import draw_series
from rlstep.report.figures.learning_curves import draw_contrast, draw_rl_curves
from rlstep.report.figures.opponents import draw_before_and_after, draw_opponents
from rlstep.report.figures.step_scores import draw_step_scores

__all__ = [
    "draw_bad_prm_map", "draw_before_and_after", "draw_best_of_n", "draw_contrast", "draw_equal_tokens",
    "draw_opponents", "draw_rl_curves", "draw_series", "draw_step_scores",
]  # fmt: skip
