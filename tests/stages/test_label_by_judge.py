"""Labels of a chat model: behind a local server that answers, babbles, is slow or down; or in this process."""

import json
import re
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rlstep.cli import main
from rlstep.policy.continuations import Continuations, Continuer
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.label import LabelConfig, label
from rlstep.steps.records import Solution, read_solutions
from rlstep.supervision.chat import KEY_VARIABLE
from tests.supervision.chat_server import Reply, answers, error, serving

ROWS = 12


def solution(number: int) -> Solution:
    """Three steps, of which the judge below says that step `number` % 4 is wrong, or none for 3."""
    return Solution(f"p{number}", f"Problem {number}?", f"one\ntwo\nAnswer: {number}", str(number))


def expected(number: int) -> list:
    return [[0, None, None], [1, 0, None], [1, 1, 0], [1, 1, 1]][number % 4]


def number_of(body: dict) -> int:
    return int(re.search(r"<problem>\nProblem (\d+)\?", body["messages"][0]["content"])[1])


def say(body: dict) -> str:
    number = number_of(body)
    return rf"I looked at all of it. \boxed{{{number % 4 if number % 4 < 3 else -1}}}"


def judge(body: dict) -> Reply:
    return answers(*[say(body)] * body.get("n", 1))


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def config(tmp_path):
    def make(url: str, **options) -> LabelConfig:
        write_rows(tmp_path / "samples.jsonl", (solution(number).to_row() for number in range(ROWS)))
        given = {
            "task": "answers",
            "by": "judge",
            "judge_url": url,
            "judge_model": "m",
            "judge_retry_for": 0.0,
        } | options
        return LabelConfig(str(tmp_path / "samples.jsonl"), str(tmp_path / "labelled.jsonl"), **given)

    return make


def labels(config: LabelConfig) -> list:
    return [one.labels for one in read_solutions(config.out)]


def test_solutions_are_labelled_by_what_the_judge_says(config, caplog):
    with serving(judge) as server:
        given = config(server.url)
        metrics = label(given)
    assert labels(given) == [expected(number) for number in range(ROWS)]
    assert "without a step in a box" not in caplog.text
    assert all(one.correct and one.answer == one.reference for one in read_solutions(given.out))
    # Two answers that agree are a majority of three: the third is not asked for.
    assert len(server.bodies) == ROWS
    assert all(body["n"] == 2 for body in server.bodies)
    of_judge = {name: metrics[name] for name in (
        "judged", "answers", "answers_unread", "no_majority", "prompt_tokens", "completion_tokens", "left_by_budget"
    )}  # fmt: skip
    assert of_judge == {
        "judged": ROWS, "answers": 2 * ROWS, "answers_unread": 0, "no_majority": 0, "prompt_tokens": 100 * ROWS,
        "completion_tokens": 20 * ROWS, "left_by_budget": 0,
    }  # fmt: skip
    record = json.loads(Path(given.out + ".run.json").read_text())
    assert (record["metrics"], record["config"]["judge_model"], record["seed"]) == (metrics, "m", None)


def test_the_reference_is_not_shown_to_the_judge(config, tmp_path):
    with serving(judge) as server:
        given = config(server.url)
        write_rows(given.data, [replace(solution(1), reference="314159").to_row()])
        label(given)
    assert "314159" not in json.dumps(server.bodies)


def test_settings_reach_the_server(config):
    with serving(judge) as server:
        label(config(server.url, votes=5, temperature=0.5, top_p=0.9, max_new_tokens=77,
                     judge_parameters='{"seed": 3}'))  # fmt: skip
    body = server.bodies[0]
    assert {name: body[name] for name in ("model", "n", "temperature", "top_p", "max_tokens", "seed")} == {
        "model": "m", "n": 3, "temperature": 0.5, "top_p": 0.9, "max_tokens": 77, "seed": 3
    }  # fmt: skip


def test_a_field_can_be_taken_out_of_the_request(config):
    with serving(judge) as server:
        label(config(server.url, judge_parameters='{"top_p": null}'))
    assert "top_p" not in server.bodies[0]


def test_no_more_solutions_are_judged_at_a_time_than_asked_for(config):
    for concurrency in (1, 3):
        # Nobody is answered before so many have asked, and a moment later.
        all_asked = threading.Barrier(concurrency)

        def slowly(body: dict, all_asked=all_asked) -> Reply:
            all_asked.wait(60)
            return Reply(judge(body).body, after=0.05)

        with serving(slowly) as server:
            label(config(server.url, judge_concurrency=concurrency))
        assert server.most_at_once == concurrency


def test_a_judge_that_answers_nonsense_labels_nothing_and_that_is_said(config, caplog):
    with serving(lambda body: answers(*["\\boxed{exit()}"] * body["n"])) as server:
        given = config(server.url)
        metrics = label(given)
    assert labels(given) == [[None] * 3] * ROWS
    assert (metrics["no_majority"], metrics["answers_unread"], metrics["answers"]) == (ROWS, 2 * ROWS, 2 * ROWS)
    assert metrics["step_accuracy"] is None
    assert "without a step in a box at the end: 24 of 24 answers of the judge; max_new_tokens 512 may" in caplog.text


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_is_cut_off_is_no_vote(config, reason):
    """A box in the midst of its thoughts is not what it would have ended with."""

    def cut(body: dict) -> Reply:
        text = r"Paragraph 0 might be \boxed{0}, but then"
        return Reply({"choices": [{"message": {"content": text}, "finish_reason": reason}] * body.get("n", 1)})

    with serving(cut) as server:
        metrics = label(config(server.url))
    assert (metrics["answers_unread"], metrics["no_majority"]) == (2 * ROWS, ROWS)
    assert labels(config("http://x")) == [[None] * 3] * ROWS


def test_votes_that_differ_are_settled_by_a_further_one(config):
    """The first two answers to each problem differ; the third agrees with one of them for even problems."""

    def differ(body: dict) -> Reply:
        if body.get("n") == 2:
            return answers(r"\boxed{0}", r"\boxed{1}")
        return answers(r"\boxed{0}" if number_of(body) % 2 == 0 else r"\boxed{2}")

    with serving(differ) as server:
        given = config(server.url)
        metrics = label(given)
    assert labels(given) == [[0, None, None], [None] * 3] * (ROWS // 2)
    assert (metrics["no_majority"], metrics["answers"], len(server.bodies)) == (ROWS // 2, 3 * ROWS, 2 * ROWS)


def test_a_server_that_gives_one_answer_at_a_time_is_asked_again(config):
    with serving(lambda body: answers(say(body))) as server:
        given = config(server.url)
        label(given)
    assert labels(given) == [expected(number) for number in range(ROWS)]
    assert Counter(map(number_of, server.bodies)) == dict.fromkeys(range(ROWS), 2)


def test_a_server_that_gives_too_many_answers_is_refused(config):
    with serving(lambda body: answers(*[say(body)] * 5)) as server:
        given = config(server.url)
        with pytest.raises(UserError, match=r"samples.jsonl, problem 'p\d+', sample 0: .*expected 1 to 2 choices"):
            label(given)
    assert not Path(given.out).exists()


def test_a_server_that_fails_midway_loses_nothing_and_is_asked_for_the_rest(config, tmp_path):
    """Six verdicts are given, then the server is down; the next run asks for the other six alone."""
    gate = threading.Lock()
    left = [6]

    def then_down(body: dict) -> Reply:
        with gate:
            left[0] -= 1
            return judge(body) if left[0] >= 0 else error(503, "overloaded")

    with serving(then_down) as server:
        given = config(server.url, judge_concurrency=3)
        with pytest.raises(UserError, match=r"problem 'p\d+', sample 0: .*status 503 .overloaded.; tried.*kept"):
            label(given)
        assert not Path(given.out).exists()
        partial = Path(given.out + ".partial").read_text().splitlines()
        assert len(partial) == 1 + 6
        server.reply = judge
        server.bodies.clear()
        # A run may go on with more patience: it changes no answer.
        metrics = label(replace(given, judge_concurrency=1, judge_request_timeout=9.0, judge_retry_for=9.0))
    assert len(server.bodies) == 6
    assert labels(given) == [expected(number) for number in range(ROWS)]
    assert metrics["prompt_tokens"] == 100 * ROWS
    assert not Path(given.out + ".partial").exists()


def test_verdicts_in_flight_at_a_failure_are_kept(config):
    """Problem 0 is refused while the others are under way: their answers come after it, and are kept."""
    all_asked = threading.Barrier(4)

    def one_refused(body: dict) -> Reply:
        all_asked.wait(60)
        return error(400, "context length") if number_of(body) == 0 else Reply(judge(body).body, after=0.2)

    with serving(one_refused) as server:
        given = config(server.url, judge_concurrency=4)
        with pytest.raises(UserError, match="problem 'p0', sample 0: .*status 400: context length"):
            label(given)
    assert len(Path(given.out + ".partial").read_text().splitlines()) == 1 + 3
    assert len(server.bodies) == 4


def test_a_half_written_verdict_is_asked_for_again(config):
    with serving(lambda body: error(503) if number_of(body) == 11 else judge(body)) as server:
        given = config(server.url, judge_concurrency=1)
        with pytest.raises(UserError):
            label(given)
        partial = Path(given.out + ".partial")
        content = partial.read_text()
        partial.write_text(content[: len(content) - 20])
        server.reply = judge
        server.bodies.clear()
        label(given)
    assert {number_of(body) for body in server.bodies} == {10, 11}
    assert labels(given) == [expected(number) for number in range(ROWS)]


@pytest.mark.parametrize("change", [{"votes": 1}, {"judge_model": "other"}, {"temperature": 0.5}])
def test_verdicts_of_other_settings_are_neither_taken_over_nor_lost(config, change):
    with serving(lambda body: judge(body) if number_of(body) < 6 else error(503)) as server:
        given = config(server.url, judge_concurrency=1)
        with pytest.raises(UserError):
            label(given)
        server.reply = judge
        server.bodies.clear()
        with pytest.raises(UserError, match="holds 6 finished parts of a run with other data or settings"):
            label(replace(given, **change))
        assert not server.bodies
        label(given)
    assert {number_of(body) for body in server.bodies} == set(range(6, ROWS))


def test_a_slow_judge_is_waited_for_no_longer_than_said(config):
    with serving(lambda body: Reply(judge(body).body, after=0.5)) as server:
        given = config(server.url, judge_request_timeout=0.1, judge_concurrency=1)
        with pytest.raises(UserError, match="has not answered within 0.1 seconds"):
            label(given)


def test_a_judge_that_is_down_for_a_moment_is_asked_again(config):
    left = [error(503), error(429)]
    with serving(lambda body: left.pop() if left else judge(body)) as server:
        given = config(server.url, judge_retry_for=60.0, judge_concurrency=1)
        label(given)
    assert len(server.bodies) == 2 + ROWS
    assert labels(given) == [expected(number) for number in range(ROWS)]


def test_what_the_budget_leaves_open_is_written_without_labels(config):
    """A verdict takes 120 tokens: after five of them 600 are spent."""
    with serving(judge) as server:
        given = config(server.url, judge_concurrency=1, token_budget=600)
        metrics = label(given)
    assert len(server.bodies) == 5
    assert labels(given) == [expected(number) for number in range(5)] + [[None] * 3] * (ROWS - 5)
    assert (metrics["judged"], metrics["left_by_budget"]) == (5, ROWS - 5)


def test_a_budget_needs_a_server_that_counts(config):
    with serving(lambda body: answers(*[say(body)] * body["n"], usage=None)) as server:
        with pytest.raises(UserError, match="does not say how many tokens"):
            label(config(server.url, token_budget=600))
        given = config(server.url)
        metrics = label(given)
    assert labels(given) == [expected(number) for number in range(ROWS)]
    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (None, None)


def test_labels_that_are_there_stay_and_are_not_asked_for(config):
    with serving(judge) as server:
        given = config(server.url)
        mine = replace(solution(0), steps=[(0, 4), (4, 8), (8, 17)], labels=[0.25, None, None], neutral=[1])
        empty = replace(solution(2), completion="")
        write_rows(given.data, [mine.to_row(), solution(1).to_row(), empty.to_row()])
        with pytest.raises(UserError, match="it has step labels already"):
            label(given)
        label(replace(given, labelled="keep"))
    assert labels(given) == [[0.25, None, None], expected(1), []]
    assert [number_of(body) for body in server.bodies] == [1]


def test_the_key_is_in_no_file(config, monkeypatch, tmp_path):
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    with serving(judge) as server:
        label(config(server.url))
    assert server.keys == ["Bearer sk-secret"] * ROWS
    assert not [path for path in tmp_path.iterdir() if "sk-secret" in path.read_text()]


def test_the_command_fails_in_one_line(config, capsys):
    with serving(lambda body: error(401, "no such key")) as server:
        given = config(server.url)
        options = ["--by", "judge", "--judge_url", server.url, "--judge_model", "m", "--task", "answers"]
        assert main(["label", "--data", given.data, "--out", given.out, *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rlstep label: error:")
    assert "asks for a key (status 401: no such key). Set RLSTEP_JUDGE_KEY" in said


# --- In this process


class Speaks:
    """Stands for a chat model's sampling: it says what the server above says.

    Attributes:
        dies_at: the draw before which it is killed.
        finishes: whether it ends its answers, or is cut off after them.
        asked: (problem, number of answers) of each draw.
    """

    def __init__(self, dies_at: int | None = None, finishes: bool = True):
        self.dies_at, self.finishes, self.asked, self.seeds = dies_at, finishes, [], []

    def __call__(self, continuer, beginnings, numbers, seed) -> Continuations:
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        bodies = [{"messages": prompt} for prompt, begun in beginnings]
        self.asked.append(list(zip(map(number_of, bodies), numbers, strict=True)))
        self.seeds.append(seed)
        texts = [[say(body)] * number for body, number in zip(bodies, numbers, strict=True)]
        finished = [[self.finishes] * number for number in numbers]
        return Continuations(texts, finished, 10 * sum(numbers), 100 * len(numbers))


@pytest.fixture
def speaks(monkeypatch):
    def use(*options, **more) -> Speaks:
        model = Speaks(*options, **more)
        monkeypatch.setattr(Continuer, "draw", lambda self, *given: model(self, *given))
        monkeypatch.setattr(Continuer, "check_room", lambda *_: None)
        return model

    return use


@pytest.fixture
def local(config, chat_lm, tmp_path):
    """The small chat model, which reads one character at a time, with room for the question."""
    path = tmp_path / "judge"
    shutil.copytree(chat_lm, path)
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 4096}))

    def make(**options) -> LabelConfig:
        given = {"judge_url": None, "judge_model": None, "judge": str(path), "judge_retry_for": 300.0, "batch_size": 8}
        return config(None, **given | options)

    return make


def test_a_model_in_this_process_judges_in_batches(local, speaks):
    model = speaks()
    metrics = label(local())
    assert labels(local()) == [expected(number) for number in range(ROWS)]
    # Eight answers are two of four solutions.
    assert [[number for _, number in draw] for draw in model.asked] == [[2] * 4] * 3
    assert len(set(model.seeds)) == 3
    assert json.loads(Path(local().out + ".run.json").read_text())["seed"] == 0
    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (100 * ROWS, 20 * ROWS)


def test_an_answer_in_this_process_that_is_cut_off_is_no_vote(local, speaks):
    speaks(finishes=False)
    metrics = label(local())
    assert (metrics["answers"], metrics["answers_unread"], metrics["no_majority"]) == (2 * ROWS, 2 * ROWS, ROWS)
    assert labels(local()) == [[None] * 3] * ROWS


def test_a_killed_judge_in_this_process_goes_on(local, speaks, tmp_path):
    whole = speaks()
    metrics = label(local())
    expected_file = Path(local().out).read_text()
    Path(local().out).unlink()
    speaks(dies_at=2)
    with pytest.raises(KeyboardInterrupt):
        label(local())
    rest = speaks()
    assert label(local()) == metrics
    assert (rest.asked, rest.seeds) == (whole.asked[2:], whole.seeds[2:])
    assert Path(local().out).read_text() == expected_file


def test_a_budget_ends_between_batches(local, speaks):
    speaks()
    metrics = label(local(token_budget=700))
    # A batch takes 4 x 100 + 8 x 10 tokens.
    assert (metrics["judged"], metrics["left_by_budget"]) == (8, 4)


def test_a_real_chat_model_reads_its_template_and_its_seed(local, monkeypatch):
    def run(**options) -> list:
        texts, draw = [], Continuer.draw
        with monkeypatch.context() as patch:
            patch.setattr(Continuer, "draw", lambda *given: texts.append(draw(*given)) or texts[-1])
            given = local(votes=1, max_new_tokens=3, **options)
            write_rows(given.data, [solution(0).to_row()])
            metrics = label(given)
        assert metrics["answers_unread"] == 1
        return [one.texts for one in texts]

    assert run() == run() != run(seed=1)


def test_a_model_without_room_is_refused_before_it_judges(local):
    with pytest.raises(
        UserError, match=r"samples.jsonl, problem 'p\d+', sample 0: \d+ tokens of prompt and completion"
    ):
        label(local(max_new_tokens=10_000))


def test_a_model_without_a_chat_template_is_no_judge(local, tiny_lm):
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        label(local(judge=tiny_lm))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge_url": None, "judge_model": None}, "by 'judge' needs judge, the path of a chat model, or judge_url"),
        ({"judge": "x"}, "one of them"),
        ({"judge_model": None}, "judge_url needs judge_model"),
        ({"votes": 0}, "votes is 0; it must be at least 1"),
        ({"temperature": 0.0}, "temperature 0 gives one answer 3 times over"),
        ({"top_k": 5}, "judge_url is a server's, so top_k would do nothing; see judge_parameters"),
        ({"seed": 5, "dtype": "float16"}, "so seed, dtype would do nothing"),
        ({"judge_concurrency": 0}, "judge_concurrency is 0; it must be at least 1"),
        ({"judge_request_timeout": 0.0}, "judge_request_timeout is 0.0; it must be above 0"),
        ({"judge_retry_for": -1.0}, "judge_retry_for is -1.0; it must be at least 0"),
        ({"token_budget": 0}, "token_budget is 0; it must be at least 1"),
        ({"judge_parameters": "seed"}, "judge_parameters is seed; give a mapping"),
        ({"judge_parameters": {"n": 5, "model": "x"}}, "judge_parameters has model, n, which every request has"),
        ({"judge_parameters": {"messages": []}}, "judge_parameters has messages"),
        ({"judge_parameters": {"stream": True}}, "judge_parameters has stream"),
        ({"judge_parameters": {"temperature": 1.5}, "temperature": 0.5}, "judge_parameters replaces temperature"),
        ({"judge_parameters": {"max_tokens": None}, "max_new_tokens": 9}, "judge_parameters replaces max_new_tokens"),
        ({"judge_parameters": {"temperature": 0}}, "temperature 0 gives one answer 3 times over"),
        ({"judge_url": None, "judge": "x"}, "judge_url is null, so judge_model, judge_retry_for would do nothing"),
        ({"by": "checker"}, "by is 'checker', so judge_url, judge_model, judge_retry_for would do nothing"),
        ({"rollouts": 3}, "by is 'judge', so rollouts would do nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, options, message):
    with pytest.raises(UserError, match=message):
        config("http://127.0.0.1:1/v1", **options)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("host:1", "judge_url: 'host:1' is no server's address; give http"),
        ("http://host/v1/chat/completions/", "leave /chat/completions out"),
    ],
)
def test_an_address_that_is_none_is_refused(config, url, message):
    with pytest.raises(UserError, match=message):
        config(url)
