from hypothesis import given, settings
from hypothesis import strategies as st

from rlstep.steps.boundaries import line_steps

TEXT = st.text(alphabet="ab 1é数\n", max_size=40)


def texts(text: str) -> list[str]:
    return [text[start:end] for start, end in line_steps(text)]


def test_a_step_is_a_line_with_its_newline():
    assert texts("7 + 3 = 10\n10 * 7 = 10\nAnswer: 10") == ["7 + 3 = 10\n", "10 * 7 = 10\n", "Answer: 10"]


def test_blank_lines_belong_to_the_step_before_them():
    assert texts("a\n\n \nb") == ["a\n\n \n", "b"]


def test_text_without_a_visible_character_has_no_steps():
    assert line_steps("") == []
    assert line_steps(" \n\n") == []


def test_blank_lines_before_the_first_step_are_outside_it():
    assert line_steps("\n \na") == [(3, 4)]


@settings(deadline=None)
@given(TEXT)
def test_steps_cover_everything_after_the_leading_blanks_once_and_in_order(text):
    steps = line_steps(text)
    begin = steps[0][0] if steps else len(text)
    assert not text[:begin].strip()
    assert "".join(text[start:end] for start, end in steps) == text[begin:]
    assert all(text[start:end].strip() for start, end in steps)
    assert len(steps) == sum(bool(line.strip()) for line in text.split("\n"))
