"""Ranges, choices and conditions of settings, said beside their types."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import pytest
from trl import TrlParser

from rlstep.runtime.config import describe_settings
from rlstep.runtime.constraints import (
    Choices,
    Idle,
    MayChange,
    Range,
    ReadBy,
    ReadUnless,
    changed,
    check,
    library_faults,
)
from rlstep.runtime.errors import UserError


@dataclass
class Library:
    seed: int = 0
    label: str = "none"

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError("seed is\n below 0")


@dataclass
class Config(Library):
    inherited: ClassVar = {"label": (Idle("nothing has labels"),), "seed": (Range(below=9), MayChange("for a test"))}

    mode: Literal["slow", "fast"] = field(default="slow", metadata={"help": "How\n it goes."})
    share: Annotated[float, Range(above=0, at_most=1), ReadBy("mode", "fast")] = 0.5
    limit: Annotated[int | None, Range(at_least=1)] = None
    sizes: Annotated[list[int], ReadBy("limit")] = field(default_factory=lambda: [1, 2])
    kinds: Annotated[list[str] | None, Choices(("a", "b"))] = None
    weight: Annotated[float, Range()] = 1.0
    warm: Annotated[int, ReadUnless("mode", "fast")] = 0

    def __post_init__(self):
        more = ["share and weight are the same"] if self.share == self.weight else []
        check(self, [*library_faults(super().__post_init__), *more])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "quick"}, "mode is 'quick'; it must be one of slow, fast."),
        ({"mode": "fast", "share": 0.0}, "share is 0.0; it must be above 0 and at most 1."),
        ({"mode": "fast", "share": float("nan")}, "share is nan; it must be above 0 and at most 1."),
        ({"limit": 0}, "limit is 0; it must be at least 1, or null."),
        ({"limit": True}, "limit is True; it must be at least 1, or null."),
        ({"limit": "3"}, "limit is 3; it must be at least 1, or null."),
        ({"kinds": ["a", "c"]}, "kinds is 'c'; it must be one of a, b, or null."),
        ({"weight": float("inf")}, "weight is inf; it must be a finite number."),
        ({"seed": 9}, "seed is 9; it must be below 9."),
        ({"share": 0.25}, "mode is 'slow', so share would do nothing; set mode to 'fast', or leave it at 0.5."),
        ({"sizes": [3]}, "limit is null, so sizes would do nothing; set limit, or leave it at [1, 2]."),
        (
            {"mode": "fast", "warm": 2},
            "mode is 'fast', so warm would do nothing; set mode to a value other than 'fast'",
        ),
        ({"label": "x"}, "label does nothing here: nothing has labels; leave it out."),
        ({"seed": -1}, "seed is below 0."),
    ],
)
def test_a_setting_outside_what_it_admits_is_refused(given, message):
    with pytest.raises(UserError) as error:
        Config(**given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"mode": "fast", "share": 1, "weight": 2},
        {"share": 0.5, "sizes": [1, 2]},
        {"limit": 1, "sizes": [3], "kinds": ["b"]},
        {"weight": -2, "warm": 3},
    ],
)
def test_what_is_admitted(given):
    Config(**given)


def test_all_faults_are_in_one_message():
    with pytest.raises(UserError) as error:
        Config(seed=-1, share=2.0, weight=2.0, label="x", sizes=[])
    assert str(error.value) == (
        "share is 2.0; it must be above 0 and at most 1; label does nothing here: nothing has labels; leave it out; "
        "mode is 'slow', so share would do nothing; set mode to 'fast', or leave it at 0.5; limit is null, so sizes "
        "would do nothing; set limit, or leave it at [1, 2]; seed is below 0; share and weight are the same."
    )


def test_what_differs_from_its_default():
    assert changed(Config()) == []
    assert changed(Config(limit=3, sizes=[1, 2], weight=2)) == ["limit", "weight"]
    assert changed(Config(limit=3, weight=2), ["weight", "share"]) == ["weight"]
    assert changed(Config(limit=3, weight=2), []) == []


def test_a_constraint_of_a_field_that_is_not_there_is_a_bug():
    @dataclass
    class Wrong:
        inherited: ClassVar = {"sede": (Range(),)}
        seed: int = 0

    with pytest.raises(TypeError, match="Wrong constrains sede, which it does not have"):
        check(Wrong())


def test_trls_own_parser_still_takes_such_a_class():
    (config,) = TrlParser([Config]).parse_args_and_config(["--mode", "fast", "--share", "0.25"])
    assert (config.mode, config.share) == ("fast", 0.25)


def test_settings_are_described_for_the_documentation():
    rows = {row.name: tuple(row[1:]) for row in describe_settings(Config)}
    assert rows == {
        "seed": ("int", "0", "", "below 9", "", "for a test"),
        "label": ("str", "none", "", "", "no effect: nothing has labels", ""),
        "mode": ("str", "slow", "How it goes.", "one of slow, fast", "", ""),
        "share": ("float", "0.5", "", "above 0 and at most 1", "mode 'fast'", ""),
        "limit": ("int or null", "null", "", "at least 1", "", ""),
        "sizes": ("list of int", "[1, 2]", "", "", "limit", ""),
        "kinds": ("list of str or null", "null", "", "one of a, b", "", ""),
        "weight": ("float", "1.0", "", "a finite number", "", ""),
        "warm": ("int", "0", "", "", "mode other than 'fast'", ""),
    }


def test_a_setting_without_a_default_is_described_as_required():
    @dataclass
    class Needs:
        data: str = field(metadata={"help": "A file."})

    assert describe_settings(Needs)[0][:4] == ("data", "str", "required", "A file.")
