r"""Final answers: where a completion states one (`extraction`), and whether it is right (`grading`).

The sum is \boxed{\frac{1}{2}}.     ->  \frac{1}{2}, the same as 0.5
"""

import cmath
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache

from rlstep.steps.extraction import extract
from rlstep.steps.grader import MAX_LENGTH, Grader
from rlstep.steps.grading.calendar import date
from rlstep.steps.grading.congruences import congruence
from rlstep.steps.grading.domains import family
from rlstep.steps.grading.lists import split
from rlstep.steps.grading.outright import same_based, same_choice, same_congruence, same_date, same_quantity, same_time
from rlstep.steps.grading.plain import based, choice, letter, number, time_of_day, wording, words
from rlstep.steps.grading.spelling import squeezed, tidy, unwrap, words_of
from rlstep.steps.grading.units import Measured, same_unit, split_unit

__all__ = ["GRADER", "extract", "failed_gradings", "group_by_value", "is_correct", "reference_fault", "same_answer"]

GRADER = Grader()

_logger = logging.getLogger(__name__)

# Relative to the larger: far more than two computations of one value differ by.
CLOSE = 1e-9

_DIGITS = re.compile(r"[-+]?[\d.,/ ]+", re.ASCII)
_SETS_IN_WORDS = {"no solution": r"\emptyset", "real numbers": r"\mathbb{R}", "infinitely many": r"\infty"}


def is_correct(completion: str, reference: str) -> bool:
    """Whether the completion states an answer that equals the reference."""
    answer = extract(completion)
    return answer is not None and same_answer(answer, reference)


# Samples of one problem repeat their answers, and one that hits the time limit should do so only once.
@lru_cache(maxsize=1 << 14)
def same_answer(answer: str, reference: str) -> bool:
    """Whether an answer is the reference by value; the rules are those of `rlstep.steps.grading`.

    What needs no algebra is decided here; the rest is sent to a process with limits on time and memory. A comparison
    that is stopped there or fails, for example on an unreadable reference, counts as different, and is counted in
    `GRADER.stopped` or `GRADER.errors`.
    """
    return _same(answer, reference, True)


@lru_cache(maxsize=1 << 14)
def reference_fault(reference: str) -> str | None:
    r"""Why nothing can be graded by a reference: it states an answer that it does not equal, as a whole solution does.

    >>> reference_fault("2 * 9\n#### 18")
    "the reference '2 * 9\\n#### 18' states the answer '18' and is no answer itself; give the answer alone"
    >>> reference_fault(r"\boxed{18}")
    """
    answer = extract(reference)
    if answer is None or _same(answer, reference, False):
        return None
    reference, answer = _short(reference), _short(answer)
    return f"the reference {reference} states the answer {answer} and is no answer itself; give the answer alone"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:30]}...{text[-27:]}")


@contextmanager
def failed_gradings() -> Iterator[dict[str, int]]:
    """Counts the gradings that end without a verdict inside the block, and says at its end in one line how many.

    Yields:
        A dictionary for a stage's metrics, filled at the end: of `GRADER.counts`, what is not 0.
    """
    before, failed = GRADER.counts(), {}
    yield failed
    failed |= {name: count - before[name] for name, count in GRADER.counts().items() if count > before[name]}
    if failed:
        _logger.warning(
            "answers that could not be graded count as wrong: %s",
            ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in failed.items()),
        )


def group_by_value(answers: Sequence[str | None]) -> list[int | None]:
    """The group of each answer, numbered in order of first appearance: answers in one group are equal by value.

    The groups do not depend on the order of the answers. What fits into two groups, as 50% into those of 50 and 0.5, is
    in that of the shortest answer, and 18 cm and 18 kg are in two also where 18 is among them. As a problem may have
    hundreds of spellings, what is plainly different is not compared: plain numbers are looked up, and expressions with
    different values at one point are different. A phrase, which has no value, votes as it is worded: `no solution` and
    `no solutions` are two votes, though each is graded as the other. None, no answer, is in no group.

    >>> group_by_value(["1/2", "3", "0.5", None, "3.0"])
    [0, 1, 0, None, 1]
    """
    groups, numbers, members = {}, {}, []  # members: of each group, the answers that a further one has to equal
    for answer in sorted(
        {answer for answer in answers if answer is not None}, key=lambda answer: (len(answer), answer)
    ):
        value = _plain_number(answer)
        group = numbers.get(value) if value is not None else None
        if group is None:
            fits = (k for k, of_group in enumerate(members) if all(_is_one_vote(answer, other) for other in of_group))
            group = next(fits, len(members))
            if group == len(members):
                members.append([])
            # Expressions of one value are the same beside any answer, and one of them speaks for all.
            if _expression(answer)[1] is None or not any(_expression(other)[1] is not None for other in members[group]):
                members[group].append(answer)
        if value is not None:
            numbers[value] = group
        groups[answer] = group
    order = {group: k for k, group in enumerate(dict.fromkeys(groups[one] for one in answers if one is not None))}
    return [None if answer is None else order[groups[answer]] for answer in answers]


def _is_one_vote(answer: str, other: str) -> bool:
    values = _plain_number(answer), _plain_number(other)
    return None in values and _may_be_same(answer, other) and _same_vote(answer, other)


def _plain_number(answer: str) -> Fraction | None:
    """The value of an answer written only in digits; two such answers are the same iff their values are."""
    return number(text) if len(answer) <= MAX_LENGTH and _DIGITS.fullmatch(text := tidy(answer)) else None


def _may_be_same(answer: str, other: str) -> bool:
    """False if two answers are single expressions with different values at a point, and so are not the same."""
    (text, value), (other_text, other_value) = _expression(answer), _expression(other)
    if value is None or other_value is None or text == other_text:
        return True
    if words_of(tidy(answer), False) == words_of(tidy(other), False):
        return True
    return abs(value - other_value) <= CLOSE * max(abs(value), abs(other_value))


@lru_cache(maxsize=1 << 14)
def _expression(answer: str) -> tuple[str, complex | None]:
    """An answer's text without spaces, and its value at a point if nothing but algebra decides what it equals.

    Where computing that is stopped, it is NaN, which is near no value: to compare it would be stopped again each time.
    """
    text = tidy(answer) if len(answer) <= MAX_LENGTH else ""
    short = squeezed(text)
    if not text or any(
        read(text) is not None for read in (choice, letter, based, date, time_of_day, congruence, words)
    ):
        return short, None
    if (exact := number(text)) is not None:
        return short, _rounded(exact)
    # A unit may be seen in it or not, depending on what it is compared with.
    measured = {split_unit(text, loose) for loose in (True, False)}
    values = {one.value: GRADER.signature(one.value) for one in measured}
    if any(value is not None and cmath.isnan(value) for value in values.values()):
        return short, complex("nan")
    return short, values[text] if measured == {Measured(text, None)} else None


def _rounded(number: Fraction) -> complex | None:
    try:
        return complex(number)
    except OverflowError:
        return None


@lru_cache(maxsize=1 << 14)
def _same_vote(answer: str, other: str) -> bool:
    if not _same(answer, other, False):
        return False
    # A phrase has no value to vote by: it votes as it is worded.
    if None not in (worded := (wording(tidy(answer)), wording(tidy(other)))) and worded[0] != worded[1]:
        return False
    # What is still to be solved is no vote for the solved one, whichever comes first; single expressions are alike.
    single = all(_expression(one)[1] is not None for one in (answer, other))
    return single or _same(other, answer, False)


def _same(answer: str, reference: str, readable: bool) -> bool:
    """As `same_answer`; `readable` says whether an unreadable reference is an error."""
    if max(len(answer), len(reference)) > MAX_LENGTH:
        return bool(answer.strip()) and unwrap(answer) == unwrap(reference)
    written = unwrap(answer).replace("{,}", ",") == unwrap(reference).replace("{,}", ",")
    answer, reference = tidy(answer), tidy(reference)
    if not answer or not reference:
        return False
    if written or squeezed(answer) == squeezed(reference) or words_of(answer, False) == words_of(reference, False):
        return True
    for same in (same_choice, same_based, same_date, same_time, same_congruence, _same_words):
        if (verdict := same(answer, reference)) is not None:
            return verdict
    if (verdict := same_quantity(answer, reference)) is not None:
        return verdict
    if (verdict := _same_family(answer, reference, readable)) is not None:
        return verdict
    loose = [not any(map(str.isalpha, other)) for other in (reference, answer)]
    left, right = split_unit(answer, loose[0]), split_unit(reference, loose[1])
    return same_unit(left.unit, right.unit) and _same_measured(left, right, readable)


def _same_words(answer: str, reference: str) -> bool | None:
    left, right = words(answer), words(reference)
    if left is None and right is None:
        return None
    if left is not None and right is not None:
        return left == right
    text, named = (reference, left) if right is None else (answer, right)
    if "=" in text:
        return None
    numbers = next((_SETS_IN_WORDS[part] for part in named if part in _SETS_IN_WORDS), None)
    return len(named) == 1 and numbers is not None and GRADER.same(numbers, text)


def _same_family(answer: str, reference: str, readable: bool) -> bool | None:
    """Whether values with a variable in them that stands for all numbers of a kind are the same, whatever its name."""
    left, right = family(answer), family(reference)
    if left is None and right is None:
        return None
    if left is not None and right is not None:
        pair = left.value if left.name == right.name else left.renamed(right.name), right.value
        return left.numbers == right.numbers and GRADER.any_same(pair, readable=readable)
    return GRADER.any_same((left.value if left else answer, right.value if right else reference), readable=readable)


def _same_measured(left: Measured, right: Measured, readable: bool) -> bool:
    r"""Whether two values are the same, where 50% matches 50 and 0.5, and 90 degrees match 90 and \pi/2."""
    angles = {left.unit, right.unit} == {"degree", "radian"}
    numbers = number(left.value), number(right.value)
    if None not in numbers and not angles:
        a, b = numbers
        percent = left.unit == "%", right.unit == "%"
        return a == b or (percent == (True, False) and a / 100 == b) or (percent == (False, True) and a == b / 100)
    scaled = [(_scaled(left, right), right.value), (left.value, _scaled(right, left))]
    pairs = [] if angles else [(left.value, right.value)]
    pairs += [pair for pair in scaled if None not in pair]
    pairs += [*_percentages(left, right), *((one, other) for other, one in _percentages(right, left))]
    return GRADER.any_same(*pairs, readable=readable)


def _scaled(one: Measured, other: Measured) -> str | None:
    """A percentage as a fraction, or an angle in radians, if the other may be one; else None."""
    if one.unit == "%" != other.unit and "=" not in one.value:
        return rf"\frac{{{one.value}}}{{100}}"
    if one.unit == "degree" and (other.unit == "radian" or (other.unit is None and "\\pi" in other.value)):
        items, _ = split(one.value, {",", ";"})
        return ", ".join(rf"\frac{{({item})\cdot\pi}}{{180}}" for item in items)
    return None


def _percentages(one: Measured, other: Measured) -> list[tuple[str, str]]:
    r"""What to compare where one is an equation that ends in a percentage, `\frac12 = 50\%` or `x = 50\%`.

    Its sides are equal only as fractions. The other may be one, or state a percentage as 50% and 50 do.
    """
    if (fractions := _in_fractions(one)) is None:
        return []
    if (others := _in_fractions(other)) is not None:
        return [(fractions, others)]
    same = [(fractions, other.value)] if other.unit != "%" else []
    return same + [(fractions, rf"\frac{{{other.value}}}{{100}}")] * (number(other.value) is not None)


def _in_fractions(value: Measured) -> str | None:
    r"""`\frac12 = \frac{50}{100}` of an equation `\frac12 = 50\%`; None for others."""
    if value.unit != "%" or "=" not in value.value or "\\approx" in value.value:
        return None
    sides = [side.strip() for side in f"{value.value}%".replace("\\%", "%").split("=")]
    return " = ".join(rf"\frac{{{side[:-1]}}}{{100}}" if side.endswith("%") else side for side in sides)
