from fractions import Fraction

import pytest

from rlstep.tasks.calculator import annotations_hold, evaluate, holds


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("16-3-4", 9), ("2+3*4", 14), ("(2+3)*4", 20), ("12/60", Fraction(1, 5)), ("8/4/2", 1), ("-3+5", 2),
        ("2*-3", -6), ("+30+46", 76), (".82*100", 82), ("1.", 1), ("$5+$2.50", Fraction(15, 2)),
        ("20%*50", 10), ("1,200/4", 300),
        ("((7))", 7), (" 1 + 1 ", 2), ("0.1+0.2", Fraction(3, 10)), ("1/3*3", 1), ("80000*150%", 120_000),
    ],
)  # fmt: skip
def test_arithmetic_is_exact(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "1+", "*2", "(1", "1)", "1 2", "2**3", "9^9", "x+1", "7%2", "5//2", "1/0", "1/(2-2)", "1,2+1", "1e5",
     "__import__('os')", "1+" * 100 + "1", "(" * 21 + "1" + ")" * 21, "1..2", "()"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(expression):
    with pytest.raises(ValueError, match=r"."):
        evaluate(expression)


@pytest.mark.parametrize(
    ("annotation", "right"),
    [
        ("16-3-4=9", True), ("16-3-4=8", False), ("0.1+0.2=0.3", True), ("0.1+0.2=0.30000000000000004", False),
        ("2.46/3=.82", True), ("81/3=27.00", True), ("100*.5=$50", True), ("1/4=25%", True), ("3*4=6*2", True),
        ("10/3=3.33", True), ("10/3=3.34", False), ("10/3=3.3", True), ("10/3=3", False), ("10/3=1.1+2.2", False),
        ("1/8=0.13", True), ("1/8=0.12", True), ("1/3=33.3%", True), ("1/3=33%", False), ("-10/3=-3.33", True),
        ("9", False), ("=9", False), ("3*3=", False), ("1+2=3=3", False), ("1/0=0", False), ("3 apples=3", False),
    ],
)  # fmt: skip
def test_annotations_are_held_to_their_arithmetic(annotation, right):
    assert holds(annotation) is right


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        ("no annotation", None), ("a <<1+1=2>>2", True), ("<<1+1=2>>2 and <<2*2=5>>5", False),
        ("<<1+1=2>>2, <<2*2=4>>4", True), ("<<1+1=2", False),
        ("1+1=2>>", False), ("<<>>", False), ("<<1+1=2>> <<", False), ("<<1+<<1=2>>", False),
    ],
)  # fmt: skip
def test_a_line_holds_when_all_its_annotations_do(line, holds):
    assert annotations_hold(line) is holds
