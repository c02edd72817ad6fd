"""The strict parser: what it takes from YAML and from the command line, and what it refuses, in one line each."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

import pytest

from rlstep.runtime.config import StrictParser, load_recipe, settings
from rlstep.runtime.constraints import GoesWith, ReadBy, check
from rlstep.runtime.errors import UserError


@dataclass
class Config:
    data: str = field(metadata={"help": "A file."})
    learning_rate: float = 1e-3
    steps: int = 10
    reward: Literal["process", "outcome"] = "process"
    ns: list[int] = field(default_factory=lambda: [1, 2])
    shuffle: bool = True
    limit: int | None = 5
    strategy: str = "no"
    model_kwargs: dict | str | None = None
    report_to: None | str | list[str] = None


@dataclass
class More:
    seed: int = 0

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed};\n  it must not be negative.")


@pytest.fixture
def parse(tmp_path):
    """parse(yaml text, *options) -> (Config, More)."""

    def run(text: str, *options: str):
        (tmp_path / "recipe.yaml").write_text(text)
        parser = StrictParser([Config, More], prog="rlstep test")
        return parser.parse(["--config", str(tmp_path / "recipe.yaml"), *options])

    return run


def test_command_line_overrides_recipe_overrides_default(parse):
    config, more = parse("data: a.jsonl\nsteps: 20\nlearning_rate: 0.5\n", "--steps", "30", "--seed=4")
    assert (config.data, config.steps, config.learning_rate, config.limit) == ("a.jsonl", 30, 0.5, 5)
    assert more.seed == 4


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("learning_rate: 2e-3", "learning_rate", 0.002),  # YAML 1.1 reads this as text
        ("learning_rate: 1", "learning_rate", 1.0),
        ("limit: null", "limit", None),
        ("limit: 3", "limit", 3),
        ("ns: [1, 8]", "ns", [1, 8]),
        ("ns: 8", "ns", [8]),
        ("shuffle: false", "shuffle", False),
        ("shuffle: 'no'", "shuffle", False),
        ("reward: outcome", "reward", "outcome"),
        ("strategy: 'no'", "strategy", "no"),
        ("strategy: 5", "strategy", "5"),
        ("model_kwargs: {dtype: float32}", "model_kwargs", {"dtype": "float32"}),
        ("report_to: [wandb, tensorboard]", "report_to", ["wandb", "tensorboard"]),
        ("report_to: null", "report_to", None),
    ],
)
def test_yaml_value_has_its_fields_type(parse, line, name, value):
    actual = getattr(parse(f"data: x\n{line}\n")[0], name)
    assert actual == value
    assert type(actual) is type(value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stepz: 3", "unknown key 'stepz' (did you mean 'steps'?)"),
        ("reward: proces", "reward: 'proces' is not one of process, outcome"),
        ("steps: many", "steps: expected int, got 'many'"),
        ("steps: 2.5", "steps: expected int, got 2.5"),
        ("steps: true", "steps: expected int, got True"),
        ("steps: [3]", "steps: expected one value, got a list [3]"),
        ("steps: {a: 1}", "steps: expected one value, got a mapping"),
        ("steps: null", "steps: null, but it needs a value"),
        ("ns: [1, two]", "ns: expected int, got 'two'"),
        ("ns: [[1]]", "ns: expected a list of single values, got [1] in it"),
        ("shuffle: maybe", "shuffle: expected true or false, got 'maybe'"),
        (
            "strategy: no",
            "strategy: expected text, got False; YAML reads yes, no, on and off as booleans: put it in",
        ),
        ("- a", "not valid YAML"),
        ("steps: [1", "not valid YAML"),
        ("data: again", "the key 'data' appears twice"),
    ],
)
def test_bad_yaml_is_refused_by_name(parse, line, message):
    with pytest.raises(UserError) as error:
        parse(f"data: x\n{line}\n")
    assert message in str(error.value)
    assert "recipe.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_null_for_a_required_field_is_refused(parse):
    with pytest.raises(UserError, match="data: null, but it needs a value"):
        parse("data: null\n")


def test_all_faults_are_shown_at_once(parse):
    with pytest.raises(UserError) as error:
        parse("data: x\nstepz: 3\nreward: bad\nlimit: [1]\n", "--shufle", "no")
    for part in ("stepz", "reward", "limit", "unknown option '--shufle' (did you mean '--shuffle'?)"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reward", "bad"], "invalid choice: 'bad'"),
        (["--steps", "2.5"], "invalid int value: '2.5'"),
        (["--step", "3"], "unknown option '--step' (did you mean '--steps'?)"),  # no abbreviations
        (["stray"], "unexpected argument 'stray'"),
        (["--seed", "-1"], "seed is -1; it must not be negative."),
        (["--config", "other.yaml"], "--config is given 2 times"),
    ],
)
def test_bad_option_is_refused_by_name(parse, options, message):
    with pytest.raises(UserError) as error:
        parse("data: x\n", *options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_option_is_named():
    with pytest.raises(UserError, match="required: --data"):
        StrictParser([Config]).parse([])


def test_config_without_a_file():
    with pytest.raises(UserError, match="--config needs a file"):
        StrictParser([Config]).parse(["--config"])


def test_recipe_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        load_recipe(tmp_path / "none.yaml")


def test_recipe_that_is_no_mapping(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(UserError, match=r"list\.yaml: expected `key: value` lines, got list"):
        load_recipe(tmp_path / "list.yaml")


def test_empty_recipe_is_an_empty_mapping(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_recipe(tmp_path / "empty.yaml") == {}


def test_recipe_cannot_make_objects(tmp_path):
    (tmp_path / "evil.yaml").write_text("data: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(tmp_path / "evil.yaml")


# --- Recipes on top of others.


@pytest.fixture
def recipes(tmp_path):
    """Writes recipes, name -> text, into a folder and gives it."""

    def write(**texts: str):
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def test_a_recipe_replaces_values_of_its_base(recipes):
    folder = recipes(
        first="data: a\nsteps: 1\nlimit: 3\nmodel_kwargs: {a: 1, b: 2}\nns: [1, 2]\n",
        second="base: first.yaml\nsteps: 2\nns: [4]\n",
        third="model_kwargs: {a: 3}\nlimit: null\nbase: second.yaml\n",
    )
    assert load_recipe(folder / "second.yaml") == {
        "data": "a", "steps": 2, "limit": 3, "model_kwargs": {"a": 1, "b": 2}, "ns": [4],
    }  # fmt: skip
    # A mapping is replaced whole: what a scheme's parameters are does not depend on those of another one.
    assert load_recipe(folder / "third.yaml") == {
        "data": "a", "steps": 2, "limit": None, "model_kwargs": {"a": 3}, "ns": [4],
    }  # fmt: skip


def test_a_base_is_searched_beside_its_recipe_and_then_among_the_shipped_ones(recipes, monkeypatch):
    folder = recipes(other="data: here\n", one="base: other.yaml\n", two="base: arithmetic/prepare\nrl: 5\n")
    monkeypatch.chdir("/")
    assert load_recipe(folder / "one.yaml") == {"data": "here"}
    assert load_recipe(folder / "two.yaml") == load_recipe("arithmetic/prepare") | {"rl": 5}
    (folder / "deep").mkdir()
    (folder / "deep" / "three.yaml").write_text("base: ../other.yaml\nsteps: 4\n")
    assert load_recipe(folder / "deep" / "three.yaml") == {"data": "here", "steps": 4}


def test_the_base_is_no_option_and_its_values_are_checked_like_others(parse, tmp_path):
    (tmp_path / "other.yaml").write_text("steps: 20\nlimit: 7\n")
    config, _ = parse("data: x\nbase: other.yaml\nlimit: 8\n", "--steps", "30")
    assert (config.steps, config.limit) == (30, 8)
    (tmp_path / "other.yaml").write_text("stepz: 20\n")
    with pytest.raises(UserError, match="unknown key 'stepz'"):
        parse("data: x\nbase: other.yaml\n")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "base: a.yaml\n"}, "a.yaml: its base leads back to itself: a.yaml -> a.yaml."),
        (
            {"a": "base: b.yaml\n", "b": "base: c.yaml\n", "c": "base: ./b.yaml\n"},
            "a.yaml: its base leads back to itself: a.yaml -> b.yaml -> c.yaml -> b.yaml.",
        ),
        ({"a": "base: none.yaml\n"}, "a.yaml: its base does not exist: none.yaml: no such file"),
        ({"a": "base: b.yaml\n", "b": "base: none\n"}, "b.yaml: its base does not exist: none: no such file"),
        ({"a": "base: [b.yaml]\n", "b": ""}, "a.yaml: base is ['b.yaml']; give one recipe"),
        ({"a": "base:\n"}, "a.yaml: base is None; give one recipe"),
        ({"a": "base: b.yaml\n", "b": "- 1\n"}, "b.yaml: expected `key: value` lines, got list"),
    ],
)
def test_a_base_that_cannot_be_is_named(recipes, texts, message):
    folder = recipes(**texts)
    with pytest.raises(UserError) as error:
        load_recipe(folder / "a.yaml")
    assert message in str(error.value).replace(f"{folder}/", "")


def test_a_circle_is_found_whatever_way_its_files_are_named(recipes):
    folder = recipes(a="data: x\n")
    (folder / "a.yaml").write_text(f"base: ../{folder.name}/a.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_recipe(folder / "a.yaml")


def test_settings_are_plain_and_hold_no_token():
    class Kind(StrEnum):
        FAST = "fast"

    @dataclass
    class Run:
        kind: Kind = Kind.FAST
        sizes: tuple = (1, 2)
        nested: dict = field(default_factory=lambda: {"kind": Kind.FAST, "token": "secret"})
        hub_token: str = "secret"
        eos_token: str = "</s>"
        prm: str = "http://me:secret@host:8000"

    assert settings(Run()) == {
        "kind": "fast", "sizes": [1, 2], "nested": {"kind": "fast"}, "eos_token": "</s>",
        "prm": "http://redacted@host:8000",
    }  # fmt: skip


# --- Null on the command line, and all faults of several dataclasses.


def test_null_on_the_command_line_takes_a_recipes_value_back(parse):
    text = "data: x\nlimit: 3\nstrategy: a\n"
    assert parse(text, "--limit", "null")[0].limit is None
    assert parse(text, "--limit=null", "--limit", "4")[0].limit == 4
    assert parse(text, "--limit", "4", "--limit=null")[0].limit is None
    # A text that may not be null is a text.
    assert parse(text, "--strategy", "null")[0].strategy == "null"
    with pytest.raises(UserError, match="invalid int value: 'null'"):
        parse(text, "--steps", "null")


def test_faults_of_several_dataclasses_are_shown_at_once(tmp_path):
    @dataclass
    class Other:
        width: int = 1

        def __post_init__(self):
            if self.width < 1:
                raise UserError("width is below 1.")

    with pytest.raises(UserError, match=r"^seed is -1; it must not be negative; width is below 1\.$"):
        StrictParser([More, Other]).parse(["--seed", "-1", "--width", "0"])


# --- A switch that is turned off.


@dataclass
class Switched:
    fast: bool = True
    speed: Annotated[int, ReadBy("fast")] = 1
    sizes: Annotated[list[int], ReadBy("speed"), ReadBy("fast")] = field(default_factory=lambda: [1])
    kind: str = "a"
    of_b: Annotated[int, ReadBy("kind", "b")] = 0

    def __post_init__(self):
        check(self)


def test_a_switch_turned_off_on_the_command_line_takes_a_recipes_settings_with_it(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("fast: true\nspeed: 5\nsizes: [3]\n")
    parser = StrictParser([Switched], prog="rlstep test")
    (config,) = parser.parse(["--config", str(recipe), "--fast", "false"])
    assert config == Switched(fast=False)
    assert capsys.readouterr().err == "rlstep test: switched off, so back to the default: speed, sizes\n"
    text = StrictParser([Switched]).resolved(["--config", str(recipe), "--fast", "false"])
    assert f"\nspeed: 1  # back to the default, for fast is off; {recipe} has another value\n" in text


@dataclass
class Measured:
    when: str = "no"
    at_start: bool = False
    size: Annotated[int, GoesWith("when", "at_start")] = 1

    def __post_init__(self):
        check(self)


@dataclass
class Data:
    test: Annotated[str | None, GoesWith("when", "at_start")] = None

    def __post_init__(self):
        check(self)


def test_settings_of_several_switches_go_with_the_last_of_them_and_in_every_part(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("when: steps\nat_start: true\nsize: 5\ntest: t.jsonl\n")
    given = ["--config", str(recipe), "--when", "no"]
    assert StrictParser([Measured, Data]).parse(given) == (Measured("no", True, 5), Data("t.jsonl"))
    both = [*given, "--at_start", "false"]
    assert StrictParser([Measured, Data]).parse(both) == (Measured(), Data())
    assert "back to the default: size, test\n" in capsys.readouterr().err
    text = StrictParser([Measured, Data]).resolved(both)
    assert "\ntest: null  # back to the default, for when and at_start are off; " in text


def test_what_is_given_beside_the_switch_is_refused(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("speed: 5\nkind: b\nof_b: 2\n")
    given = ["--config", str(recipe)]
    with pytest.raises(UserError, match="fast is false, so speed would do nothing"):
        StrictParser([Switched]).parse([*given, "--fast", "false", "--speed", "4"])
    # Another kind is no switch turned off.
    with pytest.raises(UserError, match="kind is 'a', so of_b would do nothing"):
        StrictParser([Switched]).parse([*given, "--kind", "a"])
    recipe.write_text("fast: false\nspeed: 5\n")
    with pytest.raises(UserError, match="fast is false, so speed would do nothing"):
        StrictParser([Switched]).parse(given)


# --- The resolved recipe.


def test_resolved_settings_say_where_they_come_from(recipes, monkeypatch):
    folder = recipes(
        low="data: a\nsteps: 1\nlimit: 3\n", high="base: low.yaml\nsteps: 2\nstrategy: 'no'\nmodel_kwargs: {a: [1]}\n"
    )
    monkeypatch.chdir(folder)
    parser = StrictParser([Config, More], prog="rlstep test")
    # The seed is one that a run would refuse: nothing is made of the values.
    text = parser.resolved(["--config", "high.yaml", "--limit", "null", "--no_shuffle", "--seed=-4"])
    assert (
        text
        == """\
# Config
data: a  # low.yaml
learning_rate: 0.001  # default
steps: 2  # high.yaml
reward: process  # default
ns: [1, 2]  # default
shuffle: false  # command line
limit: null  # command line
strategy: 'no'  # high.yaml
model_kwargs: {a: [1]}  # high.yaml
report_to: null  # default

# More
seed: -4  # command line"""
    )
    (folder / "again.yaml").write_text(text.replace("seed: -4", "seed: 4"))
    same = StrictParser([Config, More]).parse(["--config", "again.yaml"])
    expected = ["--config", "high.yaml", "--limit", "null", "--no_shuffle", "--seed=4"]
    assert same == StrictParser([Config, More]).parse(expected)


def test_resolved_settings_hold_no_secret_and_name_what_is_missing():
    @dataclass
    class Run:
        data: str = field(metadata={"help": "A file."})
        hub_token: str | None = None
        api_token: str | None = None
        kwargs: dict | str | None = None
        server: str = "http://me:word@host"

    text = StrictParser([Run]).resolved(["--hub_token", "hf_abc"])
    assert text == (
        "# Run\n# data: required, but not given\n# hub_token: redacted (command line)\napi_token: null  # default\n"
        "kwargs: null  # default\nserver: http://redacted@host  # default"
    )


def test_resolved_settings_are_checked_like_those_of_a_run(recipes):
    folder = recipes(a="data: x\nstepz: 1\n")
    with pytest.raises(UserError, match="unknown key 'stepz'"):
        StrictParser([Config]).resolved(["--config", str(folder / "a.yaml")])


def test_the_help_of_a_negation_says_what_it_does():
    text = " ".join(StrictParser([Config, More], prog="rlstep test").format_help().split())
    assert "--no_shuffle, --no-shuffle The same as --shuffle false." in text
    assert "--shuffle false. (default" not in text
