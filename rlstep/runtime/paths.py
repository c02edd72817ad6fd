"""Where the recipes and DeepSpeed configurations are: in the checkout, else in the installed package."""

from pathlib import Path

import rlstep
from rlstep.runtime.errors import UserError


def _roots() -> list[Path]:
    package = Path(rlstep.__file__).resolve().parent
    checkout = package.parent
    # site-packages may hold another package's folder called recipes, but no pyproject.toml.
    return ([checkout] if (checkout / "pyproject.toml").is_file() else []) + [package / "_shipped"]


def recipe(name: str | Path) -> Path:
    """The file of a shipped recipe: `arithmetic/sft`, `arithmetic/sft.yaml` or `recipes/arithmetic/sft.yaml`.

    Raises:
        UserError: there is none of that name; the message lists the shipped ones.
    """
    relative = Path(str(name).removeprefix("recipes/")).with_suffix(".yaml")
    if not relative.is_absolute() and ".." not in relative.parts:
        for root in _roots():
            if (root / "recipes" / relative).is_file():
                return root / "recipes" / relative
    names = ", ".join(recipes()) or "none"
    raise UserError(f"{name}: no such file, and no shipped recipe of that name. The shipped ones: {names}.")


def recipes() -> list[str]:
    """Names of all shipped recipes, as `recipe` takes them."""
    names = {
        path.relative_to(root / "recipes").with_suffix("").as_posix()
        for root in _roots()
        for path in (root / "recipes").rglob("*.yaml")
    }
    return sorted(names)
