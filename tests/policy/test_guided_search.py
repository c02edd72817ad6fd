"""The search on a scripted engine and a scripted PRM, worked through by hand."""

import pytest

from rlstep.policy.engines.base import Sampling
from rlstep.policy.guided_search import GuidedSearch
from rlstep.policy.search_options import SearchOptions
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Problem

PROBLEM = Problem("a", "1 + 1\n", "2")
VALUES = {"1": 0.9, "2": 0.8, "3": 0.5, "4": 0.1}


class ScriptedPRM:
    """A step's value is that of its text."""

    kind, gives, prompt_format = "prm", "probability", None

    def __init__(self, boundary: Boundary = Boundary()):  # noqa: B008 - it is frozen
        self.boundary = boundary

    def score(self, prompts, completions, steps, cut=False):
        return [[VALUES[text[a:b].strip()] for a, b in spans] for text, spans in zip(completions, steps, strict=True)]


class ShortPRM(ScriptedPRM):
    """Has room for the steps before the first 3."""

    def score(self, prompts, completions, steps, cut=False):
        assert cut, "a row that is too long would end the run"
        read = [spans[: next((k for k, (a, _) in enumerate(spans) if text[a] == "3"), len(spans))]
                for text, spans in zip(completions, steps, strict=True)]  # fmt: skip
        return super().score(prompts, completions, read)


class ScriptedEngine:
    """Writes the given rounds, one text for each beam; `.` is the end token."""

    def __init__(self, tokenizer, rounds):
        self.tokenizer, self.rounds, self.asked, self.seeds = tokenizer, iter(rounds), [], []

    def generate(self, batch):
        raise NotImplementedError

    def go_on(self, begun, boundary):
        self.asked.append(([self.tokenizer.decode(one.written) for one in begun], boundary is not None))
        self.seeds += [one.seed for one in begun]
        written = []
        for text, one in zip(next(self.rounds), begun, strict=True):
            ids = self.tokenizer(text.removesuffix("."), add_special_tokens=False)["input_ids"]
            written.append(ids + [self.tokenizer.eos_token_id] * text.endswith("."))
            assert len(written[-1]) <= one.room
        return written


@pytest.fixture
def search(tokenizer):
    """search(rounds, n, ...): the solutions, and what the engine was asked to go on from in each round."""

    def run(rounds, n=4, verifier=None, max_new_tokens=20, **options):
        options = SearchOptions(**{"search": "beam", "prm": "p", "beam_width": 2} | options)
        engine = ScriptedEngine(tokenizer, rounds)
        guided = GuidedSearch(
            engine, verifier or ScriptedPRM(), options, Sampling(max_new_tokens), tokenizer, PromptFormat("text"),
            [tokenizer.eos_token_id],
        )  # fmt: skip
        return guided.generate([(PROBLEM, sample) for sample in range(n)]), engine

    return run


def test_a_beam_search_of_four_beams_and_width_two(search):
    solutions, engine = search(
        [
            ["1\n", "2\n", "3\n", "4\n"],
            # 0.9 x 0.1, 0.9 x 0.9, ended, 0.8 x 0.8: the second goes on twice, the last once, and the first is dropped.
            ["4\n", "1\n", "3.", "2\n"],
            ["1.", "2.", "1."],
        ]
    )
    assert [asked for asked, _ in engine.asked] == [
        ["", "", "", ""],
        ["1\n", "1\n", "2\n", "2\n"],
        ["1\n1\n", "1\n1\n", "2\n2\n"],
    ]
    assert [s.completion for s in solutions] == ["2\n3", "1\n1\n1", "1\n1\n2", "2\n2\n1"]
    assert [s.sample for s in solutions] == [0, 1, 2, 3]
    assert [s.scores["prm"] for s in solutions] == [[0.8, 0.5], [0.9, 0.9, 0.9], [0.9, 0.9, 0.8], [0.8, 0.8, 0.9]]
    assert solutions[0].steps == [(0, 2), (2, 3)]
    # A number and its newline are one token: 4 + 5 + 6 = 15, among them those of the beams that were dropped.
    assert [s.generated_tokens for s in solutions] == [4, 4, 4, 3]
    assert all(s.finished for s in solutions)


def test_subtrees_do_not_compete(search):
    _, engine = search([["1\n", "2\n", "4\n", "3\n"], ["1.", "1.", "1.", "1."]], search="dvts")
    # Beam search would have dropped the subtree of 3 and 4.
    assert engine.asked[1][0] == ["1\n", "1\n", "3\n", "3\n"]


@pytest.mark.parametrize(
    ("how", "kept"),
    # (0.8, 0.8), (0.9, 0.5) and (0.5, 0.9): by product 0.64, 0.45, 0.45; by the mean 0.8, 0.7, 0.7.
    [("product", "2\n2\n"), ("minimum", "2\n2\n"), ("last", "3\n1\n"), ("mean", "2\n2\n")],
)
def test_the_aggregate_decides(search, how, kept):
    rounds = [["2\n2\n", "1\n3\n", "3\n1\n"], ["1.", "1.", "1."]]
    _, engine = search(rounds, 3, beam_width=3, search_score=how)
    assert engine.asked[1][0] == [kept] * 3


def test_the_last_step_is_written_to_the_end(search):
    solutions, engine = search([["1\n", "4\n"], ["3\n3\n2.", "3."]], 2, search_steps=2)
    assert [until_step for _, until_step in engine.asked] == [True, False]
    assert engine.asked[1][0] == ["1\n", "1\n"]
    assert [s.completion for s in solutions] == ["1\n3\n3\n2", "1\n3"]


def test_an_engine_that_stops_before_a_step_is_over_is_asked_again(search):
    """Blank lines end the step before them, and without a closing text there is none."""
    solutions, engine = search([["1\n", "2\n"], ["\n", "2."], ["2."]], 2)
    assert engine.asked == [(["", ""], True), (["1\n", "1\n"], True), (["1\n\n"], True)]
    assert [s.completion for s in solutions] == ["1\n\n2", "1\n2"]


def test_a_beam_without_room_is_a_solution_that_is_not_finished(search):
    solutions, _ = search([["1\n", "2\n"], ["1\n", "1\n"]], 2, beam_width=1, max_new_tokens=2)
    assert [(s.completion, s.finished) for s in solutions] == [("1\n1\n", False), ("2\n1\n", False)]
    assert [s.generated_tokens for s in solutions] == [2, 2]


def test_steps_are_those_of_the_prm(search):
    prm = ScriptedPRM(Boundary("blank_line"))
    VALUES["1\n2"] = 0.3
    try:
        solutions, engine = search([["1\n", "2\n\n"], ["2\n\n"], ["1.", "1."]], 2, verifier=prm)
    finally:
        del VALUES["1\n2"]
    # "1\n" is no whole step: it goes on alone. Then 0.3 loses against 0.8.
    assert [asked for asked, _ in engine.asked] == [["", ""], ["1\n"], ["2\n\n", "2\n\n"]]
    assert solutions[0].steps == [(0, 3), (3, 4)]


@pytest.mark.parametrize("how", ["product", "minimum", "last", "mean"])
def test_a_beam_that_is_too_long_for_the_prm_is_cut_and_ranks_last(search, how):
    solutions, engine = search(
        [["1\n", "1\n"], ["3\n", "4\n"], ["1.", "3."]], 2, verifier=ShortPRM(), beam_width=2, search_score=how
    )
    # Of what was read, 0.9 is better than 0.9 and 0.1; but the 3 was not read.
    assert engine.asked[2][0] == ["1\n4\n", "1\n4\n"]
    assert [s.completion for s in solutions] == ["1\n4\n1", "1\n4\n3"]
    assert [s.scores["prm"] for s in solutions] == [[0.9, 0.1, 0.9], [0.9, 0.1, None]]
    assert [len(s.steps) for s in solutions] == [3, 3]


def test_a_search_goes_on_where_no_beam_fits(search):
    solutions, engine = search([["3\n", "3\n"], ["1.", "2."]], 2, verifier=ShortPRM())
    assert engine.asked[1][0] == ["3\n", "3\n"]
    assert [s.scores["prm"] for s in solutions] == [[None, None], [None, None]]


def test_each_part_of_each_beam_has_a_seed_of_its_own(search):
    _, engine = search([["1\n", "2\n"], ["\n", "2\n"], ["1\n"], ["1.", "1."]], 2)
    assert len(engine.seeds) == len(set(engine.seeds)) == 7
    # The first are those of samples that are not searched for.
    assert engine.seeds[:2] == [Sampling(20).seed_of(PROBLEM, sample) for sample in range(2)]
