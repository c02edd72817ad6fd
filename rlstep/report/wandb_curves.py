"""Best-of-N curves on wandb: one table of all curves, and each curve over N, which wandb draws as a line by itself."""

import os


def log_best_of_n(curves: dict[str, dict], ns: list[int], name: str | None, config: dict) -> None:
    """Starts a separate run, logs the curves and ends it.

    Args:
        curves: by name, {"mean", "low", "high"}, lists along `ns`.
        ns: numbers of samples.
        name: the run's name; if None, wandb chooses one.
        config: what wandb shows as the run's settings.
    """
    import wandb

    parts = ("mean", "low", "high")
    # As with transformers' own wandb callback, the environment chooses the project.
    project = os.environ.get("WANDB_PROJECT", "rlstep")
    with wandb.init(project=project, name=name, job_type="evaluate", config=config) as run:
        run.define_metric("n")
        run.define_metric("best_of_n/*", step_metric="n")
        table = wandb.Table(columns=["n"] + [f"{curve}_{part}" for curve in curves for part in parts])
        for place, n in enumerate(ns):
            table.add_data(n, *(curve[part][place] for curve in curves.values() for part in parts))
            run.log({"n": n, **{f"best_of_n/{curve}": curves[curve]["mean"][place] for curve in curves}})
        run.log({"best_of_n": table})
