r"""Congruences: `x \equiv 3 \pmod 7`, `x ≡ 10 (mod 7)` and `7k + 3, k \in \mathbb{Z}` are one."""

import re
from dataclasses import dataclass

from rlstep.steps.grading.domains import family

_MODULUS = re.compile(
    r"(?P<left>.*?)[ ,]*(?:\\pmod|\(? ?(?:\\[bp]?mod|\\text\{ *mod(?:ulo)? *\}|mod(?:ulo)?(?![A-Za-z])))"
    r" ?\{? ?(?P<modulus>\d{1,300}) ?\}? ?\)?",
    re.ASCII | re.DOTALL,
)
_LEFT = re.compile(r"(?:(?P<name>[A-Za-z](?:_\{?\w\}?)?) ?(?:\\equiv|=) ?)?(?P<residues>[-\d].*)", re.ASCII | re.DOTALL)
_BETWEEN = re.compile(r"(?: ?, ?| ?\\text\{ *,? *(?:and|or) *\} ?| (?:and|or) )+")
_INTEGER = re.compile(r"-? ?\d{1,300}", re.ASCII)
_LINEAR = re.compile(
    r"(?:(?P<named>[A-Za-z])=)?(?:(?P<step>-?\d{1,300})(?P<name>[A-Za-z])(?P<shift>[-+]\d{1,300})?"
    r"|(?P<first>-?\d{1,300})(?P<then>[-+]\d{1,300})(?P<other>[A-Za-z]))",
    re.ASCII,
)


@dataclass(frozen=True)
class Congruence:
    """The integers with some residues to a modulus, and what they are the values of where that is named."""

    name: str | None
    residues: frozenset[int]
    modulus: int

    def agrees_with(self, other: "Congruence") -> bool:
        """Whether two congruences say the same of a number; a name that one leaves out may be any."""
        names = {self.name, other.name} - {None}
        return len(names) < 2 and (self.residues, self.modulus) == (other.residues, other.modulus)


def congruence(text: str) -> Congruence | None:
    r"""The congruence of a text in the spelling of `tidy`; None for other text.

    >>> congruence(r"x \equiv -4 \pmod{7}") == congruence(r"x = 7k + 3, k \in \mathbb{Z}")
    True
    """
    match = _MODULUS.fullmatch(text)
    if match is None:
        return _of_family(text)
    left, modulus = _LEFT.fullmatch(match["left"].strip()), int(match["modulus"])
    residues = _BETWEEN.split(left["residues"].strip()) if left else []
    # What is still to be computed, 3^{100} mod 7, is no congruence.
    if not modulus or not residues or not all(map(_INTEGER.fullmatch, residues)):
        return None
    return Congruence(left["name"], frozenset(int(one.replace(" ", "")) % modulus for one in residues), modulus)


def _of_family(text: str) -> Congruence | None:
    numbers = family(text)
    linear = _LINEAR.fullmatch(re.sub(r"\s", "", numbers.value)) if numbers and numbers.numbers == "Z" else None
    if linear is None or numbers.name != (linear["name"] or linear["other"]) or numbers.name == linear["named"]:
        return None
    step, shift = int(linear["step"] or linear["then"]), int(linear["shift"] or linear["first"] or 0)
    return Congruence(linear["named"], frozenset([shift % abs(step)]), abs(step)) if abs(step) > 1 else None
