"""The recipes that a plan is of, and the folders that they write, from which later ones start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlstep.planning.models import Source, lora_of
from rlstep.runtime.errors import UserError
from rlstep.runtime.paths import recipe as shipped_recipe
from rlstep.runtime.paths import recipes as shipped_recipes

PLANNED = ("sft", "prm", "orm", "ppo", "sample", "score")
# Stages whose recipes tell where a model comes from.
WRITES_MODELS = ("sft", "prm", "orm", "ppo", "export")

# From a stage and a recipe's file to the recipe's settings, defaults included.
SettingsOf = Callable[[str, Path], Mapping]


@dataclass(frozen=True)
class Recipe:
    """A recipe's file and the stage that it is of."""

    path: Path
    stage: str

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"


def find_recipes(path: str, stage: str | None = None) -> list[Recipe]:
    """The recipes at a path that a plan can be made of.

    Args:
        path: a recipe's file, a shipped one's name, or a folder of recipes or a shipped folder's name.
        stage: of a single recipe whose name does not begin with its stage.

    Raises:
        UserError: there is none.
    """
    folder = _folder(path)
    if folder is not None:
        if stage is not None:
            raise UserError(f"{path} is a folder, whose recipes' names say their stages; leave out stage.")
        if recipes := [one for one in _in_folder(folder) if one.stage in PLANNED]:
            return recipes
        raise UserError(f"{path}: no recipe of {', '.join(PLANNED)} is there; their names begin with the stage's.")
    file = Path(path) if Path(path).is_file() else shipped_recipe(path)
    named = stage or _stage_of(file)
    if named not in PLANNED:
        raise UserError(
            f"{path}: its name does not begin with {', '.join(PLANNED)}; name its stage with --stage, one of these."
        )
    return [Recipe(file, named)]


def sources_of(recipes: list[Recipe], settings_of: SettingsOf) -> dict[str, Source]:
    """The folders that the recipes and those beside them will write, and what they will hold."""
    sources: dict[str, Source] = {}
    for folder in dict.fromkeys(recipe.path.parent for recipe in recipes):
        for recipe in _in_folder(folder):
            if recipe.stage in WRITES_MODELS:
                sources |= _written_by(recipe.stage, settings_of(recipe.stage, recipe.path))
    return sources


def _written_by(stage: str, values: Mapping) -> dict[str, Source]:
    if stage == "export":
        if not (values.get("policy") and values.get("out")):
            return {}
        return {str(Path(values["out"]) / "merged"): Source(values["policy"])}
    start, out = values.get("model_name_or_path"), values.get("output_dir")
    if not (start and out):
        return {}
    kept_apart = values.get("use_peft") and not (stage in ("prm", "orm") and values.get("merge_adapter"))
    lora = lora_of(stage, values) if kept_apart else None
    return {str(Path(out)): Source(start, lora, values.get("loss") == "implicit")}


def _in_folder(folder: Path) -> list[Recipe]:
    files = sorted(folder.glob("*.yaml"))
    order = {stage: place for place, stage in enumerate(PLANNED)}
    recipes = [Recipe(file, stage) for file in files if (stage := _stage_of(file)) is not None]
    return sorted(recipes, key=lambda recipe: (order.get(recipe.stage, len(order)), recipe.path.name))


def _stage_of(file: Path) -> str | None:
    """What a recipe's name begins with; a merge is an export."""
    word = file.stem.partition("_")[0]
    return {"merge": "export"}.get(word, word if word in (*PLANNED, "export") else None)


def _folder(path: str) -> Path | None:
    """The folder of this name, here or among the shipped recipes."""
    if Path(path).is_dir():
        return Path(path)
    name = path.removeprefix("recipes/").rstrip("/")
    inside = [recipe for recipe in shipped_recipes() if recipe.startswith(f"{name}/")]
    return shipped_recipe(inside[0]).parent if inside else None
