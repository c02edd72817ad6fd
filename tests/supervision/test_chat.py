"""The client of a chat server: what it sends, what it takes for an answer, when it tries again and when it gives up."""

import json
import random
import socket
import threading
import time

import pytest

from rlstep.runtime import json_client, json_connection
from rlstep.runtime.errors import UserError
from rlstep.runtime.json_client import API_KEY_VARIABLE, Stopped
from rlstep.supervision.chat import KEY_VARIABLE, Answers, ChatClient
from tests.supervision.chat_server import Reply, answers, error, serving

MESSAGES = [{"role": "user", "content": "Which?"}]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def quick(monkeypatch):
    """Waits of a millisecond."""
    monkeypatch.setattr(json_client, "FIRST_WAIT_S", 0.001)


def client(url: str, **options) -> ChatClient:
    given = {"url": url, "model": "m", "parameters": {}, "request_timeout": 20.0, "retry_for": 60.0}
    return ChatClient(**given | options)


def in_turn(*replies: Reply):
    """Each reply once, in order."""
    left = iter(replies)
    return lambda body: next(left)


def test_a_request_holds_model_messages_number_and_parameters():
    with serving(lambda body: answers("a", "b")) as server:
        parameters = {"temperature": 0.5, "top_p": None, "seed": 1}
        actual = client(server.url + "/", parameters=parameters).ask(MESSAGES, 2)
    assert actual == Answers(["a", "b"], 100, 20)
    assert server.bodies == [
        {"path": "/v1/chat/completions", "model": "m", "messages": MESSAGES, "n": 2, "temperature": 0.5, "seed": 1}
    ]
    assert server.keys == [None]


def test_a_single_answer_asks_for_no_number():
    """Some servers refuse the field."""
    with serving(lambda body: answers("a")) as server:
        client(server.url).ask(MESSAGES, 1)
        client(server.url, parameters={"n": None}).ask(MESSAGES, 3)
    assert all("n" not in body for body in server.bodies)


def test_the_key_comes_from_the_environment_and_is_in_no_message(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    monkeypatch.setenv(API_KEY_VARIABLE, "of-another-server")
    with serving(in_turn(answers("a"), error(401, "bad key sk-secret"))) as server:
        asked = client(server.url)
        asked.ask(MESSAGES, 1)
        with pytest.raises(UserError, match=r"refuses the key .* \(status 401: bad key \(key\)\)") as failure:
            asked.ask(MESSAGES, 1)
    assert server.keys == ["Bearer sk-secret"] * 2
    assert "sk-secret" not in str(failure.value)
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret\n")
    with pytest.raises(UserError, match=f"{KEY_VARIABLE} is empty or has characters") as failure:
        client(server.url)
    assert "sk-secret" not in str(failure.value)


def test_a_redirect_is_not_followed_with_the_key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "k")
    with (
        serving(lambda body: answers("a")) as other,
        serving(lambda body: Reply({}, 302, {"Location": other.url + "/chat/completions"})) as server,
        pytest.raises(UserError, match="redirects to .* not followed"),
    ):
        client(server.url).ask(MESSAGES, 1)
    assert other.bodies == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_what_may_pass_is_asked_again(quick, status):
    with serving(in_turn(error(status), error(status), answers("a"))) as server:
        assert client(server.url).ask(MESSAGES, 1).texts == ["a"]
    assert len(server.bodies) == 3


@pytest.mark.parametrize("slow", [Reply([], after=2.0), Reply([], stalls=2.0)])
def test_a_slow_answer_is_given_up(slow):
    """Whether it does not begin in time, or stops after its headers."""
    message = r"not answered within 0.3 seconds. Raise judge_request_timeout, .* \(judge_concurrency, max_new_tokens\)"
    with serving(lambda body: slow) as server, pytest.raises(UserError, match=message):
        client(server.url, request_timeout=0.3).ask(MESSAGES, 1)
    assert len(server.bodies) == 1


def test_an_answer_that_drips_in_is_given_up():
    """No piece of it is late; a limit for each alone would wait for as long as it comes."""
    dripping = Reply(json.dumps(answers("a").body).encode(), drips=0.05)
    message = "has not answered within 0.3 seconds"
    with serving(lambda body: dripping) as server, pytest.raises(UserError, match=message):
        client(server.url, request_timeout=0.3).ask(MESSAGES, 1)


def test_what_stays_down_is_given_up_with_the_settings_name():
    message = r"status 429 \(rate limit\); tried for 0 seconds.*wait longer \(judge_retry_for\)"
    with serving(lambda body: error(429, "rate limit")) as server, pytest.raises(UserError, match=message):
        client(server.url, retry_for=0.0).ask(MESSAGES, 1)
    assert len(server.bodies) == 1


def test_a_server_that_is_down_is_named():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=f"{url} cannot be reached .Connection refused.; tried for 0 seconds"):
        client(url, retry_for=0.0).ask(MESSAGES, 1)


def test_waits_double_up_to_the_longest_or_are_the_servers(monkeypatch):
    waits, wait, here = [], threading.Event.wait, threading.current_thread()

    def no_wait(event, seconds=None):
        if seconds is None or threading.current_thread() is not here:  # a tracker's, a progress bar's
            return wait(event, seconds)
        return waits.append(seconds)

    monkeypatch.setattr(threading.Event, "wait", no_wait)
    monkeypatch.setattr(random.Random, "uniform", lambda _, low, high: high)
    for header, expected in (
        ({}, [0.5, 1, 2, 4, 8, 16, 30, 30]),
        ({"Retry_After": "7"}, [7] * 8),
        ({"Retry_After": "0"}, [0.5, 1, 2, 4, 8, 16, 30, 30]),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, [0.5, 1, 2, 4, 8, 16, 30, 30]),
        ({"Retry_After": "soon"}, [0.5, 1, 2, 4, 8, 16, 30, 30]),
    ):
        with serving(in_turn(*[error(503, **header)] * 8, answers("a"))) as server:
            waits.clear()
            assert client(server.url).ask(MESSAGES, 1).texts == ["a"]
            assert waits == expected


def test_a_server_that_asks_for_more_patience_than_there_is_is_not_waited_for():
    message = "asks to wait 900 seconds; tried for 60 seconds"
    with serving(lambda body: error(429, "busy", Retry_After="900")) as server, pytest.raises(UserError, match=message):
        client(server.url).ask(MESSAGES, 1)
    assert len(server.bodies) == 1


def test_a_stopped_client_waits_and_asks_no_more():
    with serving(lambda body: error(503, Retry_After="30")) as server:
        asked = client(server.url)
        outcome = []

        def ask():
            try:
                asked.ask(MESSAGES, 1)
            except Stopped:
                outcome.append("stopped")

        thread = threading.Thread(target=ask)
        thread.start()
        while not server.bodies:
            time.sleep(0.01)
        asked.stop()
        thread.join(timeout=20)
        assert outcome == ["stopped"]
        with pytest.raises(Stopped):
            asked.ask(MESSAGES, 1)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(400, "top_p is not supported"), r"refuses the request \(status 400: top_p is not supported\)"),
        (error(404, "no such model"), "judge_url is what comes before /chat/completions, mostly ending in /v1"),
        (error(403, "no"), f"asks for a key .status 403: no.. Set {KEY_VARIABLE}"),
        (Reply({"detail": "unprocessable"}, 422), "status 422: unprocessable"),
        (Reply(b"<html>", 418), "status 418: I'm a Teapot"),
        (Reply(b"<html>"), "does not answer in JSON"),
        (Reply(b"\xff"), "does not answer in JSON"),
        (Reply([]), r"expected 1 to 2 choices, got \[\]"),
        (Reply({"choices": []}), r"expected 1 to 2 choices, got \[\]"),
        (Reply({"choices": "x"}), "expected 1 to 2 choices"),
        (answers("a", "b", "c"), "expected 1 to 2 choices"),
        (Reply({"choices": ["x"]}), "expected a choice with a message's content"),
        (Reply({"choices": [{"text": "x"}]}), "expected a choice with a message's content"),
        (Reply({"choices": [{"message": {"content": 3}}]}), "expected a choice with a message's content"),
    ],
)
def test_what_is_no_answer_is_refused_at_once(reply, message):
    with serving(lambda body: reply) as server, pytest.raises(UserError, match=message):
        client(server.url).ask(MESSAGES, 2)
    assert len(server.bodies) == 1


def test_fewer_answers_and_empty_ones_are_answers():
    with serving(in_turn(answers("a"), answers(None, "b"), Reply({"choices": [{"message": {}}]}))) as server:
        asked = client(server.url)
        assert asked.ask(MESSAGES, 2).texts == ["a"]
        assert asked.ask(MESSAGES, 2).texts == ["", "b"]
        assert asked.ask(MESSAGES, 2) == Answers([""], None, None)


def test_an_answer_that_is_cut_off_is_empty():
    choices = [{"message": {"content": "a"}, "finish_reason": reason} for reason in ("stop", "length", None)]
    with serving(lambda body: Reply({"choices": choices})) as server:
        assert client(server.url).ask(MESSAGES, 3).texts == ["a", "", "a"]


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": "many"}, {"prompt_tokens": -1}, []])
def test_tokens_that_are_not_counted_are_none(usage):
    reply = Reply({"choices": [{"message": {"content": "a"}}], "usage": usage})
    with serving(lambda body: reply) as server:
        assert client(server.url).ask(MESSAGES, 1) == Answers(["a"], None, None)


def test_an_endless_reply_is_not_read_to_its_end(monkeypatch):
    size = len(json.dumps(answers("a" * 2000).body))
    with serving(lambda body: answers("a" * 2000)) as server:
        monkeypatch.setattr(json_connection, "MOST_BYTES", size)
        assert client(server.url).ask(MESSAGES, 1).texts == ["a" * 2000]
        monkeypatch.setattr(json_connection, "MOST_BYTES", size - 1)
        with pytest.raises(UserError, match="answers with more than"):
            client(server.url).ask(MESSAGES, 1)


def test_a_request_that_is_no_json_is_not_sent():
    message = "is sent is no JSON: Out of range"
    with serving(lambda body: answers("a")) as server, pytest.raises(UserError, match=message):
        client(server.url, parameters={"temperature": float("nan")}).ask(MESSAGES, 1)
    assert server.bodies == []


@pytest.mark.parametrize(
    "url", ["", "host/v1", "ftp://host", "http://", "http://a:b@host/v1", "http://host/v1?key=x", "http://ho st"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UserError, match="is no server's address; give http"):
        client(url)


def test_what_does_not_speak_http_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as mail:

        def greet() -> None:
            with mail.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(UserError, match=r"does not answer in HTTP \(BadStatusLine: 220 mail"):
            client(f"http://127.0.0.1:{mail.getsockname()[1]}").ask(MESSAGES, 1)
        thread.join()


def test_waiting_takes_no_random_number_of_the_run(quick):
    random.seed(7)
    wanted = random.random()
    random.seed(7)
    with serving(in_turn(error(503), answers("a"))) as server:
        client(server.url).ask(MESSAGES, 1)
    assert random.random() == wanted
