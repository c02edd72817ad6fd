"""How rlstep's figures look. The colours are Okabe and Ito's, which colour-blind readers can tell apart."""

BLUE, VERMILION, GREY, BLACK, PALE = "#0072B2", "#D55E00", "#767676", "#222222", "#E9E9E9"
GREEN, PINK, ORANGE, SKY = "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": BLACK,
    "axes.labelcolor": BLACK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
}
