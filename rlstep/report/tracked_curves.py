"""Best-of-N at an experiment tracker: a chart and a table of all curves, and each over N; or a table by domain."""

from types import ModuleType

from rlstep.evaluation.domains import ALL
from rlstep.runtime.tracking import unharmed

PARTS = ("mean", "low", "high")


def log_best_of_n(tracker: ModuleType, curves: dict[str, dict], ns: list[int]) -> None:
    """Logs the curves to the run that is open.

    Args:
        tracker: the module wandb or trackio.
        curves: by name, {"mean", "low", "high"}, lists along `ns`.
        ns: numbers of samples.
    """
    wandb = tracker.__name__ == "wandb"
    with unharmed(f"{tracker.__name__}: the curves"):
        if wandb:
            tracker.define_metric("n")
            tracker.define_metric("best_of_n/*", step_metric="n")
        columns, rows = ["n"] + [f"{curve}_{part}" for curve in curves for part in PARTS], []
        for place, n in enumerate(ns):
            rows.append([n, *(curve[part][place] for curve in curves.values() for part in PARTS)])
            tracker.log({"n": n, **{f"best_of_n/{curve}": curves[curve]["mean"][place] for curve in curves}})
        tracker.log({"best_of_n": tracker.Table(columns=columns, data=rows)})
        if wandb:
            means = [curve["mean"] for curve in curves.values()]
            chart = tracker.plot.line_series(xs=ns, ys=means, keys=[*curves], title="Best of N", xname="N")
            tracker.log({"best_of_n_chart": chart})


def log_domains(tracker: ModuleType, figures: dict) -> None:
    """Logs the figures by domain as a table, one row per domain and curve.

    Args:
        tracker: the module wandb or trackio.
        figures: of `rlstep.evaluation.domains.domain_figures`.
    """
    rows = [
        [name, one["problems"], curve, *(accuracy[part] for part in PARTS)]
        for name, one in (figures["domains"] | {ALL: figures[ALL]}).items()
        for curve, accuracy in one["accuracy"].items()
    ]
    with unharmed(f"{tracker.__name__}: the domains"):
        tracker.log({"domains": tracker.Table(columns=["domain", "problems", "curve", *PARTS], data=rows)})
