"""Recipes: YAML files of settings, one on top of another."""

from pathlib import Path

import yaml

from rlstep.runtime.errors import UserError
from rlstep.runtime.paths import recipe as shipped_recipe


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice, of which YAML would keep the last in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_recipe(path: str | Path) -> dict:
    """The mapping of a YAML recipe, given by its file or by a shipped recipe's name; an empty file is an empty one.

    A recipe that differs little from another one names it, `base: other.yaml`, from its own folder or as the name of a
    shipped one. The base's values are taken first, its own base's before them; the recipe's own replace them whole,
    mappings and lists too. `base` itself is not among what is returned.

    Raises:
        UserError: no such recipe or base, no YAML, no mapping, or bases that lead back to the recipe.
    """
    return {key: value for _, recipe in recipe_layers(path) for key, value in recipe.items()}


def recipe_layers(path: str | Path | None) -> list[tuple[Path, dict]]:
    """A recipe and those that it stands on, the lowest first, each with its own values; none for no recipe.

    Raises:
        UserError: as of `load_recipe`.
    """
    if path is None:
        return []
    layers: list[tuple[Path, dict]] = []
    current: Path | None = Path(path) if Path(path).is_file() else shipped_recipe(path)
    while current is not None:
        seen = [file for file, _ in layers]
        if current.resolve() in (file.resolve() for file in seen):
            raise UserError(f"{seen[0]}: its base leads back to itself: {' -> '.join(map(str, (*seen, current)))}.")
        recipe = _read_mapping(current)
        base = _base_of(current, recipe)
        layers.append((current, recipe))
        current = base
    return layers[::-1]


def _base_of(path: Path, recipe: dict) -> Path | None:
    """The recipe that `recipe` names as its base; that key is taken out of it."""
    if "base" not in recipe:
        return None
    base = recipe.pop("base")
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}; give one recipe: a file beside this one, or a shipped one's name.")
    beside = path.parent / base
    try:
        return beside if beside.is_file() else shipped_recipe(base)
    except UserError as error:
        raise UserError(f"{path}: its base is not there: {error}") from None


def _read_mapping(path: Path) -> dict:
    try:
        # _UniqueKeys is a SafeLoader: plain values alone, no objects.
        recipe = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {one_line(error)}") from None
    if recipe is None:
        return {}
    if not isinstance(recipe, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(recipe).__name__}.")
    return recipe


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
