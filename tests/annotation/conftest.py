"""Solutions to label, and what was labelled as our reader of PRM800K reads it."""

import json
from pathlib import Path

import pytest

from rlstep.annotation.items import Item, read_items
from rlstep.steps.boundaries import Boundary
from rlstep.steps.readers import read
from rlstep.steps.records import Solution, write_solutions

SOLUTIONS = [
    Solution("p0", "What is $2 + 3 \\cdot 4$?\n", "3 * 4 = 12\n2 + 12 = 15\nAnswer: 15", "14"),
    Solution("p1", "What is $1 + 1$?\n", "1 + 1 = 2\nAnswer: 2", "2"),
    Solution("p2", "What is $\\frac{6}{3}$?\n", "6 / 3 = 2\nThat is a whole number.\nAnswer: 2", "2"),
    Solution("p3", "What is 7?\n", "It is 7.\nAnswer: 7", "7"),
]


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "solutions.jsonl"
    write_solutions(path, SOLUTIONS)
    return path


@pytest.fixture
def items(data) -> list[Item]:
    return read_items(data, Boundary())[0]


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "labels.jsonl"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(path: Path, **options) -> list[Solution]:
    return list(read("prm800k", path, **options))
