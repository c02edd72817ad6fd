import pytest

from rlstep.runtime.counted import counted


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (1, ("sample",), "1 sample"),
        (0, ("sample",), "0 samples"),
        (1200, ("test problem",), "1,200 test problems"),
        (1, ("row repeats", "rows repeat"), "1 row repeats"),
        (2, ("row repeats", "rows repeat"), "2 rows repeat"),
    ],
)
def test_one_is_not_several(number, words, said):
    assert counted(number, *words) == said
