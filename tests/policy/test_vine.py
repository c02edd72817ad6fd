import pytest
import torch

from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.policy.vine import returns, roll_out, states, values

# Two samples of one problem, prompt [9]: steps `1 2 | 3 |` and `1 2 | 4 5`, whose second ends with the completion; a
# sample of another problem without steps.
PROMPTS = [[9], [9], [8]]
COMPLETIONS = [[1, 2, 3, 0], [1, 2, 4, 5], [7]]
TOKENS = [[1, 2], [1, 3], []]


def test_states_that_samples_share_are_one():
    actual = states(PROMPTS, COMPLETIONS, TOKENS)
    assert [(s.prompt_ids, s.written, s.steps, s.places) for s in actual] == [
        ([9], [], 0, [(0, 0), (1, 0)]),
        ([9], [1, 2], 1, [(0, 1), (1, 1)]),
        ([8], [], 0, [(2, 0)]),
    ]


def test_a_state_needs_the_same_prompt_and_the_same_tokens():
    actual = states([[9], [8]], [[1, 2, 3], [1, 2, 3]], [[0, 2], [1, 2]])
    assert [(s.prompt_ids, s.written) for s in actual] == [([9], []), ([9], [1]), ([8], []), ([8], [1, 2])]


def test_long_states_come_first_and_get_what_is_left_of_the_budget():
    todo = states([[9]] * 2, [[1, 2, 3, 4], [5, 6, 7]], [[0, 2, 3], [1, 2]])
    assert [s.written for s in todo] == [[], [1], [1, 2, 3], [5, 6]]
    asked = []

    def sample(prefixes, new_tokens):
        asked.append((prefixes, new_tokens))
        return [[[50, 51, 52, 53, 54], [60]] for _ in prefixes]

    actual = roll_out(todo, sample, budget=5, batch_states=2, batches=2)
    assert asked == [([[9, 1, 2, 3], [9, 5, 6]], 3), ([[9, 1], [9]], 5)]
    # A completion is cut at the budget, its state's tokens included.
    assert actual == [
        [[50, 51, 52, 53, 54], [60]],
        [[1, 50, 51, 52, 53], [1, 60]],
        [[1, 2, 3, 50, 51], [1, 2, 3, 60]],
        [[5, 6, 50, 51, 52], [5, 6, 60]],
    ]


def test_ranks_with_fewer_states_generate_as_often():
    todo, calls = states([[9]], [[1]], [[0]]), []

    def sample(prefixes, new_tokens):
        calls.append(prefixes)
        return [[[1]] for _ in prefixes]

    assert roll_out(todo, sample, budget=4, batch_states=2, batches=3) == [[[1]]]
    assert calls == [[[9]]] * 3


def test_a_return_leaves_out_the_steps_behind_the_state():
    judged = [
        ScoredCompletion([(0, 1), (1, 2), (2, 3)], [5.0, 0.5, 0.25], 1.0, True, True),
        ScoredCompletion([(0, 1)], [5.0], 0.0, False, False),
    ]
    assert returns(judged, 1) == [1.75, 0.0]
    assert returns(judged, 0) == [6.75, 5.0]


def test_values_are_means_put_where_samples_pass_through():
    todo = states(PROMPTS, COMPLETIONS, TOKENS)
    actual = values(todo, [[1.0, 0.0], [1.0, 1.0], [0.0, 0.5]], rows=3)
    torch.testing.assert_close(actual, torch.tensor([[0.5, 1.0], [0.5, 1.0], [0.25, 0.0]]))


@pytest.mark.parametrize("ends", [[], [0]])
def test_one_step_or_none_asks_for_the_prompts_value_alone(ends):
    assert [s.written for s in states([[9]], [[1]], [ends])] == [[]]
