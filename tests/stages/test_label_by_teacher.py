"""Labels of a PRM: threshold, outcome, scores in the file, and a real one that is loaded where all verifiers are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.label import LabelConfig, _made_by, label
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Solution, read_solutions
from rlstep.supervision import runs
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.scoring.scorer import TooLong
from rlstep.verifiers.serving.server import ScoreServer
from tests.verifiers.serving.servers import opened, running

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
TEXT = "7 + 3 = 10\n10 * 7 = 10\nAnswer: 10"


def solution(sample: int = 0, text: str = TEXT, **more) -> Solution:
    return Solution("p", PROMPT, text, "10", sample, **more)


class Known:
    """A PRM whose probabilities are known: those of its list, in turn, by the sample's place in the file."""

    kind, boundary, prompt_format = "prm", Boundary(), None

    def __init__(self, *probs: list[float], dies_at: int | None = None):
        self.probs, self.dies_at, self.scored = iter(probs), dies_at, 0

    def score(self, prompts, completions, steps=None):
        actual = []
        for spans in steps:
            if self.scored == self.dies_at:
                raise KeyboardInterrupt
            self.scored += 1
            actual.append(next(self.probs)[: len(spans)])
        return actual


@pytest.fixture
def config(tmp_path):
    def make(solutions, **options) -> LabelConfig:
        write_rows(tmp_path / "samples.jsonl", (one.to_row() for one in solutions))
        given = {"task": "arithmetic", "by": "teacher", "teacher": "large"} | options
        return LabelConfig(str(tmp_path / "samples.jsonl"), str(tmp_path / "labelled.jsonl"), **given)

    return make


@pytest.fixture
def known(monkeypatch):
    """Makes `Known` the verifier that is loaded, whatever the path; its options are kept."""

    def use(*probs: list[float], **more) -> Known:
        verifier = Known(*probs, **more)
        monkeypatch.setattr("rlstep.verifiers.serving.identity.verifier_identity", lambda path: {"of": path})
        monkeypatch.setattr(
            "rlstep.verifiers.load.load_verifier",
            lambda path, **options: setattr(verifier, "options", options) or verifier,
        )
        return verifier

    return use


def labels(config: LabelConfig) -> list:
    return [one.labels for one in read_solutions(config.out)]


def test_labels_go_up_to_the_first_step_whose_p_negative_is_above_the_threshold(config, known):
    given = config([solution(0), solution(1), solution(2)])
    known([0.81, 0.8, 0.99], [0.9, 0.79, 0.1], [0.1, 0.9, 0.9])
    metrics = label(given)
    # 1 - 0.80 is not above 0.20; 1 - 0.79 is.
    assert labels(given) == [[1, 1, 1], [1, 0, None], [0, None, None]]
    assert (metrics["rows"], metrics["labelled_steps"], metrics["step_accuracy"]) == (3, 6, 4 / 6)
    known([0.81, 0.8, 0.99], [0.9, 0.79, 0.1], [0.1, 0.9, 0.9])
    label(replace(given, p_negative=0.85))
    assert labels(given) == [[1, 1, 1], [1, 1, 0], [0, None, None]]
    known([0.3, 0.299, 0.9], [0.9, 0.3, 0.3], [0.31, 0.3, 0.1])
    label(replace(given, p_negative=0.7))  # 1 - 0.7 is above 0.3 in floating point
    assert labels(given) == [[1, 0, None], [1, 1, 1], [1, 1, 0]]


def test_the_answer_or_the_teacher_says_what_is_correct(config, known):
    """The answers of the first two are right, that of the third wrong; the teacher passes the first and the third."""
    wrong = TEXT.replace("= 10\nAnswer: 10", "= 11\nAnswer: 11")
    rows = [solution(0), solution(1), solution(2, wrong)]
    probs = [[0.9, 0.9, 0.9], [0.9, 0.1, 0.9], [0.9, 0.9, 0.9]]
    given = config(rows)
    known(*probs)
    label(given)
    assert [one.correct for one in read_solutions(given.out)] == [True, True, False]
    known(*probs)
    label(replace(given, outcome_by="teacher"))
    assert [one.correct for one in read_solutions(given.out)] == [True, False, True]


def test_what_states_no_answer_is_no_right_solution(config, known):
    given = config([solution(0, "7 + 3 = 10\n", finished=False), solution(1, "")], outcome_by="teacher")
    known([0.9], [])
    label(given)
    assert [(one.labels, one.correct) for one in read_solutions(given.out)] == [([1], False), ([], False)]


def test_labels_that_are_there_stay(config, known):
    mine = solution(0, steps=[(0, 11), (11, 23), (23, 33)], labels=[0, None, None])
    given = config([mine, solution(1)])
    known([0.9] * 3)
    with pytest.raises(UserError, match="it has step labels already"):
        label(given)
    known([0.9] * 3)
    label(replace(given, labelled="keep"))
    assert labels(given) == [[0, None, None], [1, 1, 1]]
    # The teacher's outcome is of all solutions.
    known([0.9, 0.1, 0.9], [0.9] * 3)
    label(replace(given, labelled="keep", outcome_by="teacher"))
    assert labels(given) == [[0, None, None], [1, 1, 1]]
    assert [one.correct for one in read_solutions(given.out)] == [False, True]


def test_scores_in_the_file_are_taken_and_nothing_is_loaded(config):
    spans = [(0, 11), (11, 23), (23, 33)]
    rows = [solution(0, steps=spans, scores={"large": [0.9, 0.7, 0.9], "prm": [0.1] * 3})]
    given = config(rows, teacher=None, teacher_score="large")
    label(given)
    assert labels(given) == [[1, 0, None]]
    assert read_solutions(given.out)[0].scores == rows[0].scores
    with pytest.raises(UserError, match=r"problem 'p', sample 0: it has no scores 'huge' \(there are: large, prm\)"):
        label(replace(given, teacher_score="huge"))
    given = config([replace(rows[0], scores={"large": [3.0, -1.0, 0.5]})], teacher=None, teacher_score="large")
    with pytest.raises(UserError, match="are no probabilities"):
        label(given)


def test_a_killed_run_scores_what_is_not_written(config, known, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "CHUNK", 2)
    rows = [solution(sample) for sample in range(5)]
    probs = [[0.9, 0.9 - sample / 5, 0.9] for sample in range(5)]
    given = config(rows)
    known(*probs)
    whole = label(replace(given, out=str(tmp_path / "whole.jsonl")))
    known(*probs, dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        label(given)
    assert not Path(given.out).exists()
    # Chunks have one or two rows, and those before the kill are kept.
    written = sum(1 for part in Path(given.out + ".partial").glob("*.jsonl") for _ in part.open())
    assert written in (2, 3)
    rest = known(*probs[written:])
    assert label(given) == whole
    assert rest.scored == 5 - written
    assert Path(given.out).read_text() == (tmp_path / "whole.jsonl").read_text()


@pytest.mark.parametrize("change", [{"p_negative": 0.5}, {"outcome_by": "teacher"}, {"teacher": "larger"}])
def test_labels_of_other_settings_are_not_taken_over(config, known, monkeypatch, change):
    monkeypatch.setattr(runs, "CHUNK", 1)
    given = config([solution(0), solution(1)])
    known([0.9, 0.7, 0.9], [0.9] * 3, dies_at=1)
    with pytest.raises(KeyboardInterrupt):
        label(given)
    fresh = known([0.9, 0.7, 0.9], [0.9] * 3)
    label(replace(given, **change))
    assert fresh.scored == 2


def test_a_real_prm_is_loaded_where_all_verifiers_are(config, verifier_paths, tmp_path):
    """Its labels are those of its own scores in the file."""
    given = config([solution(0), solution(1, "7 + 3 = 9\nAnswer: 9")], teacher=verifier_paths["prm"], p_negative=0.5)
    label(given)
    scored = str(tmp_path / "scored.jsonl")
    score(ScoreConfig(verifier_paths["prm"], given.data, scored, name="large"))
    from_file = str(tmp_path / "from_file.jsonl")
    label(replace(given, data=scored, out=from_file, teacher=None, teacher_score="large"))
    assert labels(given) == labels(replace(given, out=from_file))
    record = json.loads(Path(given.out + ".run.json").read_text())
    assert (record["config"]["teacher"], record["seed"]) == (verifier_paths["prm"], None)


def test_options_reach_the_verifier(config, known):
    given = config([solution()])
    assert label_options(given, known) == {"dtype": None, "trust_remote_code": False, "boundary": Boundary()}
    given = replace(given, dtype="bfloat16", trust_remote_code=True, task="answers", boundary="blank_line")
    assert label_options(given, known) == {
        "dtype": "bfloat16", "trust_remote_code": True, "boundary": Boundary("blank_line")
    }  # fmt: skip
    # How a server loads its verifier is its own affair.
    assert label_options(replace(config([solution()]), teacher="http://host:1"), known) == {
        "dtype": None, "trust_remote_code": False
    }  # fmt: skip


def label_options(config: LabelConfig, known) -> dict:
    verifier = known([0.9] * 3)
    verifier.boundary = config.steps
    label(config)
    return verifier.options


def test_an_orm_is_no_teacher(config, verifier_paths):
    with pytest.raises(UserError, match="is an ORM: it scores beginnings, not steps"):
        label(config([solution()], teacher=verifier_paths["orm"]))


def test_a_teacher_of_other_steps_is_refused(config, verifier_paths, known):
    given = config([solution()], teacher=verifier_paths["prm"], task="answers", boundary="blank_line")
    with pytest.raises(UserError, match="was taught steps by line, not blank_line"):
        label(given)
    known([0.9] * 3)
    with pytest.raises(UserError, match="http://host:1 was taught steps by line, and boundary is blank_line"):
        label(replace(given, teacher="http://host:1"))


def test_a_teacher_of_other_prompts_is_refused(config, known):
    from rlstep.steps.prompts import PromptFormat

    known([0.9] * 3).prompt_format = PromptFormat("text")
    chats = solution(prompt_format={"form": "chat"})
    with pytest.raises(
        UserError, match=r"the teacher was taught prompt_format text, not chat, .*problem 'p' and others"
    ):
        label(config([chats]))


def test_a_solution_that_is_too_long_is_named(config, known, monkeypatch):
    def score(*_):
        raise TooLong(1, "9000 tokens exceed the verifier's 4096 positions.")

    known().score = score
    with pytest.raises(UserError, match="samples.jsonl, problem 'p', sample 1: 9000 tokens exceed"):
        label(config([solution(0), solution(1)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": None}, "by 'teacher' needs teacher, the path of a PRM, or teacher_score"),
        ({"teacher_score": "x"}, "one of them"),
        ({"p_negative": 1.0}, "p_negative is 1.0; it must be at least 0 and below 1"),
        ({"outcome_by": "me"}, "outcome_by is 'me'; it must be one of answer, teacher"),
        ({"teacher": None, "teacher_score": "x", "dtype": "float16"}, "so dtype would do nothing"),
        ({"teacher": "http://h:1", "trust_remote_code": True}, "a server's address, so trust_remote_code would do"),
        ({"by": "checker"}, "by is 'checker', so teacher would do nothing; set by to 'teacher'"),
        ({"votes": 5}, "by is 'teacher', so votes would do nothing"),
        ({"task": None}, "by 'teacher' needs task"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, options, message):
    with pytest.raises(UserError, match=message):
        config([solution()], **options)


def test_labels_are_those_of_a_teacher_and_not_of_an_address(config, verifier_paths):
    """What a run that goes on may keep: the rows of the same teacher, wherever it is served now."""
    teacher = RewardModel.from_pretrained(verifier_paths["prm"], device="cpu")

    def made_by(fingerprint: str, port: int = 0) -> tuple[str, int]:
        server = ScoreServer("127.0.0.1", port, "prm", fingerprint=fingerprint)
        with running(opened(server, teacher)):
            return _made_by(config([solution()], teacher=server.url)), server.port

    first, port = made_by("first")
    assert made_by("first")[0] == first
    assert made_by("second", port)[0] != first
    path = verifier_paths["prm"]
    vllm = [_made_by(config([solution()], teacher=f"vllm+http://gpu{k}:8000/{path}")) for k in range(2)]
    assert vllm[0] == vllm[1] == _made_by(config([solution()], teacher=path)) != first
