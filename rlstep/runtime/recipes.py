"""Recipes: YAML files of settings, one on top of another."""

from pathlib import Path

import yaml

from rlstep.runtime.errors import UserError
from rlstep.runtime.paths import recipe as shipped_recipe


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, of which YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' appears twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_recipe(path: str | Path) -> dict:
    """The mapping of a YAML recipe, given by its file or by a shipped recipe's name; an empty file gives an empty one.

    A recipe may build on another one, `base: other.yaml`: a file in its own folder, or the name of a shipped recipe.
    The base's values are loaded first (after those of its own base); the recipe's own values replace them, mappings and
    lists as a whole. `base` itself is not returned.

    Raises:
        UserError: no such recipe or base, not YAML, not a mapping, or a circle of bases.
    """
    return {key: value for _, recipe in recipe_layers(path) for key, value in recipe.items()}


def recipe_layers(path: str | Path | None) -> list[tuple[Path, dict]]:
    """A recipe and its bases, the lowest first, each with its own values; empty for no recipe.

    Raises:
        UserError: as in `load_recipe`.
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
    """The recipe that `recipe` names as its base; that key is removed from it."""
    if "base" not in recipe:
        return None
    base = recipe.pop("base")
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}; give one recipe: a file beside this one, or a shipped one's name.")
    beside = path.parent / base
    try:
        return beside if beside.is_file() else shipped_recipe(base)
    except UserError as error:
        raise UserError(f"{path}: its base does not exist: {error}") from None


def _read_mapping(path: Path) -> dict:
    try:
        # _UniqueKeys is a SafeLoader: plain values only, no objects.
        recipe = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {one_line(error)}") from None
    if recipe is None:
        return {}
    if not isinstance(recipe, dict):
        raise UserError(f"{path}: expected `key: value` lines, got {type(recipe).__name__}.")
    return recipe


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
