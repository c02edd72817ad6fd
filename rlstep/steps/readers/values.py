"""A value that knows its place in a row, so that every error names file, row and field."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import DataError
from rlstep.steps.records import shown
from rlstep.steps.sources import Row

# What transformers and TRL write where there is no loss; as a step label it means unknown.
IGNORED = -100


@dataclass(frozen=True)
class Field:
    """A row, or a value inside it, whose methods return it as the expected type or raise a `DataError`.

    Attributes:
        row: the row.
        name: the value's name, `label.steps[2].chosen_completion`; None for the row itself.
        value: the value.
    """

    row: Row
    name: str | None
    value: object

    @classmethod
    def of(cls, row: Row) -> "Field":
        return cls(row, None, row.values)

    def fault(self, problem: str) -> DataError:
        return self.row.fault(self.name, problem)

    def expected(self, what: str) -> DataError:
        return self.fault(f"expected {what}, got {shown(self.value)}.")

    def __getitem__(self, key: str) -> "Field":
        """The value of a required key, which may be null."""
        value = self.get(key)
        if key not in self.value:
            there = self.value if self.name else self.row.names
            raise value.fault(f"missing; this row has {', '.join(map(str, there)) or 'no fields'}.")
        return value

    def get(self, key: str) -> "Field":
        """The value of a key; null if it is absent."""
        if not isinstance(self.value, dict):
            raise self.expected("an object")
        return Field(self.row, f"{self.name}.{key}" if self.name else key, self.value.get(key))

    @property
    def is_null(self) -> bool:
        return self.value is None

    def items(self) -> list["Field"]:
        if not isinstance(self.value, list):
            raise self.expected("a list")
        return [Field(self.row, f"{self.name}[{k}]", item) for k, item in enumerate(self.value)]

    def text(self) -> str:
        """Text that is not blank, without surrounding white space."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.expected("text")
        return self.value.strip()

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.expected("true or false")
        return self.value

    def index(self, length: int, lowest: int = 0) -> int:
        """A whole number from `lowest` to `length` - 1."""
        whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        if not whole or not lowest <= self.value < length:
            raise self.expected(f"a whole number from {lowest} to {length - 1}")
        return self.value

    def label(self) -> float | None:
        """A step's label: true, false or a number from 0 to 1; null and -100 are unknown.

        A number in between is kept as it is: a soft label, the share of rollouts that reached the answer.
        """
        if isinstance(self.value, bool):
            return int(self.value)
        if self.value is None or self.value == IGNORED:
            return None
        if not isinstance(self.value, (int, float)) or not isfinite(self.value) or not 0 <= self.value <= 1:
            raise self.expected(f"true, false, a number from 0 to 1, or null or {IGNORED} for unknown")
        return self.value

    def labels(self, count: int) -> list[float | None]:
        """One label for each of `count` steps."""
        labels = [item.label() for item in self.items()]
        if len(labels) != count:
            raise self.fault(f"{counted(len(labels), 'label')} for {counted(count, 'step')}.")
        return labels

    def texts(self) -> Iterator[str]:
        return (item.text() for item in self.items())
