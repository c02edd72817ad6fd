import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary, line_steps

bounded = settings(max_examples=150, deadline=None, derandomize=True)
PIECES = [
    *("a", "B", "7", "é", "数", "🙂", "e\u0301", "\u200b", " ", "  ", "\t", "\n", "\n", "\n\n", "\r\n", "\u3000"),
    *("ки", "Step 3: ", "\nStep 4. ", "**Step 5**", "### Step 6", ". ", ".", "! ", "?", "。", "...", "e.g. ", "3.5"),
    *("$", "$$", "\\(", "\\)", "\\[", "\\]", "\\begin{a}", "\\end{a}", "\\text{", "{", "}", "\\$", "\\"),
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=16).map("".join)
RULES = [Boundary(rule) for rule in ("line", "math_line", "blank_line", "heading", "sentence")] + [
    Boundary("tag", tag) for tag in ("ки", "\n\n", " ")
]


def texts(text: str, rule: str = "line", tag: str | None = None) -> list[str]:
    return [text[start:end] for start, end in Boundary(rule, tag).split(text)]


def sentences(text: str) -> list[str]:
    """The sentences without the spaces between them, which are checked in a test of their own."""
    return [sentence.strip() for sentence in texts(text, "sentence")]


# --- Every rule


@pytest.mark.parametrize("boundary", RULES, ids=lambda boundary: repr(boundary.tag or boundary.rule))
@bounded
@given(text=TEXTS)
def test_steps_cover_everything_after_the_leading_blanks_once_and_in_order(boundary, text):
    steps = boundary.split(text)
    begin = steps[0][0] if steps else len(text)
    assert not text[:begin].strip()
    assert "".join(text[start:end] for start, end in steps) == text[begin:]
    assert all(text[start:end].strip() for start, end in steps)


@bounded
@given(TEXTS)
def test_there_is_a_line_step_for_every_visible_line(text):
    assert len(line_steps(text)) == sum(bool(line.strip()) for line in text.split("\n"))


@pytest.mark.parametrize("boundary", RULES, ids=lambda boundary: repr(boundary.tag or boundary.rule))
def test_text_without_a_visible_character_has_no_steps(boundary):
    assert boundary.split("") == boundary.split(" \n\n \n") == []


@pytest.mark.parametrize("boundary", RULES, ids=lambda boundary: repr(boundary.tag or boundary.rule))
def test_blank_lines_before_the_first_step_are_outside_it(boundary):
    assert boundary.split("\n \n\na")[0] == (4, 5)


@pytest.mark.parametrize(
    "unit",
    ["$ ", "$x ", "$$", "\\(", "\\text{", "{", "}", "\\begin{a}", ". ", "a. ", ".*", "\nStep 1", "\n ", " ", "-"],
)
def test_the_time_is_linear_in_the_text(unit, no_hang):
    text = (unit * 100_000)[:100_000]
    for boundary in RULES:
        assert "".join(text[start:end] for start, end in boundary.split(text)).strip() == text.strip()


# --- Lines and paragraphs


def test_a_step_is_a_line_with_its_newline():
    assert texts("7 + 3 = 10\n10 * 7 = 10\nAnswer: 10") == ["7 + 3 = 10\n", "10 * 7 = 10\n", "Answer: 10"]
    assert Boundary().split("a\nb") == line_steps("a\nb") == [(0, 2), (2, 3)]


def test_blank_lines_belong_to_the_step_before_them():
    assert texts("a\n\n \nb") == ["a\n\n \n", "b"]


def test_a_paragraph_is_a_step():
    assert texts("a\nb\n\n  c\n \n\nd\n", "blank_line") == ["a\nb\n\n", "  c\n \n\n", "d\n"]
    assert texts("a\r\n\r\nb", "blank_line") == ["a\r\n\r\n", "b"]


# --- Tags


def test_a_step_ends_with_its_tag():
    assert texts("7 + 3 ки\nSo 10 ки", "tag", "ки") == ["7 + 3 ки", "\nSo 10 ки"]
    assert texts("a\n\n## b\n\n## c", "tag", "\n\n##") == ["a\n\n##", " b\n\n##", " c"]


def test_text_after_the_last_tag_is_a_step_unless_it_is_blank():
    assert texts("a<extra_0>b", "tag", "<extra_0>") == ["a<extra_0>", "b"]
    assert texts("a<extra_0> \n", "tag", "<extra_0>") == ["a<extra_0> \n"]
    assert texts("no tag\nat all", "tag", "ки") == ["no tag\nat all"]


def test_tags_in_a_row_make_no_further_step():
    assert texts("a ки ки\nки b ки", "tag", "ки") == ["a ки ки\nки", " b ки"]
    assert texts("ки a ки b", "tag", "ки") == ["ки a ки", " b"]
    assert texts("ки ки", "tag", "ки") == ["ки ки"]


def test_a_tag_is_text_and_no_pattern():
    assert texts("a.b+c.b+", "tag", ".b+") == ["a.b+", "c.b+"]


# --- Headings


@pytest.mark.parametrize(
    "heading",
    [
        *("Step 3:", "Step 3.", "Step 3 -", "Step 3 \u2013", "Step 3)", "STEP 3:", "step 3 :", "Step 3.1: a"),
        *("**Step 3**", "**Step 3:**", "**Step 3: add**", "__Step 3__", "*Step 3*", "Step 12-13: both"),
        *("### Step 3", "### Step 3 Add", "## **Step 3**", "#Step 3", "  Step 3:", "- Step 3:", "> **Step 3**"),
    ],
)
def test_a_heading_begins_a_step(heading):
    text = f"Intro.\n\n{heading}\nsome text\n{heading} more"
    assert texts(text, "heading") == ["Intro.\n\n", f"{heading}\nsome text\n", f"{heading} more"]


def test_a_bare_heading_stands_alone_on_its_line():
    assert texts("Step 3\na\nStep 4 more", "heading") == ["Step 3\na\nStep 4 more"]
    assert texts("Step 3\na\nStep 4\nmore", "heading") == ["Step 3\na\n", "Step 4\nmore"]


@pytest.mark.parametrize(
    "prose",
    ["Step 3 is done", "Step 3.5 is", "Step by step:", "Steps 3:", "In Step 3: a", "Step 3-step", "### Stepping 3"],
)
def test_prose_about_a_step_is_no_heading(prose):
    assert texts(f"Step 1: a\n{prose}\nb", "heading") == [f"Step 1: a\n{prose}\nb"]


def test_text_before_the_first_heading_is_a_step_unless_it_is_blank():
    assert texts("Let us see.\nStep 1: a", "heading") == ["Let us see.\n", "Step 1: a"]
    assert texts("\n \nStep 1: a\nStep 2: b\n\n", "heading") == ["Step 1: a\n", "Step 2: b\n\n"]
    assert texts("no heading\nat all", "heading") == ["no heading\nat all"]


# --- Sentences


def test_a_sentence_is_a_step_and_the_space_after_it_begins_the_next():
    assert texts("It is 3. So yes! Is it? Yes.\n\nEnd", "sentence") == [
        "It is 3.",
        " So yes!",
        " Is it?",
        " Yes.\n\n",
        "End",
    ]


def test_what_closes_with_a_sentence_belongs_to_it():
    assert sentences('He says "no." Then (see 3.) **Right.** End.') == [
        'He says "no."',
        "Then (see 3.)",
        "**Right.**",
        "End.",
    ]
    assert sentences("他说「好。」然后走！好") == ["他说「好。」", "然后走！", "好"]


@pytest.mark.parametrize(
    "whole",
    [
        "$a. B$ and $$c. D$$ and \\(e. F\\) and \\[g. H\\] hold",
        "so $$\nx = 1. Y\n$$ and \\[\nx\n\n= 2\n\\] hold",
        "so \\begin{align*}\na. B \\\\[2pt]\nc\n\n\\end{align*} holds",
        "\\begin{a} x. Y \\begin{a} z \\end{a} U. V \\end{a} nests",
        "\\text{if so. Then} and \\frac{a. B}{c. D} and \\boxed{3. {4}. 5}",
        "$\\text{if $x. Y$ is}$ nests, $a + \\text{($x. Y$)} = 1. B$ too",
        "at 3.5 or .5 or 1.000.000 it stays",
        "e.g. Bach, i.e. Johann, cf. Eq. (3), Fig. 2, vs. Dr. J. S. Bach, Prof. U. N. Owen, Ph.D. A",
        "Wait... There, 1, 2, ... Then . . . End",
        "No. 5 and p. 7 are 5! = 120 and 3! Times",
        "1. Add. ",
        "Step 2. Add",
        "so 5. then it goes on",
        "point A. Then B",
        "x = 3 ! + 2",
    ],
)
def test_what_is_one_sentence(whole):
    assert sentences(whole) == [whole.strip()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 3.5. So 4.", ["It is 3.5.", "So 4."]),
        ("Say no. Then p. Then $A$. So", ["Say no.", "Then p.", "Then $A$.", "So"]),
        (
            "We get $x = 3.$ Then \\(y = 4.\\) So $1, 2, ...$ Go",
            ["We get $x = 3.$", "Then \\(y = 4.\\)", "So $1, 2, ...$ Go"],
        ),
        (
            "It costs \\$5. He pays $6. So $11 are left. End",
            ["It costs \\$5.", "He pays $6.", "So $11 are left.", "End"],
        ),
        ("It costs $5. He has $x$ left. End", ["It costs $5.", "He has $x$ left.", "End"]),
        ("She has $<<2*3=6>>6.\nThen $<<6+1=7>>7.", ["She has $<<2*3=6>>6.", "Then $<<6+1=7>>7."]),
        ("He has 5$ now.\nThen 6$. End", ["He has 5$ now.", "Then 6$.", "End"]),
        ("so $ x = 2 $. Then $ y $ is. End", ["so $ x = 2 $.", "Then $ y $ is.", "End"]),
        ("a\nso b. C\n", ["a", "so b.", "C"]),
        ("Is it ...? Maybe", ["Is it ...?", "Maybe"]),
    ],
)
def test_where_sentences_end(text, expected):
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # no closer at all
        ("So \\(x. Then y. End", ["So \\(x.", "Then y.", "End"]),
        ("So \\text{x. Then y.\nEnd", ["So \\text{x.", "Then y.", "End"]),
        ("So \\begin{a} x. Then \\end{b} y. End", ["So \\begin{a} x.", "Then \\end{b} y.", "End"]),
        # the last opener before a closer is its partner
        ("So \\(x. Then \\(y. Z\\) is. End", ["So \\(x.", "Then \\(y. Z\\) is.", "End"]),
        # a dollar sign's partner stands in the same paragraph
        ("So $x. Then y.\n\nMore $z. U$ is. End", ["So $x.", "Then y.", "More $z. U$ is.", "End"]),
        ("So $$x. Then y.\n \nMore. $$z. U$$", ["So $$x.", "Then y.", "More.", "$$z. U$$"]),
        # closers alone
        ("So x\\). Then }. End\\end{a}. Yes", ["So x\\).", "Then }.", "End\\end{a}.", "Yes"]),
    ],
)
def test_openers_without_their_closer_protect_nothing(text, expected):
    assert sentences(text) == expected


# --- The setting


@pytest.mark.parametrize("boundary", RULES, ids=lambda boundary: repr(boundary.tag or boundary.rule))
def test_a_boundary_is_stored_and_read_back(boundary):
    assert Boundary.from_dict(boundary.to_dict()) == boundary


def test_every_rule_splits_another_way():
    text = "Step 1: a. B\nc\n\nd ки e\n\\[ x \\]\nStep 2: f"
    assert len({tuple(boundary.split(text)) for boundary in RULES[:6]}) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lines",), "boundary rule is 'lines'; choose one of line, math_line, blank_line"),
        (("tag",), "needs the text that ends a step, got None"),
        (("tag", ""), "needs the text that ends a step, got ''"),
        (("tag", 3), "needs the text that ends a step, got 3"),
        (("line", "ки"), "boundary tag is 'ки', but rule 'line' has none"),
    ],
)
def test_a_boundary_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Boundary(*arguments)


@pytest.mark.parametrize("stored", ["line", None, {"rule": "line", "tags": None}, {"rule": ["line"]}])
def test_a_stored_boundary_that_cannot_be_read_is_refused(stored):
    with pytest.raises(UserError, match="boundary"):
        Boundary.from_dict(stored)


# --- Lines with display formulas


FORMULAS = r"""To find the area, we use

\[
A = \pi r^2
\]

where $r$ is the radius.
With $r = 3$:
$$
A = 9\pi.
$$
\[ A \approx 28.27 \]
Hence
\begin{align*}
x &= 1 \\[2pt]
y &= 2
\end{align*}
and we are done.
The answer is 28."""


def test_a_display_formula_stays_with_its_sentence():
    assert [text.split() for text in texts(FORMULAS, "math_line")] == [
        part.split()
        for part in (
            "To find the area, we use \\[ A = \\pi r^2 \\] where $r$ is the radius.",
            "With $r = 3$: $$ A = 9\\pi. $$",
            "\\[ A \\approx 28.27 \\]",
            "Hence \\begin{align*} x &= 1 \\\\[2pt] y &= 2 \\end{align*} and we are done.",
            "The answer is 28.",
        )
    ]
    # Taken line by line, openers and closers alone are steps.
    bare = {"\\[", "\\]", "$$", "\\begin{align*}", "\\end{align*}"}
    assert len(bare & {step.strip() for step in texts(FORMULAS)}) == 5
    assert not bare & {step.strip() for step in texts(FORMULAS, "math_line")}


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n\nc",
        "So \\(x = 3\\).\nThen $y$.\n",
        "it costs $$ and\nmore\n\nthan $$ that",
        "an opener \\[\nthat nothing closes\nat all",
        "\\begin{enumerate}\n\\item a\n\\item b\n\\end{enumerate}",
        "a line break \\\\[2pt]\nis no opener \\]\nof a formula",
        "Step 1\nx = 3,\ny = 4",
    ],
)
def test_without_a_display_formula_lines_are_steps(text):
    assert Boundary("math_line").split(text) == line_steps(text)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("\\[ x \\]\nThen", 2),
        ("\\[ x \\]\nso x\nThen", 2),
        ("\\[\nx\n\\]\n\\[\ny\n\\]\nThen", 3),
        ("We get \\[ x\n= 3 \\].\nThen", 2),
        ("We get \\[ x\n= 3 \\],\nwhere\nThen", 2),
        ("It is 3.\n\n\n\\[ x \\]", 1),
        ("a\n\\[ x \\], with\nB\n\\[ y \\]", 2),
        ("\\[ \\begin{cases}\n1\n\\end{cases} \\]\nThen", 2),
    ],
)
def test_how_many_steps_formulas_make(text, steps):
    assert len(Boundary("math_line").split(text)) == steps


def test_formulas_are_found_in_linear_time(no_hang):
    for piece in ("\\[\n", "$$\n", "\\begin{a}\n", "\\]\n", "$$ x $$\n\n", "\\[ x \\]\n"):
        Boundary("math_line").split(piece * 100_000)


def test_a_boundary_is_named_as_it_is_set():
    assert (str(Boundary("math_line")), str(Boundary("tag", "ки"))) == ("math_line", "tag 'ки'")


@pytest.mark.parametrize(
    ("boundary", "text", "whole"),
    [
        (Boundary("line"), "", 0),
        (Boundary("line"), "a", 0),
        (Boundary("line"), "a\n", 1),
        (Boundary("line"), "a\n\n  ", 1),
        (Boundary("line"), "\n a\nb", 1),
        (Boundary("line"), "a\nb\n", 2),
        (Boundary("blank_line"), "a\nb\n", 0),
        (Boundary("blank_line"), "a\nb\n \n", 1),
        (Boundary("tag", "ки"), "a к", 0),
        (Boundary("tag", "ки"), "a ки ки", 1),
        (Boundary("tag", "ки"), "a ки b ки", 2),
    ],
)
def test_whole_steps_stay_as_they_are_whatever_follows(boundary, text, whole):
    assert boundary.whole_steps(text) == whole
    for more in ("a", "1", "数"):
        steps = boundary.split(text + more)
        assert len(steps) == whole + 1
        assert [start for start, _ in steps[:whole]] == [start for start, _ in boundary.split(text)[:whole]]


def test_a_step_ends_with_its_closing_text_where_the_rule_has_one():
    closing = {rule: Boundary(rule).closing for rule in ("line", "blank_line", "math_line", "heading", "sentence")}
    assert closing == {"line": "\n", "blank_line": "\n", "math_line": None, "heading": None, "sentence": None}
    assert Boundary("tag", "ки").closing == "ки"
