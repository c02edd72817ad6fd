"""A verifier behind HTTP: the same scores to the last bit, and an answer to whatever may go wrong on either side."""

import json
import math
import random
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlstep import __version__
from rlstep.policy.rewards.sources import check_fit
from rlstep.runtime.errors import UserError
from rlstep.stages.serve import ServeConfig
from rlstep.steps.boundaries import Boundary
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving import app
from rlstep.verifiers.serving import client as remote
from rlstep.verifiers.serving.client import RemoteRewardModel
from rlstep.verifiers.serving.messages import BadRequest, parse
from tests.verifiers.serving.servers import (
    COMPLETION,
    PROMPT,
    SCORE,
    Recorded,
    exchanged,
    free_port,
    raw,
    running,
    sent,
    serving,
    texts,
)


@pytest.fixture(scope="module")
def local(verifier_paths) -> RewardModel:
    return RewardModel.from_pretrained(verifier_paths["prm"])


@pytest.fixture(scope="module")
def server(local):
    with serving(local) as running:
        yield running


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds waited between attempts, which the tests do not wait."""
    actual: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", actual.append)
    return actual


# --- The same scores.


@pytest.mark.parametrize("kind", ["prm", "orm"])
def test_scores_are_those_of_the_verifier_to_the_last_bit(verifier_paths, task, kind):
    verifier = RewardModel.from_pretrained(verifier_paths[kind])
    prompts, completions = texts(task)
    spans = [[(0, len(completion))] for completion in completions]
    with serving(verifier) as server:
        client = RemoteRewardModel(server.url)
        assert client.kind == kind
        assert client.boundary == verifier.boundary
        assert client.score(prompts, completions) == verifier.score(prompts, completions)
        assert client.score(prompts, completions, spans) == verifier.score(prompts, completions, spans)


def test_rows_that_are_too_long_are_cut_there_where_that_is_asked_for(local, server):
    prompts, completions = [PROMPT] * 2, [COMPLETION, "7 + 3 = 10\n" * 200]
    client = RemoteRewardModel(server.url)
    actual = client.score(prompts, completions, cut=True)
    assert actual == local.score(prompts, completions, cut=True)
    assert 0 < len(actual[1]) < 200
    with pytest.raises(UserError, match="refuses the rows: row 1: .* exceed the verifier's 512 positions"):
        client.score(prompts, completions)


def test_prompts_that_it_cannot_read_are_refused_before_training(server):
    """Of all problems the longest are tried."""
    client = RemoteRewardModel(server.url)
    short = [f"{n} + 1\n" for n in range(20)]
    check_fit({"prm": client}, short, client.prompt_format, 1000)
    with pytest.raises(UserError, match=r"the prm cannot read the problem .*7 7 7.*: the prompt alone is longer"):
        check_fit({"prm": client}, [*short, "7 " * 600], client.prompt_format, 1000)


def test_every_float_survives():
    """Among them ones that are near each other, and one that no decimal of 15 digits gives back."""

    class Fixed:
        kind, boundary, prompt_format, tokens_scored = "prm", Boundary("line"), None, 0
        values = [0.1 + 0.2, math.nextafter(0.5, 1), math.nextafter(0.5, 0), 5e-324, 1 / 3, 0.0, 1.0]

        def score(self, prompts, completions, steps, cut=False):
            return [list(self.values)]

    with serving(Fixed()) as server:
        (actual,) = RemoteRewardModel(server.url).score(["p"], ["\n".join("abcdefg")])
    assert [value.hex() for value in actual] == [value.hex() for value in Fixed.values]


def test_another_tokenizer_and_text_beyond_ascii(byte_tokenizer, tmp_path):
    """A PRM that reads bytes; spans count characters, which neither bytes nor UTF-16 units are."""
    from rlstep.tasks.small import small_model
    from rlstep.verifiers.spec import VerifierSpec
    from rlstep.verifiers.training.start import new_verifier

    small_model(byte_tokenizer, hidden_size=32, layers=1, heads=2, intermediate_size=32).save_pretrained(tmp_path)
    verifier = RewardModel(new_verifier(str(tmp_path), VerifierSpec("prm")), byte_tokenizer, "prm")
    completion = "\U0001f600 = caf\u00e9\n\U0001f600\U0001f600 \u2260 7\nyes"
    steps = [(0, 9), (9, 16), (16, 19)]
    with serving(verifier) as server:
        client = RemoteRewardModel(server.url)
        (actual,) = client.score([PROMPT], [completion], [steps])
        assert client.score([PROMPT], [completion]) == [actual]
    assert actual == verifier.score([PROMPT], [completion], [steps])[0]
    assert len(set(actual)) == 3


def test_the_servers_boundary_finds_the_steps(local, server):
    tagged = RewardModel(local.model, local.tokenizer, "prm", boundary=Boundary("tag", "="))
    with serving(tagged) as other:
        client = RemoteRewardModel(other.url)
        assert client.boundary == Boundary("tag", "=")
        assert len(client.score([PROMPT], ["7 = 7 = 7"])[0]) == 3
    assert len(RemoteRewardModel(server.url).score([PROMPT], ["7 = 7 = 7"])[0]) == 1


def test_repeated_rows_are_sent_once_and_answered_in_order(local, task):
    prompts, completions = texts(task, 6)
    plain = local.score(prompts, completions)
    order = [3, 0, 3, 5, 0, 1, 3]
    recorded = Recorded(local)
    with serving(recorded) as server:
        scores = RemoteRewardModel(server.url).score([prompts[i] for i in order], [completions[i] for i in order])
    assert recorded.asked == [[completions[i] for i in (3, 0, 5, 1)]]
    for index, values in zip(order, scores, strict=True):
        assert values == pytest.approx(plain[index], abs=1e-6)
    scores[0].append(2.0)
    assert scores[2] == scores[6] != scores[0]  # the caller may change a row without changing its equals


@pytest.mark.parametrize(("options", "counts"), [({}, [7]), ({"batch_rows": 3}, [3, 3, 1]), ({"batch_rows": 7}, [7])])
def test_batch_rows_cuts_requests(local, task, options, counts):
    prompts, completions = texts(task, 7)
    assert len(set(completions)) == 7
    recorded = Recorded(local)
    with serving(recorded) as server:
        scores = RemoteRewardModel(server.url, **options).score(prompts, completions)
    assert [len(rows) for rows in recorded.asked] == counts
    assert sum(scores, []) == pytest.approx(sum(local.score(prompts, completions), []), abs=1e-6)


def test_requests_keep_to_the_servers_limit(local, task):
    prompts, completions = texts(task, 8)
    with serving(local, max_request_bytes=600) as server:
        client = RemoteRewardModel(server.url)
        actual = client.score(prompts, completions)
        assert server.requests > 1
        assert server.rows == 8
        with pytest.raises(UserError, match=r"row 1 makes a request of \d+ bytes; .* takes 600\. Drop the row"):
            client.score([PROMPT, PROMPT], [COMPLETION, "7 + 3 = 10\n" * 100])
    assert sum(actual, []) == pytest.approx(sum(local.score(prompts, completions), []), abs=1e-6)


def test_nothing_asked_is_nothing_sent(server):
    client = RemoteRewardModel(server.url)
    before = server.requests
    assert client.score([], []) == []
    assert server.requests == before
    assert client.score([PROMPT, PROMPT], ["", "\n \n"]) == [[], []]


# --- What the server says.


def test_health(server):
    assert sent(server, "GET", "/health") == (
        200,
        {
            "status": "ready",
            "workers": {"ready": 1, "of": 1},
            "rlstep": __version__,
            "name": "tiny",
            "fingerprint": None,  # started without one
            "kind": "prm",
            "boundary": {"rule": "line", "tag": None},
            "prompt_format": {"form": "auto"},  # untrained
            "max_request_bytes": 64 << 20,
        },
    )


@pytest.mark.parametrize("steps", [{}, {"steps": None}])
def test_without_spans_the_server_finds_the_steps(server, local, steps):
    body = json.dumps({"prompts": [PROMPT], "completions": [COMPLETION]} | steps).encode()
    assert sent(server, "POST", "/score", body) == (200, {"scores": local.score([PROMPT], [COMPLETION])})


ROWS = {"prompts": ["p", "p"], "completions": ["abc", "de"], "steps": [[[0, 1], [1, 3]], [[0, 2]]]}


def test_a_good_request_is_taken_as_it_is():
    body = json.dumps(ROWS).encode()
    request = parse(body)
    assert (request.prompts, request.completions) == (["p", "p"], ["abc", "de"])
    assert request.steps == [[(0, 1), (1, 3)], [(0, 2)]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"promts": []}, 'field "promts": unknown; there are prompts, completions, steps, cut.'),
        ({"prompts": None}, "field 'prompts': expected a list of texts or of lists of messages, got null."),
        ({"prompts": "ab"}, "field 'prompts': expected a list of texts or of lists of messages, got \"ab\"."),
        ({"prompts": ["p", 7]}, "field 'prompts', row 1: expected a text or a list of messages, got 7."),
        ({"prompts": ["p", []]}, "field 'prompts', row 1: expected a text or a list of messages, got []."),
        (
            {"prompts": ["p", [{"role": "user", "content": "7"}, {"role": "bot", "content": "7"}]]},
            "field 'prompts', row 1: message 2 has the role 'bot'; roles are system, user, assistant, tool, developer.",
        ),
        (
            {"prompts": ["p", [{"role": "user", "content": None}]]},
            "field 'prompts', row 1: message 1 has a content that is no text but of the type NoneType.",
        ),
        (
            {"prompts": ["p", [{"a\n127.0.0.1: 200": 0, "b" * 99: 0}]]},
            f"field 'prompts', row 1: message 1 has no role (it has 'a\\n127.0.0.1: 200', {'b' * 39}...).",
        ),
        ({"completions": ["abc", None]}, "field 'completions', row 1: expected a text, got null."),
        ({"completions": ["\ud83d", "de"]}, "field 'completions', row 0: half a surrogate pair is no character."),
        ({"completions": ["abc"]}, "field 'completions': 1 row for 2 prompts."),
        ({"steps": [[]]}, "field 'steps': 1 row for 2 prompts."),
        ({"steps": "none"}, "field 'steps': expected a list of spans for each row, or null, got \"none\"."),
        ({"steps": [[], None]}, "field 'steps', row 1: expected a list of [start, end] pairs, got null."),
        ({"steps": [[], [[0]]]}, "field 'steps', row 1: expected [start, end], got [0]."),
        ({"steps": [[], [0, 2]]}, "field 'steps', row 1: expected [start, end], got 0."),
        ({"steps": [[[0, True]], []]}, "field 'steps', row 0: expected [start, end], got [0, true]."),
        ({"steps": [[[0, 1.0]], []]}, "field 'steps', row 0: expected [start, end], got [0, 1.0]."),
        (
            {"steps": [[], [[0, 3]]]},
            "field 'steps', row 1: [0, 3] is out of order or outside the completion's 2 characters.",
        ),
        (
            {"steps": [[[0, 2], [1, 3]], []]},
            "field 'steps', row 0: [1, 3] is out of order or outside the completion's 3 characters.",
        ),
        (
            {"steps": [[[-1, 2]], []]},
            "field 'steps', row 0: [-1, 2] is out of order or outside the completion's 3 characters.",
        ),
        (
            {"steps": [[[2, 1]], []]},
            "field 'steps', row 0: [2, 1] is out of order or outside the completion's 3 characters.",
        ),
        ({"cut": 1}, "field 'cut': expected true or false, got 1."),
    ],
)
def test_bad_requests_name_field_and_row(server, changes, reason):
    assert sent(server, "POST", "/score", json.dumps(ROWS | changes).encode()) == (400, {"error": reason})


@pytest.mark.parametrize(
    "body",
    [
        rb'["\ud800"]',
        rb'{"\ud800": 1}',
        rb'{"prompts": [], "completions": [], "cut": "\ud800"}',
        rb'{"prompts": [["\ud800"]], "completions": ["a"]}',
        rb'{"prompts": [[{"role": "\ud800", "content": "a"}]], "completions": ["a"]}',
        rb'{"prompts": ["a"], "completions": [["\udfff"]]}',
        rb'{"prompts": ["a"], "completions": ["a"], "steps": "\ud800"}',
    ],
    ids=["rows", "key", "cut", "prompt", "role", "completion", "steps"],
)
def test_a_fault_with_half_a_character_in_it_is_told_like_others(server, body, caplog):
    status, reply = sent(server, "POST", "/score", body)
    assert (status, [*reply]) == (400, ["error"])
    assert "Traceback" not in caplog.text
    assert "400: " in caplog.text.encode().decode()  # a log in UTF-8 takes it


def test_a_name_that_is_no_text_in_utf8_is_told(local):
    """As of a folder whose name has a byte that is none."""
    with serving(local, name="prm\udcff") as server:
        assert sent(server, "GET", "/health")[1]["name"] == "prm\udcff"
        assert RemoteRewardModel(server.url).score([PROMPT], [COMPLETION]) == local.score([PROMPT], [COMPLETION])


def test_a_missing_field_is_named():
    with pytest.raises(BadRequest, match="field 'completions': missing"):
        parse(b'{"prompts": []}')


@pytest.mark.usefixtures("without_gc")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON in UTF-8"),
        (b"{", "not JSON in UTF-8"),
        (b'{"prompts": ["\xff"]}', "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON in UTF-8"),
        (b'{"prompts": ' + b"1" * 5000 + b"}", "not JSON in UTF-8"),
        (b'{"prompts": [], "prompts": ["a"], "completions": []}', "an object has a field twice"),
        (b"[]", "expected an object with prompts, completions, steps, cut, got []"),
    ],
)
def test_what_is_no_request_is_refused(server, body, reason):
    status, actual = sent(server, "POST", "/score", body)
    assert status == 400
    assert reason in actual["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/scores", 404),
        ("GET", "/score", 405),
        ("POST", "/health", 405),
        ("DELETE", "/score", 405),
        ("HEAD", "/health", 405),
        ("GET", "/health/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
    ],
)
def test_other_addresses_and_methods(server, method, path, status):
    actual, reply = sent(server, method, path)
    assert actual == status
    assert set(reply) == ({"error"} if method != "HEAD" else set())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", 411),
        (b"Transfer-Encoding: chunked\r\n", 411),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", 411),
        (b"Content-Length: 9999999999999999999\r\n", 411),
    ],
)
def test_a_request_needs_its_length(server, headers, status):
    request = b"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n"
    reply = raw(server, request)
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"] == "the request needs a Content-Length."


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\n{}",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    ],
)
def test_what_is_no_http_is_refused_and_cut_off(server, request_):
    assert raw(server, request_).startswith(b"HTTP/1.1 400 ")


def test_a_body_that_stops_coming_is_given_up(server, monkeypatch):
    monkeypatch.setattr(app, "SILENCE_S", 0.2)
    reply = raw(server, b"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{}")
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_a_request_of_a_million_faults_is_refused_by_the_first(server):
    """One error object per row would take hundreds of megabytes."""
    body = b'{"prompts": [' + b"0," * 1_000_000 + b"0]}"
    reason = "field 'prompts', row 0: expected a text or a list of messages, got 0."
    assert sent(server, "POST", "/score", body) == (400, {"error": reason})
    body = json.dumps({f"a{i}": 0 for i in range(100_000)}).encode()
    assert sent(server, "POST", "/score", body)[1]["error"].startswith('field "a0": unknown')


def test_too_large_a_request_is_refused_and_its_client_hears_of_it(local):
    with serving(local, max_request_bytes=1000) as server:
        # far more than the buffers between the two hold
        body = b" " * (16 << 20)
        tracemalloc.start()
        try:
            status, reply = sent(server, "POST", "/score", body)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < 4 << 20, "it is read, but not kept"
        assert status == 413
        assert reply["error"].startswith("the request has 16777216 bytes, the server takes 1000:")
        body = json.dumps({"prompts": [], "completions": []}).encode()
        assert sent(server, "POST", "/score", body + b" " * (1000 - len(body)))[0] == 200
        assert sent(server, "POST", "/score", body + b" " * (1001 - len(body)))[0] == 413


def test_rows_that_cannot_be_scored_are_422(server, local):
    long = "7 + 3 = 10\n" * 200
    with pytest.raises(UserError) as wanted:
        local.score([PROMPT], [long])
    body = json.dumps({"prompts": [PROMPT], "completions": [long]}).encode()
    assert sent(server, "POST", "/score", body) == (422, {"error": str(wanted.value)})


def test_a_fault_of_the_server_stays_there(server, local, monkeypatch, caplog):
    def fails(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(local, "score", fails)
    with pytest.raises(UserError, match=r"answers with status 500: the server failed; its own output says how\."):
        RemoteRewardModel(server.url).score([PROMPT], [COMPLETION])
    monkeypatch.undo()
    assert RemoteRewardModel(server.url).score([PROMPT], [COMPLETION])  # it goes on
    assert "ZeroDivisionError: secret" in caplog.text


def test_a_client_that_goes_away_leaves_no_traceback(server, caplog):
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        # closes with a reset
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert sent(server, "GET", "/health")[0] == 200
    assert "Traceback" not in caplog.text


# --- Its token.


@pytest.fixture(scope="module")
def guarded(local):
    with serving(local, token="s3cret") as server:
        yield server


@pytest.mark.parametrize("path", ["/health", "/score", "/metrics"])
@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),  # the scheme's case is free (RFC 7235)
        ("Bearer S3CRET", 401),
        ("Bearer s3cre", 401),
        ("Bearer s3crets", 401),
        ("Bearer ", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer s\xe9cret", 401),
    ],
)
def test_only_the_token_opens(guarded, path, given, status):
    method, body = ("POST", SCORE) if path == "/score" else ("GET", None)
    actual, _, reply = exchanged(guarded, method, path, body, {"Authorization": given}.items())
    assert actual == status
    assert (b'{"error":' in reply) == (status != 200)


@pytest.mark.parametrize("path", ["/score", "/metrics"])
def test_without_a_token_there_are_no_scores_and_no_counts(guarded, path):
    assert sent(guarded, "POST" if path == "/score" else "GET", path, b"{}")[0] == 401


def test_a_probe_without_the_token_learns_no_more_than_the_state(guarded):
    assert sent(guarded, "GET", "/health") == (200, {"status": "ready", "workers": {"ready": 1, "of": 1}})


def test_without_the_token_no_body_is_read(guarded):
    """The refusal comes although the body never does."""
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n"
    assert raw(guarded, head).startswith(b"HTTP/1.1 401 ")


def test_the_client_brings_the_token(guarded, local, monkeypatch, waits):
    wanted = local.score([PROMPT], [COMPLETION])
    monkeypatch.delenv("RLSTEP_SERVE_TOKEN", raising=False)
    with pytest.raises(UserError, match=rf"{guarded.url} asks for a token.* Set RLSTEP_SERVE_TOKEN to the token of"):
        RemoteRewardModel(guarded.url)
    with pytest.raises(UserError, match="refuses the token that it was given") as error:
        RemoteRewardModel(guarded.url, token="another")
    assert "another" not in str(error.value)
    assert RemoteRewardModel(guarded.url, token="s3cret").score([PROMPT], [COMPLETION]) == wanted
    monkeypatch.setenv("RLSTEP_SERVE_TOKEN", "s3cret")
    assert load_verifier(guarded.url).score([PROMPT], [COMPLETION]) == wanted
    with pytest.raises(UserError, match="refuses the token"):
        RemoteRewardModel(guarded.url, token="another")  # the argument comes before the environment
    assert waits == []


def test_a_server_without_a_token_takes_any(server):
    assert RemoteRewardModel(server.url, token="any").kind == "prm"


@pytest.mark.parametrize("token", ["", "a b", "a\n", "caf\xe9"])
def test_a_token_that_no_header_can_hold_is_refused(token, monkeypatch):
    """An empty variable (of a file that is missing) must not leave a server open."""
    with pytest.raises(UserError, match="^token is empty or has characters other than visible ASCII"):
        ServeConfig("folder", token=token)
    monkeypatch.setenv("RLSTEP_SERVE_TOKEN", token)
    for make in (lambda: ServeConfig("folder"), lambda: RemoteRewardModel("http://127.0.0.1:1")):
        with pytest.raises(UserError, match="^RLSTEP_SERVE_TOKEN is empty or has characters"):
            make()


# --- What the client makes of it.


def test_refused_rows_are_numbered_as_the_caller_counts(server, local):
    client = RemoteRewardModel(server.url, batch_rows=2)
    long = "7 + 3 = 10\n" * 200
    rows = [PROMPT] * 6, ["7", "7", "8", "7", "9", long]
    with pytest.raises(UserError) as actual:
        client.score(*rows)
    with pytest.raises(UserError) as wanted:
        local.score(*rows)
    assert str(wanted.value).startswith("row 5: ")
    assert str(actual.value) == f"{server.url} refuses the rows: {wanted.value}"
    with pytest.raises(UserError, match=r"refuses the rows: field 'steps', row 2: \[1, 9\]"):
        client.score([PROMPT] * 3, ["7", "7", "8"], [[(0, 1)], [(0, 1)], [(1, 9)]])


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("row 1: too long", "row 70: too long"),
        ("field 'steps', row 0: no list", "field 'steps', row 50: no list"),
        ("row 2: there is none", "row 2: there is none"),
        ("no token of 'row 1: x'", "no token of 'row 1: x'"),
    ],
)
def test_renumbering(reason, wanted):
    assert remote._renumbered(reason, [50, 70]) == wanted


def test_rows_that_cannot_be_sent_are_refused(server):
    client = RemoteRewardModel(server.url)
    with pytest.raises(UserError, match="row 1: half a surrogate pair"):
        client.score([PROMPT] * 2, ["7", "\ud83d\ude00"])
    with pytest.raises(UserError, match="2 prompts, 1 completion, steps: None"):
        client.score(["a", "b"], ["c"])
    with pytest.raises(UserError, match="1 prompt, 1 completion, steps: 2"):
        client.score(["a"], ["c"], [[], []])


HEALTH = {"name": "x", "kind": "prm", "boundary": {"rule": "line", "tag": None}, "max_request_bytes": 10_000}


class Scripted(ThreadingHTTPServer):
    """Gives fixed replies to /score, one after the other, the last one for good; "cut" ends a reply in its middle."""

    def __init__(self, *scores, health=(200, HEALTH)):
        super().__init__(("127.0.0.1", 0), _Speaks)
        self.scores, self.health, self.asked = list(scores), health, 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.stop, self.close = self.shutdown, self.server_close


class _Speaks(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say(*self.server.health)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        scores = self.server.scores
        self.say(*(scores.pop(0) if len(scores) > 1 else scores[0]))

    def say(self, status, content, more=(), **headers):
        if status is None:
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200 if status == "cut" else status)
        self.send_header("Content-Length", str(len(body) + (50 if status == "cut" else 0)))
        for name, value in (headers | dict(more)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


GOOD = (200, {"scores": [[0.25, 1]]})


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"scores": []}, r"expected scores of 1 row, got \[\]"),
        ({"scores": [[0.5, 0.5], []]}, "expected scores of 1 row"),
        ({"scores": {"0": [0.5, 0.5]}}, "expected scores of 1 row"),
        ({"values": [[0.5, 0.5]]}, "expected scores of 1 row, got null"),
        ([[0.5, 0.5]], "expected scores of 1 row, got null"),
        ({"scores": [[0.5]]}, r"row 0: expected 2 scores, one per step, got \[0.5\]"),
        ({"scores": ["ab"]}, 'row 0: expected 2 scores, one per step, got "ab"'),
        ({"scores": [[0.5, 1.5]]}, "row 0: expected numbers from 0 to 1, got 1.5"),
        ({"scores": [[-0.1, 1]]}, "row 0: expected numbers from 0 to 1, got -0.1"),
        ({"scores": [[True, 1]]}, "row 0: expected numbers from 0 to 1, got true"),
        ({"scores": [["0.5", 1]]}, 'row 0: expected numbers from 0 to 1, got "0.5"'),
        ({"scores": [[None, 1]]}, "row 0: expected numbers from 0 to 1, got null"),
        (b'{"scores": [[NaN, 1]]}', "row 0: expected numbers from 0 to 1, got NaN"),
        (b'{"scores": [[1e999, 1]]}', "row 0: expected numbers from 0 to 1, got Infinity"),
        (b"<html>", "does not answer in JSON"),
        (b"", "does not answer in JSON"),
        (b"\x80\x04N.", "does not answer in JSON"),  # a pickle
    ],
)
def test_replies_that_are_no_scores_are_refused(reply, reason, waits):
    with running(Scripted((200, reply))) as other, pytest.raises(UserError, match=reason):
        RemoteRewardModel(other.url).score(["p"], ["a\nb"])
    assert other.asked == 1
    assert waits == []


@pytest.mark.parametrize(
    "fault", [(408, {}), (502, b"<html>"), (503, {"error": "busy"}), (504, {}), ("cut", b"{"), (None, b"")]
)
def test_what_may_pass_is_tried_again(fault, waits):
    with running(Scripted(fault, fault, GOOD)) as other:
        assert RemoteRewardModel(other.url).score(["p"], ["a\nb"]) == [[0.25, 1.0]]
        assert other.asked == 3
        assert waits == [0.5, 1.0]
        other.scores = [fault]
        with pytest.raises(UserError, match=f"{other.url} cannot be reached .* after 8 attempts"):
            RemoteRewardModel(other.url, retries=7).score(["p"], ["a\nb"])
    assert waits[2:] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert other.asked == 3 + 8


@pytest.mark.parametrize(
    ("asks", "least"),
    [
        ("3", [3, 3]),
        ("1", [1, 1]),
        ("0", [0.5, 1]),  # the client's own, which double
        ("86400", [60, 60]),  # not for a day
        (None, [0.5, 1]),
        ("soon", [0.5, 1]),
        ("-5", [0.5, 1]),
        ("9" * 400, [60, 60]),
        ("9" * 5000, [0.5, 1]),  # more than Python reads as a number
        ("Wed, 21 Oct 2099 07:28:00 GMT", [60, 60]),
        ("Wed, 21 Oct 2020 07:28:00 GMT", [0.5, 1]),
    ],
)
def test_a_busy_server_is_asked_again_when_it_says(asks, least, waits):
    busy = (429, {"error": "9 rows are waiting"}) + (({"Retry-After": asks},) if asks is not None else ())
    with running(Scripted(busy, busy, GOOD)) as other:
        assert RemoteRewardModel(other.url, retries=0).score(["p"], ["a\nb"]) == [[0.25, 1.0]]
    assert len(waits) == 2
    assert all(wanted <= wait <= 1.5 * wanted for wanted, wait in zip(least, waits, strict=True))


def test_patience_with_a_busy_server_ends_with_the_timeout(waits):
    busy = (429, {"error": "9 rows are waiting"}, {"Retry-After": "20"})
    with running(Scripted(busy)) as other, pytest.raises(UserError) as error:
        RemoteRewardModel(other.url, timeout=110, retries=0).score(["p"], ["a\nb"])
    assert 110 - 30 < sum(waits) <= 110
    assert other.asked == len(waits) + 1
    assert str(error.value).startswith(
        f"{other.url} has too much to do (status 429: 9 rows are waiting): it refused a request {other.asked} times in "
        f"{sum(waits):.0f} seconds. Start it with more --workers"
    )


def test_clients_of_a_busy_server_come_back_at_different_times(waits):
    busy = (429, {}, {"Retry-After": "10"})
    for _ in range(5):
        with running(Scripted(busy, GOOD)) as other:
            RemoteRewardModel(other.url).score(["p"], ["a\nb"])
    assert all(10 <= wait <= 15 for wait in waits)
    assert len(set(waits)) == 5


def test_waiting_takes_no_random_number_of_the_run(waits):
    random.seed(7)
    wanted = random.random()
    random.seed(7)
    with running(Scripted((429, {}), GOOD)) as other:
        RemoteRewardModel(other.url).score(["p"], ["a\nb"])
    assert random.random() == wanted


def test_an_unavailable_server_may_say_when_it_will_be_back(waits):
    with running(Scripted((503, {"error": "loading"}, {"Retry-After": "5"}), (503, {}), GOOD)) as other:
        RemoteRewardModel(other.url).score(["p"], ["a\nb"])
    assert waits == [5.0, 1.0]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((400, {"error": "field 'prompts': missing."}), "refuses the rows: field 'prompts': missing"),
        ((422, {"error": "row 0: too long"}), "refuses the rows: row 0: too long"),
        ((413, {"error": "too large"}), "/score answers with status 413: too large"),
        ((401, b"who are you?"), r"asks for a token \(status 401\)\. Set RLSTEP_SERVE_TOKEN"),
        ((500, {"error": "it failed"}), "/score answers with status 500: it failed"),
        ((403, [1]), "/score answers with status 403: Forbidden"),
    ],
)
def test_what_stays_is_not_tried_again(fault, reason, waits):
    with running(Scripted(fault)) as other, pytest.raises(UserError, match=reason):
        RemoteRewardModel(other.url).score(["p"], ["a\nb"])
    assert other.asked == 1
    assert waits == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("target", ["http://127.0.0.1:1/health", "file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_redirects_are_not_followed(status, target, waits, monkeypatch):
    say = _Speaks.say
    monkeypatch.setattr(_Speaks, "say", lambda self, *reply: say(self, *reply, Location=target))
    wanted = re.escape(f"/health redirects to {target}, which is not followed")
    with running(Scripted(GOOD, health=(status, b""))) as other, pytest.raises(UserError, match=wanted):
        RemoteRewardModel(other.url)
    assert waits == []


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "implicit"},
        {"kind": None},
        {"boundary": None},
        {"boundary": {"rule": "page"}},
        {"boundary": {"rule": "line", "of": 1}},
        {"max_request_bytes": 0},
        {"max_request_bytes": "10"},
    ],
)
def test_a_server_that_is_no_verifier_is_refused(changes, waits):
    wanted = "is no verifier: .*Start one there: `rlstep serve --model PATH`"
    for health in (HEALTH | changes, [], None, "ok", {}):
        with running(Scripted(GOOD, health=(200, health))) as other, pytest.raises(UserError, match=wanted):
            RemoteRewardModel(other.url)
        assert other.asked == 0
    assert waits == []


def test_no_server_is_said_with_what_to_do(waits):
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"{url} cannot be reached \(.*refused\), after 3 attempts\. Start a verifier"):
        RemoteRewardModel(url, retries=2)
    assert waits == [0.5, 1.0]
    with pytest.raises(UserError, match="after 1 attempt\."):
        RemoteRewardModel(url, retries=0)


def test_a_server_that_dies_and_comes_back(local, task, monkeypatch):
    prompts, completions = texts(task, 5)
    wanted = local.score(prompts, completions)
    with serving(local) as first:
        client = RemoteRewardModel(first.url)
        port = first.port
        assert client.score(prompts, completions) == wanted
    with pytest.raises(UserError, match="cannot be reached"):
        RemoteRewardModel(first.url, retries=0)
    waited, back = [], []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 2:
            back.append(serving(local, port))
            back[0].__enter__()

    monkeypatch.setattr(remote.time, "sleep", sleep)
    try:
        assert client.score(prompts, completions) == wanted
    finally:
        monkeypatch.undo()
        back[0].__exit__(None, None, None)
    assert waited == [0.5, 1.0]


def test_another_verifier_in_its_place_is_noticed(local, verifier_paths):
    with serving(local) as first:
        client = RemoteRewardModel(first.url)
    others = [
        (local, "another"),
        (RewardModel.from_pretrained(verifier_paths["orm"]), "tiny"),
        (RewardModel(local.model, local.tokenizer, "prm", boundary=Boundary("sentence")), "tiny"),
    ]
    for verifier, name in others:
        with serving(verifier, first.port, name), pytest.raises(UserError, match="has become another verifier"):
            client.score([PROMPT], [COMPLETION])
    # what it takes at a time may change
    with serving(local, first.port, max_request_bytes=5000):
        assert client.score([PROMPT], [COMPLETION]) == local.score([PROMPT], [COMPLETION])


def test_a_slow_server_is_not_asked_twice(waits, monkeypatch):
    ended = threading.Event()
    say = _Speaks.say
    monkeypatch.setattr(
        _Speaks, "say", lambda self, *reply: self.command == "POST" and ended.wait(30) or say(self, *reply)
    )
    with running(Scripted(GOOD)) as other:
        client = RemoteRewardModel(other.url, timeout=1.5)
        with pytest.raises(UserError, match=r"/score has not answered within 1.5 seconds\. Raise the timeout"):
            client.score(["p"], ["a\nb"])
        ended.set()
    assert other.asked == 1
    assert waits == []


def test_a_server_that_accepts_and_says_nothing(waits):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"no answer within 0.1 seconds\), after 2 attempts"):
            RemoteRewardModel(url, timeout=0.1, retries=1)


def test_https_is_spoken(server, waits):
    with pytest.raises(UserError, match=r"no secure connection .* Is it http://"):
        RemoteRewardModel(server.url.replace("http", "https"))
    assert waits == []


def test_a_proxy_is_not_asked_for_this_machine(server, monkeypatch, waits):
    proxy = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert RemoteRewardModel(server.url).kind == "prm"
    assert RemoteRewardModel(server.url.replace("127.0.0.1", "localhost")).kind == "prm"
    with pytest.raises(UserError, match="cannot be reached"):
        RemoteRewardModel("http://verifier.invalid:8000", retries=0)


@pytest.mark.parametrize("path", ["/", "//"])
def test_a_closing_slash_does_no_harm(server, path):
    assert RemoteRewardModel(server.url + path).url == server.url


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host:1",
        "file:///etc/hostname",
        "host:8000",
        "http://",
        "http://:8000",
        "http://host:port",
        "http://host:99999",
        "http://host:0",
        "http://[::1",
        "http://host:8000/?a=b",
        "http://host:8000/#a",
        "http://user:secret@host:8000",
        "http://ho st:8000",
        "http://host:8000\r\nX: y",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UserError, match="is no verifier's address; give http://HOST:PORT"):
        RemoteRewardModel(url)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": math.inf}, "timeout is inf"),
        ({"timeout": math.nan}, "timeout is nan"),
        ({"retries": -1}, "retries is -1"),
        ({"batch_rows": 0}, "batch_rows is 0"),
    ],
)
def test_options_are_checked(options, reason):
    with pytest.raises(UserError, match=reason):
        RemoteRewardModel("http://127.0.0.1:1", **options)


# --- A path or a URL.


def test_load_verifier_takes_a_path_or_a_url(server, local, verifier_paths):
    here = load_verifier(verifier_paths["prm"], device="cpu", batch_tokens=77, timeout=600.0)
    there = load_verifier(server.url, device="cpu", trust_remote_code=True, batch_tokens=16384, retries=9)
    assert isinstance(here, RewardModel)
    assert here.batch_tokens == 77
    assert isinstance(there, RemoteRewardModel)
    assert there.retries == 9
    assert here.score([PROMPT], [COMPLETION]) == there.score([PROMPT], [COMPLETION])
    assert isinstance(load_verifier(server.url.upper()), RemoteRewardModel)


def test_load_verifier_refuses_options_that_would_do_nothing(server, verifier_paths):
    with pytest.raises(UserError, match="dtype is 'bfloat16', but http.* is for `rlstep serve`"):
        load_verifier(server.url, dtype="bfloat16")
    with pytest.raises(UserError, match="timeout is 5, but .* is for a server's address"):
        load_verifier(verifier_paths["prm"], timeout=5)
    for path in (server.url, verifier_paths["prm"]):
        with pytest.raises(TypeError, match="unexpected keyword argument 'tiemout'"):
            load_verifier(path, tiemout=5)


def test_the_client_needs_no_torch():
    script = "import rlstep.verifiers.serving.client, sys; print('torch' in sys.modules, 'transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
