"""What the site's parser is given of docstrings."""

from docstrings import rewritten


def test_arguments_described_together_get_an_entry_each():
    given = """Scores.

Args:
    prompts, completions: one pair per row; equal rows
        are scored once.
    steps: spans, in order, one list per row.
    *args, **kwargs: the rest.

Returns:
    a, b: not arguments.
"""
    assert (
        rewritten(given)
        == """Scores.

Args:
    prompts: one pair per row; equal rows
        are scored once.
    completions: one pair per row; equal rows
        are scored once.
    steps: spans, in order, one list per row.
    *args: the rest.
    **kwargs: the rest.

Returns:
    a, b: not arguments.
"""
    )


def test_attributes_are_taken_apart_too():
    assert rewritten("Attributes:\n    low, high: the interval.") == (
        "Attributes:\n    low: the interval.\n    high: the interval."
    )


def test_a_block_is_announced_by_one_colon():
    assert rewritten("The schemes::\n\n    sum  p_k") == "The schemes:\n\n    sum  p_k"
    assert rewritten("A list[::2] stays.") == "A list[::2] stays."
