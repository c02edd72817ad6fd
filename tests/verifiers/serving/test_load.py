"""A server that many ask at once: each gets its own answer, too much is refused, nobody holds up the others."""

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from rlstep import __version__
from rlstep.runtime.errors import UserError
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving import app as app_module
from rlstep.verifiers.serving import server as server_module
from rlstep.verifiers.serving.client import RemoteRewardModel
from rlstep.verifiers.serving.server import Limits, ScoreServer
from tests.verifiers.serving.servers import (
    COMPLETION,
    PROMPT,
    SCORE,
    Gated,
    InThisProcess,
    Recorded,
    asked,
    exchanged,
    opened,
    raw,
    running,
    sent,
    serving,
    texts,
    wait_until,
)

TOO_LONG = "7 + 3 = 10\n" * 200


@pytest.fixture(scope="module")
def local(verifier_paths) -> RewardModel:
    return RewardModel.from_pretrained(verifier_paths["prm"])


@pytest.fixture
def together(local):
    """Asks requests at once, so that they wait together while the server scores a first one.

    Gives (status, headers, JSON) of each and the verifier, whose `asked` has the batches after the first.
    """

    def ask(bodies: list[bytes], **limits):
        verifier = Gated(local)
        with serving(verifier, **limits) as server, ThreadPoolExecutor(len(bodies) + 1) as threads:
            first = threads.submit(sent, server, "POST", "/score", SCORE)
            assert verifier.begun.wait(60)
            replies = []
            for body in bodies:  # one after the other, so that their order is known
                before = server.pool.metrics.total("requests", path="/score", status="429")
                waiting = server.pool.queue.unfinished
                replies.append(threads.submit(exchanged, server, "POST", "/score", body))
                wait_until(
                    lambda before=before, waiting=waiting: (
                        server.pool.queue.unfinished > waiting
                        or server.pool.metrics.total("requests", path="/score", status="429") > before
                    )
                )
            verifier.go_on.set()
            assert first.result()[0] == 200
            actual = [(status, headers, json.loads(body)) for status, headers, body in (r.result() for r in replies)]
        del verifier.asked[0]
        return actual, verifier

    return ask


# --- Batches.


def test_clients_that_come_during_a_pass_are_scored_together_and_each_gets_its_own(together, local, task):
    prompts, completions = texts(task, 20)
    cuts = [slice(0, 3), slice(3, 4), slice(4, 11), slice(11, 20)]
    replies, verifier = together([asked(prompts[cut], completions[cut]) for cut in cuts])
    assert verifier.asked == [completions], "one batch"
    for cut, (status, _, reply) in zip(cuts, replies, strict=True):
        assert status == 200
        for actual, wanted in zip(reply["scores"], local.score(prompts[cut], completions[cut]), strict=True):
            assert actual == pytest.approx(wanted, abs=1e-6)


def test_batch_rows_bounds_a_batch(together, task):
    prompts, completions = texts(task, 8)
    bodies = [asked(prompts[i : i + 2], completions[i : i + 2]) for i in (0, 2, 4, 6)]
    _, verifier = together(bodies, batch_rows=5)
    assert [len(batch) for batch in verifier.asked] == [4, 4]


def test_without_shared_batches_scores_are_those_of_the_request_alone_to_the_last_bit(together, local, task):
    prompts, completions = texts(task, 20)
    cuts = [slice(0, 3), slice(3, 4), slice(4, 20)]
    bodies = [asked(prompts[cut], completions[cut]) for cut in cuts]
    replies, verifier = together(bodies, across_clients=False)
    assert verifier.asked == [completions[cut] for cut in cuts]
    for cut, (_, _, reply) in zip(cuts, replies, strict=True):
        assert reply["scores"] == local.score(prompts[cut], completions[cut])


def test_requests_with_and_without_spans_share_a_batch(together, local):
    spans = [[[0, 3], [3, 10]]]
    replies, verifier = together([asked([PROMPT], [COMPLETION], steps=spans), asked([PROMPT], [COMPLETION])])
    assert len(verifier.asked) == 1
    wanted = local.score([PROMPT], [COMPLETION], [[(0, 3), (3, 10)]]), local.score([PROMPT], [COMPLETION])
    for (_, _, reply), (scores,) in zip(replies, wanted, strict=True):
        assert reply["scores"][0] == pytest.approx(scores, abs=1e-6)


def test_a_request_may_have_rows_cut_and_shares_a_batch_with_others(together, local):
    prompts, completions = [PROMPT] * 2, [TOO_LONG, COMPLETION]
    replies, _ = together(
        [asked([PROMPT], [COMPLETION]), asked(prompts, completions, cut=True), asked([PROMPT], [TOO_LONG])]
    )
    assert [status for status, _, _ in replies] == [200, 200, 422]
    wanted = local.score(prompts, completions, cut=True)
    assert 0 < len(wanted[0]) < 200
    for actual, scores in zip(replies[1][2]["scores"], wanted, strict=True):
        assert actual == pytest.approx(scores, abs=1e-6)


def test_a_row_that_is_too_long_fails_its_request_alone(together, local):
    replies, verifier = together(
        [asked([PROMPT], [COMPLETION]), asked([PROMPT] * 2, [COMPLETION, TOO_LONG]), asked([PROMPT], [COMPLETION])]
    )
    with pytest.raises(UserError) as wanted:
        local.score([PROMPT] * 2, [COMPLETION, TOO_LONG])
    assert [status for status, _, _ in replies] == [200, 422, 200]
    assert replies[1][2] == {"error": str(wanted.value)}
    assert str(wanted.value).startswith("row 1: ")
    assert len(verifier.asked) == 2, "the others are scored together, once more"


def test_ten_thousand_rows_are_one_request(local, task):
    prompts, completions = texts(task, 50)
    recorded = Recorded(local)
    with serving(recorded, batch_rows=4000) as server:
        status, reply = sent(server, "POST", "/score", asked(prompts * 200, completions * 200))
    assert status == 200
    assert [len(batch) for batch in recorded.asked] == [4000, 4000, 2000]
    wanted = local.score(prompts, completions)
    for row, actual in enumerate(reply["scores"]):
        assert actual == pytest.approx(wanted[row % 50], abs=1e-6)


def test_text_of_any_script_comes_back_to_its_client(together, local):
    """Characters outside of the tokenizer's words, of one to four bytes, a zero byte, and right-to-left marks."""
    odd = ["\u00e9 = 7\n7", "\U0001f600\n\u202e7 = 7", "\x00\n7", "\u4e03\u4e8c\n= 7"]
    replies, verifier = together([asked([PROMPT], [text]) for text in odd])
    assert len(verifier.asked) == 1
    for text, (status, _, reply) in zip(odd, replies, strict=True):
        assert status == 200
        assert reply["scores"][0] == pytest.approx(local.score([PROMPT], [text])[0], abs=1e-6)


# --- Too much.


def test_beyond_max_queue_requests_are_refused_with_a_time_to_come_back(together, task):
    prompts, completions = texts(task, 8)
    bodies = [asked(prompts[:n], completions[:n]) for n in (4, 2, 3, 1)]
    replies, _ = together(bodies, max_queue=6)
    assert [status for status, _, _ in replies] == [200, 200, 429, 429]
    for _, headers, reply in replies[2:]:
        assert 1 <= int(headers["retry-after"]) <= 60
        assert reply["error"].startswith("6 rows are waiting")
        assert "(--max_queue)" in reply["error"]


def test_the_client_comes_back_until_it_is_answered(local, task):
    prompts, completions = texts(task, 6)
    # Before the server's thread uses the same model.
    expected = local.score(prompts, completions)
    verifier = Gated(local)
    with serving(verifier, max_queue=1) as server, ThreadPoolExecutor(8) as threads:
        first = threads.submit(sent, server, "POST", "/score", SCORE)
        assert verifier.begun.wait(60)
        clients = [
            threads.submit(RemoteRewardModel(server.url).score, [prompt], [completion])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        wait_until(lambda: server.pool.metrics.total("requests", path="/score", status="429") == 5)
        verifier.go_on.set()
        assert first.result()[0] == 200
        for client, wanted in zip(clients, expected, strict=True):
            assert client.result()[0] == pytest.approx(wanted, abs=1e-6)


def test_bodies_are_held_up_to_a_bound(local, monkeypatch):
    """The rows of a request may be few and long; what is half sent counts, too, until it is given up."""
    monkeypatch.setattr(server_module, "HELD_REQUESTS", 2)
    with serving(local, max_request_bytes=1000) as server:
        assert sent(server, "POST", "/score", SCORE)[0] == 200
        halves = []

        def no_room_is_left() -> bool:
            """Of two half requests and a whole one; the half ones again where the whole one came before them."""
            for half in halves:
                half.close()
            halves[:] = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
            for half in halves:
                half.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b" " * 950)
            return exchanged(server, "POST", "/score", SCORE + b" " * 700)[0] == 429

        wait_until(no_room_is_left)
        status, headers, reply = exchanged(server, "POST", "/score", SCORE + b" " * 700)
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(reply)["error"] == "the server holds requests of 2000 bytes, as many as it can."
        for half in halves:
            half.close()
        wait_until(lambda: exchanged(server, "POST", "/score", SCORE + b" " * 700)[0] == 200)


# --- Clients that do not do their part.


def test_clients_that_are_slow_hold_up_nobody(local, monkeypatch, caplog):
    """Half a header, half a body, and a large answer that nobody reads."""
    wanted = local.score([PROMPT], [COMPLETION])
    monkeypatch.setattr(server_module, "GOODBYE_S", 0.2)
    with serving(local, max_queue=1_000_000) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
        many = asked([PROMPT] * 20_000, [COMPLETION] * 20_000)
        for index, connection in enumerate(slow):
            if index % 3 == 0:
                connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nConte")
            elif index % 3 == 1:
                connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + SCORE)
            else:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(many)
                connection.sendall(head + many)
        for _ in range(5):
            (actual,) = RemoteRewardModel(server.url, timeout=60).score([PROMPT], [COMPLETION])
            assert actual == pytest.approx(wanted[0], abs=1e-6)
        wait_until(lambda: server.requests >= 9)  # the unread answers are on their way
        assert sent(server, "GET", "/health")[0] == 200
    assert "timeout graceful shutdown exceeded" in caplog.text, "the server ends although they are still there"
    for connection in slow:
        connection.close()


def test_what_nobody_waits_for_is_not_scored(local):
    verifier = Gated(local)
    with serving(verifier) as server, ThreadPoolExecutor(2) as threads:
        first = threads.submit(sent, server, "POST", "/score", SCORE)
        assert verifier.begun.wait(60)
        gone = socket.create_connection(("127.0.0.1", server.port))
        body = asked([PROMPT], ["7 = 7"])
        gone.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: server.pool.queue.unfinished == 2)
        gone.close()
        wait_until(lambda: server.pool.queue.unfinished == 1)
        verifier.go_on.set()
        assert first.result()[0] == 200
        assert sent(server, "POST", "/score", SCORE)[0] == 200
        assert server.pool.metrics.total("requests", path="/score", status="499") == 1
    assert verifier.asked == [[COMPLETION], [COMPLETION]]


# --- Health.


@pytest.fixture
def slow_to_load(local):
    """A server whose worker loads when it is told."""
    loaded = threading.Event()

    class Slow(InThisProcess):
        def __init__(self, index):
            super().__init__(local)
            self.known, self.identity = self.identity, None

        def load(self):
            assert loaded.wait(60)
            self.identity = self.known

    server = ScoreServer("127.0.0.1", 0, "slow", "s3cret")
    server.loaded, server.worker = loaded, Slow
    yield server
    loaded.set()
    server.close()


def test_while_it_loads_the_server_says_so(slow_to_load, local):
    server, ready = slow_to_load, threading.Event()
    with pytest.raises(UserError, match=r"refused\), after 1 attempt\."):
        RemoteRewardModel(server.url, retries=0)
    server.on_ready = ready.set
    server.start(server.worker, workers=2)
    with running(server):
        state = {"status": "loading", "workers": {"ready": 0, "of": 2}}
        status, headers, reply = exchanged(server, "GET", "/health")
        assert (status, headers["retry-after"]) == (503, "5")
        assert json.loads(reply) == {"error": "the verifier is loading."} | state
        token = {"Authorization": "Bearer s3cret"}.items()
        # The keys are those of a server that is ready; what only the verifier knows is null.
        known = {"rlstep": __version__, "name": "slow", "fingerprint": None, "max_request_bytes": 64 << 20}
        unknown = dict.fromkeys(("kind", "boundary", "prompt_format"))
        wanted = {"error": "the verifier is loading."} | state | known | unknown
        assert sent(server, "GET", "/health", headers=token) == (503, wanted)
        assert sent(server, "POST", "/score", SCORE, token) == (503, {"error": "the verifier is loading."})
        assert not ready.is_set()
        with pytest.raises(UserError, match=r"cannot be reached \(status 503: the verifier is loading\.\)"):
            RemoteRewardModel(server.url, retries=0)
        server.loaded.set()
        assert ready.wait(60)
        actual = sent(server, "GET", "/health", headers=token)[1]
        assert actual.keys() == wanted.keys() - {"error"}
        assert (actual["status"], actual["workers"], actual["name"]) == ("ready", {"ready": 2, "of": 2}, "slow")
        client = RemoteRewardModel(server.url, token="s3cret")
        assert client.score([PROMPT], [COMPLETION]) == local.score([PROMPT], [COMPLETION])


# --- The end.


def test_a_server_that_stops_finishes_what_it_has_and_refuses_the_rest(local):
    verifier = Gated(local)
    with serving(verifier) as server, ThreadPoolExecutor(4) as threads:
        replies = [threads.submit(sent, server, "POST", "/score", SCORE)]
        assert verifier.begun.wait(60)
        replies += [threads.submit(sent, server, "POST", "/score", SCORE) for _ in range(3)]
        wait_until(lambda: server.pool.queue.unfinished == 4)
        server.stop()
        assert sent(server, "POST", "/score", SCORE) == (503, {"error": "the server is stopping."})
        stopping = sent(server, "GET", "/health")[1]
        assert (stopping["status"], stopping["error"]) == ("stopping", "the server is stopping.")
        assert (stopping["kind"], stopping["name"]) == ("prm", "tiny")
        verifier.go_on.set()
        assert [reply.result() for reply in replies] == [(200, {"scores": local.score([PROMPT], [COMPLETION])})] * 4


def test_after_its_bound_a_server_that_stops_tells_those_who_wait(local):
    verifier = Gated(local)
    with serving(verifier, stop_s=0.2) as server, ThreadPoolExecutor(2) as threads:
        replies = [threads.submit(sent, server, "POST", "/score", SCORE)]
        assert verifier.begun.wait(60)
        replies.append(threads.submit(sent, server, "POST", "/score", SCORE))
        wait_until(lambda: server.pool.queue.unfinished == 2)
        server.stop()
        assert [reply.result() for reply in replies] == [(503, {"error": "the server has stopped."})] * 2
        verifier.go_on.set()


def test_a_body_that_a_server_stops_before_is_not_a_fault_of_the_server(local, monkeypatch, caplog):
    monkeypatch.setattr(server_module, "GOODBYE_S", 0.2)
    half = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    with serving(local) as server, ThreadPoolExecutor(1) as threads:
        begun, read = threading.Event(), Request.stream
        monkeypatch.setattr(Request, "stream", lambda request: begun.set() or read(request))
        reply = threads.submit(raw, server, half)
        assert begun.wait(60)
        server.stop()
        head, _, body = reply.result().partition(b"\r\n\r\n")
        counted = server.pool.metrics.total("requests", path="/score", status="503")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body) == {"error": "the server has stopped."}
    assert counted == 1
    assert "Traceback" not in caplog.text


def test_a_second_signal_ends_the_server_at_once(local):
    """In this thread, as signals reach no other."""
    verifier, replies = Gated(local), []
    server = opened(ScoreServer("127.0.0.1", 0, "tiny", limits=Limits(stop_s=600)), verifier)

    def ask_and_interrupt():
        with ThreadPoolExecutor(1) as threads:
            reply = threads.submit(sent, server, "POST", "/score", SCORE)
            assert verifier.begun.wait(60)
            os.kill(os.getpid(), signal.SIGINT)
            wait_until(lambda: server.pool.queue.stopped)
            assert sent(server, "GET", "/health")[0] == 503, "it goes on for the sake of the first request"
            os.kill(os.getpid(), signal.SIGINT)
            replies.append(reply.result())

    thread = threading.Thread(target=ask_and_interrupt)
    thread.start()
    server.serve_forever()
    thread.join()
    assert replies == [(503, {"error": "the server has stopped."})]
    verifier.go_on.set()
    server.close()


# --- Counts.


def counts(server) -> dict[tuple, float]:
    """Value of each sample of /metrics, by its name and labels."""
    status, headers, text = exchanged(server, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(text.decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_metrics_count_what_was_asked_and_answered(local, task):
    prompts, completions = texts(task, 5)
    before = local.tokens_scored
    verifier = Gated(local)
    with serving(local) as server:
        for n in (2, 3):
            assert sent(server, "POST", "/score", asked(prompts[:n], completions[:n]))[0] == 200
        assert sent(server, "POST", "/score", b"{")[0] == 400
        assert sent(server, "POST", "/score", asked([PROMPT], [TOO_LONG]))[0] == 422
        assert sent(server, "GET", "/nowhere")[0] == 404
        actual = counts(server)
    assert actual["rlstep_serve_requests_total", "/score", "200"] == 2
    assert actual["rlstep_serve_requests_total", "/score", "400"] == 1
    assert actual["rlstep_serve_requests_total", "/score", "422"] == 1
    assert actual["rlstep_serve_requests_total", "other", "404"] == 1
    assert actual["rlstep_serve_rows_total",] == 5
    assert actual["rlstep_serve_tokens_total",] == local.tokens_scored - before > 0
    assert actual["rlstep_serve_batch_rows_bucket", "2.0"] == 1
    assert actual["rlstep_serve_batch_rows_sum",] == 5
    assert actual["rlstep_serve_batch_requests_sum",] == 2
    assert actual["rlstep_serve_score_seconds_count",] == 2
    assert 0 < actual["rlstep_serve_score_seconds_sum",] < 60
    assert actual["rlstep_serve_workers_ready",] == 1
    assert actual["rlstep_serve_worker_deaths_total",] == 0
    with serving(verifier) as server, ThreadPoolExecutor(2) as threads:
        threads.submit(sent, server, "POST", "/score", SCORE)
        assert verifier.begun.wait(60)
        threads.submit(sent, server, "POST", "/score", asked(prompts, completions))
        wait_until(lambda: server.pool.queue.unfinished == 2)
        actual = counts(server)
        assert actual["rlstep_serve_queue_rows",] == 5
        assert actual["rlstep_serve_unfinished_requests",] == 2
        assert actual["rlstep_serve_rows_total",] == 0, "each server counts its own"
        verifier.go_on.set()


def test_faults_of_the_server_are_counted(local, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError

    with serving(local) as server:
        with monkeypatch.context() as patch:
            patch.setattr(app_module, "_health", fails)
            assert sent(server, "GET", "/health") == (500, {"error": "the server failed; its own output says how."})
        assert counts(server)["rlstep_serve_requests_total", "/health", "500"] == 1


def test_latency_begins_with_the_last_byte(local, monkeypatch):
    """A large request takes long to be read as JSON."""
    read = app_module.parse
    monkeypatch.setattr(app_module, "parse", lambda body: time.sleep(0.3) or read(body))
    with serving(local) as server:
        assert sent(server, "POST", "/score", SCORE)[0] == 200
        assert counts(server)["rlstep_serve_score_seconds_sum",] >= 0.3


def test_limits_have_the_stages_defaults():
    from rlstep.stages.serve import ServeConfig

    config, limits = ServeConfig("folder"), Limits()
    assert (limits.max_queue, limits.batch_rows, limits.across_clients, limits.stop_s) == (
        config.max_queue, config.batch_rows, config.batch_across_clients, config.stop_seconds,
    )  # fmt: skip
    assert limits.max_request_bytes == config.max_request_mb << 20
