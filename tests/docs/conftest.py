"""The documentation's files, and the code beside them that builds the site."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_build"))


@pytest.fixture
def at_a_checkout(tmp_path, monkeypatch):
    """A folder to run documented commands in: with the recipes of this checkout, and without its runs."""
    for name in ("recipes", "ds_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
