"""Numbers of things in words, so that one of them is not called several."""


def counted(number: int, one: str, several: str = "") -> str:
    """A number with what is counted, and what is said of it.

    >>> counted(1, "row"), counted(1200, "row"), counted(1, "row is", "rows are"), counted(0, "row is", "rows are")
    ('1 row', '1,200 rows', '1 row is', '0 rows are')

    Args:
        number: how many.
        one: the words for one.
        several: for any other number; by default those for one with an s.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"
