"""The lint run's rule against import cycles, on small packages made for it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
[tool.importlinter]
root_package = "small"
include_external_packages = true
contract_types = ["acyclic_modules: tests.lint.acyclic.AcyclicModules"]

[[tool.importlinter.contracts]]
name = "No module imports itself through others"
type = "acyclic_modules"
"""


def lint(folder: Path, **modules: str) -> subprocess.CompletedProcess:
    """Runs lint-imports on a package of these modules; a name's double underscore is a folder."""
    files = {"small/__init__.py": "", "small/part/__init__.py": ""}
    for name, text in modules.items():
        files[f"small/{name.replace('__', '/').replace('dunder_init', '__init__')}.py"] = text
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "pyproject.toml").write_text(CONFIG)
    (folder / "tests").symlink_to(ROOT / "tests")
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_that_run_one_way_pass(tmp_path):
    actual = lint(
        tmp_path, a="import os\nimport small.b\nfrom small.part import c", b="import small.part.c", part__c=""
    )
    assert actual.returncode == 0, actual.stdout + actual.stderr
    assert "No module imports itself through others KEPT" in actual.stdout


@pytest.mark.parametrize(
    "modules",
    [
        {"a": "import small.b", "b": "import small.a"},
        # the way back is inside a function
        {"a": "import small.b", "b": "def f():\n    from small import a"},
        {"a": "import small.b", "b": "import small.part.c", "part__c": "from small.a import x"},
        # a package and a module of its own
        {"part__dunder_init": "from small.part import c", "part__c": "from small.part import x"},
    ],
)
def test_any_cycle_fails_and_is_named(modules, tmp_path):
    actual = lint(tmp_path, **modules)
    assert actual.returncode == 1, actual.stdout + actual.stderr
    assert "No module imports itself through others BROKEN" in actual.stdout
    names = {"a": "small.a", "b": "small.b", "part__c": "small.part.c", "part__dunder_init": "small.part"}
    for module in modules:
        assert f"{names[module]} imports small" in actual.stdout
