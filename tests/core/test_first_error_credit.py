import pytest
import torch

from rlstep.core.first_error_credit import first_error

# One problem, four samples: right, wrong after 3 good tokens of 4, wrong from the first token, cut off and masked.
OUTCOMES = torch.tensor([1.0, 0.0, 0.0, 0.0])
WRONG = torch.tensor([0, 1, 1, 1])
GOOD = torch.tensor([2, 3, 0, 0])
MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
NO_MARGIN = torch.zeros(4, dtype=torch.long)


def test_the_good_prefix_alone_keeps_credit():
    """VPPO, equation 7, alpha 0.5. Means over tokens: 1, 0.5 * 3/4, 0 and 0; of these 1.375 / 4 = 0.34375."""
    advantages_BT = first_error(OUTCOMES, WRONG, GOOD, NO_MARGIN, MASK, 4, weight=0.5)
    b = 0.34375
    expected = [[1 - b, 1 - b, 0, 0], [0.5 - b] * 3 + [-b], [-b, 0, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(advantages_BT, torch.tensor(expected))


def test_the_margin_is_taken_off_the_prefixs_end():
    """Of 3 good tokens one is paid: 0.5 / 4 on average, and the baseline is (1 + 0.125) / 4."""
    advantages_BT = first_error(OUTCOMES, WRONG, GOOD, torch.tensor([0, 2, 2, 0]), MASK, 4, weight=0.5)
    b = 0.28125
    torch.testing.assert_close(advantages_BT[1], torch.tensor([0.5 - b, -b, -b, -b]))


def test_the_floor_spares_prefixes_below_the_mean():
    """Equation 8. Weight 0.2: the baseline is (1 + 0.15) / 4 = 0.2875, above 0.2; what comes after the error stays."""
    plain_BT = first_error(OUTCOMES, WRONG, GOOD, NO_MARGIN, MASK, 4, weight=0.2)
    raised_BT = first_error(OUTCOMES, WRONG, GOOD, NO_MARGIN, MASK, 4, weight=0.2, floor=True)
    torch.testing.assert_close(plain_BT[1], torch.tensor([-0.0875] * 3 + [-0.2875]))
    torch.testing.assert_close(raised_BT[1], torch.tensor([0.0] * 3 + [-0.2875]))
    torch.testing.assert_close(raised_BT[[0, 2, 3]], plain_BT[[0, 2, 3]])


def test_without_weight_it_is_the_outcome_against_the_groups_mean():
    advantages_BT = first_error(OUTCOMES, WRONG, GOOD, NO_MARGIN, MASK, 4, weight=0.0)
    torch.testing.assert_close(advantages_BT, (OUTCOMES - 0.25)[:, None] * MASK)


def test_groups_do_not_touch_each_other():
    both = [torch.cat([x, y]) for x, y in ((OUTCOMES, 5 + OUTCOMES), (WRONG, WRONG), (GOOD, GOOD))]
    together_BT = first_error(*both, torch.cat([NO_MARGIN] * 2), torch.cat([MASK] * 2), 4)
    torch.testing.assert_close(together_BT[:4], first_error(OUTCOMES, WRONG, GOOD, NO_MARGIN, MASK, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"good_tokens_B": torch.tensor([0, 5, 0, 0])}, "more tokens than its completion"),
        ({"weight": 1.5}, r"weight=1.5 must be in \[0, 1\]"),
        ({"group_size": 3}, "4 rows do not make groups of 3"),
        ({"wrong_B": torch.tensor([1, 0])}, r"wrong answers have shape \(2,\) for 4 rows"),
        ({"mask_BT": torch.tensor([[0, 1]] * 4)}, "a one after a zero"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    given = {
        "outcomes_B": OUTCOMES,
        "wrong_B": WRONG,
        "good_tokens_B": GOOD,
        "margins_B": NO_MARGIN,
        "mask_BT": MASK,
        "group_size": 4,
    }
    with pytest.raises(ValueError, match=message):
        first_error(**given | changes)
