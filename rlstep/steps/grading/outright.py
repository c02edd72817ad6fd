"""Verdicts that need no algebra, each on answers of one kind; None says that they are of other kinds."""

from fractions import Fraction

from rlstep.steps.grading.calendar import date
from rlstep.steps.grading.congruences import congruence
from rlstep.steps.grading.domains import family
from rlstep.steps.grading.plain import based, choice, choices, letter, number, time_of_day
from rlstep.steps.grading.quantities import angle, quantity
from rlstep.steps.grading.spelling import words_of
from rlstep.steps.grading.units import split_unit


def same_choice(answer: str, reference: str) -> bool | None:
    several = choices(answer), choices(reference)
    # Two runs may be products or segments.
    if None not in several and not all(is_run for _, is_run in several):
        return several[0][0] == several[1][0]
    letters = choice(answer), choice(reference)
    if letters != (None, None):
        return (letters[0] or letter(answer)) == (letters[1] or letter(reference))
    if letter(answer) is None or letter(reference) is None:
        return None
    return words_of(answer, lower=False) == words_of(reference, lower=False)


def same_based(answer: str, reference: str) -> bool | None:
    left, right = based(answer), based(reference)
    if left is None and right is None:
        return None
    named = (left is None and "=" in answer) or (right is None and "=" in reference)
    return None if named else left == right


def same_date(answer: str, reference: str) -> bool | None:
    left, right = date(answer), date(reference)
    return None if left is None and right is None else left == right


def same_time(answer: str, reference: str) -> bool | None:
    """Whether two times of day are the same; beside 15:30, which may also be a ratio, `values` say so."""
    left, right = time_of_day(answer), time_of_day(reference)
    if left is None and right is None:
        return None
    if None in (left, right):
        return False if number(reference if right is None else answer) is not None else None
    return left == right


def same_congruence(answer: str, reference: str) -> bool | None:
    r"""Whether two congruences are the same; beside a family, `3 + 7k`, it takes algebra to say."""
    left, right = congruence(answer), congruence(reference)
    if left is not None and right is not None:
        return left.agrees_with(right)
    neither = left is None and right is None
    return None if neither or family(answer) or family(reference) else False


def same_quantity(answer: str, reference: str) -> bool | None:
    """Whether two quantities of one kind are the same; 2 hours 30 minutes are 2.5, too. None unless both are read."""
    left, right = quantity(answer), quantity(reference)
    if left is not None and right is not None:
        return left.amount == right.amount if left.kind == right.kind else None
    one, text = (left, reference) if right is None else (right, answer)
    if one is not None and one.parts > 1:
        return number(text) == one.whole
    degrees = angle(answer), angle(reference)
    if degrees != (None, None):
        both = zip(degrees, (answer, reference), strict=True)
        values = [_degrees(text) if value is None else value for value, text in both]
        return None not in values and values[0] == values[1]
    return None


def _degrees(text: str) -> Fraction | None:
    measured = split_unit(text)
    return number(measured.value) if measured.unit in (None, "degree") else None
