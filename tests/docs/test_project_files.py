"""What is said of the project outside its code agrees with the project."""

import re
import tomllib

import yaml

from rlstep import __version__
from tests.docs.pages import ROOT


def workflow() -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def supported() -> list[str]:
    """The Python versions that the Makefile admits, from its lowest to its highest."""
    low, high = re.search(r"SUPPORTED := \(3, (\d+)\).*\(3, (\d+)\)", (ROOT / "Makefile").read_text()).groups()
    return [f"3.{minor}" for minor in range(int(low), int(high) + 1)]


def test_the_tests_run_on_every_supported_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={supported()[0]}"
    assert workflow()["jobs"]["test"]["strategy"]["matrix"]["python"] == supported()
    python = "Programming Language :: Python :: "
    named = [name.removeprefix(python) for name in project["classifiers"] if name.startswith(f"{python}3.")]
    assert named == supported()
    low, high = supported()[0], supported()[-1]
    for page in ("README.md", "CONTRIBUTING.md", "docs/quickstart.md"):
        assert f"Python {low} to {high}" in (ROOT / page).read_text()


def test_the_workflow_calls_targets_of_the_makefile():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    called = {
        name
        for job in workflow()["jobs"].values()
        for step in job["steps"]
        for name in re.findall(r"^make (\w+)", step.get("run", ""), re.M)
    }
    assert called == {"lint", "test"}
    assert called <= targets


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]


def test_issue_forms_ask_for_something():
    for name in ("bug", "feature"):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)
        assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_every_dependency_is_pinned():
    """All but vllm, which brings its own torch and is not installed by the Makefile."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras.pop("vllm") == ["vllm"]
    pinned = {canonical(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    for requirement in [*project["dependencies"], *(name for names in extras.values() for name in names)]:
        assert canonical(requirement) in pinned | {project["name"]}, requirement


def canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0].lower())
