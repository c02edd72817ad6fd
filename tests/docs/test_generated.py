"""Pages that are made from the code hold what the code has."""

import re
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

import generated
import pytest

from rlstep.policy.monitoring.glossary import METRICS
from rlstep.runtime.constraints import MayChange, Range, ReadBy
from rlstep.runtime.describe import describe_settings
from rlstep.stages import COMMANDS, config_classes


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """The settings page's part for each command."""
    parts = re.split(r"^## `rlstep (\w+)`.*$", generated.settings_page("intro"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_of_a_command_is_there(settings, name):
    for kind in config_classes(name):
        for one in fields(kind):
            assert f"`{one.name}`" in settings[name]


def test_every_setting_of_ours_has_a_help_text():
    for name in COMMANDS:
        for kind in config_classes(name):
            for setting in generated.own_settings(kind):
                assert setting.help, f"{kind.__name__}.{setting.name} has no help text"


def test_a_row_shows_type_default_and_help():
    @dataclass
    class Config:
        how: Literal["a", "b"] | None = field(default=None, metadata={"help": "One | or other."})
        many: list[str] = field(default_factory=lambda: ["x"], metadata={"help": "Several."})
        share: Annotated[float | None, Range(at_least=0), ReadBy("how", "a")] = field(
            default=0.5, metadata={"help": "Some."}
        )
        log: Annotated[bool, MayChange("it trains nothing")] = field(default=True, metadata={"help": "Logs."})
        must: int = field(kw_only=True, metadata={"help": "Needed."})

    rows = {setting.name: generated._row("c", setting) for setting in describe_settings(Config)}
    assert rows["how"] == '| <span id="c-how">`how`</span> | One \\| or other. | one of a, b, or null | `null` |'
    assert rows["many"] == '| <span id="c-many">`many`</span> | Several. | list of text | `[x]` |'
    assert rows["share"] == (
        "| <span id=\"c-share\">`share`</span> | Some. Only with how 'a'. | number at least 0, or null | `0.5` |"
    )
    assert rows["log"] == (
        '| <span id="c-log">`log`</span> | Logs. *May differ in a continued run.* | true or false | `true` |'
    )
    assert rows["must"] == '| <span id="c-must">`must`</span> | Needed. | whole number | required |'


def test_every_metric_is_there():
    page = generated.metrics_page("intro")
    for name, metric in METRICS.items():
        assert f"| `{name}` | " in page
        assert metric.meaning.replace("|", "\\|") in page
    assert page.count("\n| `") == len(METRICS)


def test_a_source_page_keeps_its_lines(tmp_path, monkeypatch):
    text = 'x = 1\n"""\n```\nfenced\n```\n"""\n'
    (tmp_path / "a.py").write_text(text)
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    page = generated.source_page("a.py")
    assert '````python linenums="1"\n' + text.rstrip() + "\n````\n" in page
