"""The `serve` stage: its settings, its processes, and how it begins and ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints
from urllib.parse import urlsplit

import pytest

from rlstep.runtime.errors import UserError
from rlstep.stages.score import ScoreConfig
from rlstep.stages.serve import ServeConfig, serve
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompt_options import PromptOptions
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.client import RemoteRewardModel
from rlstep.verifiers.serving.server import Limits, ScoreServer
from tests.verifiers.serving.servers import COMPLETION, PROMPT, exchanged, free_port, opened, running, texts, wait_until


@pytest.fixture(scope="module")
def local(verifier_paths) -> RewardModel:
    return RewardModel.from_pretrained(verifier_paths["prm"])


@pytest.fixture
def interrupted(monkeypatch):
    """`serve` in this process: calls the given function with the server's URL, then ends it."""

    answer = ScoreServer.serve_forever

    def run(config, ask, loaded: bool = True) -> tuple[dict, ScoreServer]:
        servers = []

        def serve_forever(server):
            servers.append(server)
            thread = threading.Thread(target=answer, args=(server,))
            thread.start()
            try:
                wait_until(lambda: server.pool.ready == config.workers or not loaded)
                ask(server.url)
            finally:
                server.stop()
                thread.join()

        monkeypatch.setattr(ScoreServer, "serve_forever", serve_forever)
        return serve(config), servers[0]

    return run


@pytest.mark.distributed
@pytest.mark.slow
def test_serve_says_where_and_counts(verifier_paths, local, task, interrupted, capsys, monkeypatch):
    monkeypatch.setenv("RLSTEP_SERVE_TOKEN", "s3cret")
    prompts, completions = texts(task, 4)
    actual = []

    def ask(url):
        client = RemoteRewardModel(url, batch_rows=3)
        actual.extend(client.score(prompts, completions))
        with pytest.raises(UserError):
            client.score([PROMPT], ["7 + 3 = 10\n" * 200])

    config = ServeConfig(verifier_paths["prm"], port=0, name="mine")
    metrics, server = interrupted(config, ask)
    assert metrics == {"requests": 2, "rows": 4}
    assert capsys.readouterr().out == f"prm 'mine' at {server.url}, for requests with its token (Ctrl-C ends it)\n"
    assert urlsplit(server.url).hostname == "127.0.0.1"
    assert sum(actual, []) == pytest.approx(sum(local.score(prompts, completions), []), abs=1e-6)
    with pytest.raises(UserError, match="cannot be reached"):
        RemoteRewardModel(server.url, retries=0)


def test_serve_listens_to_other_machines_when_asked(verifier_paths, interrupted):
    config = ServeConfig(verifier_paths["prm"], host="0.0.0.0", port=0, max_request_mb=2)
    _, server = interrupted(config, lambda url: None, loaded=False)
    assert urlsplit(server.url).hostname == socket.gethostname().lower()
    assert server.limits.max_request_bytes == 2 << 20
    assert ServeConfig(verifier_paths["prm"]).host == "127.0.0.1"
    assert "no authentication" in ServeConfig.__dataclass_fields__["host"].metadata["help"]


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [("0.0.0.0", None, True), ("0.0.0.0", "s3cret", False), ("127.0.0.1", None, False), ("localhost", None, False)],
)
def test_serve_warns_of_an_open_server(verifier_paths, interrupted, caplog, capsys, monkeypatch, host, token, warned):
    monkeypatch.delenv("RLSTEP_SERVE_TOKEN", raising=False)
    answered = []
    _, server = interrupted(
        ServeConfig(verifier_paths["prm"], host=host, port=0, token=token),
        lambda url: answered.append(exchanged(SimpleNamespace(port=urlsplit(url).port), "GET", "/metrics")[0]),
        loaded=False,
    )
    assert ("is open to everyone who can reach it: set RLSTEP_SERVE_TOKEN" in caplog.text) == warned
    assert answered == [200 if token is None else 401]
    assert "s3cret" not in capsys.readouterr().out + caplog.text


def test_serve_takes_the_token_of_the_environment(verifier_paths, interrupted, monkeypatch):
    monkeypatch.setenv("RLSTEP_SERVE_TOKEN", "s3cret")
    actual = []

    def ask(url):
        server = SimpleNamespace(port=urlsplit(url).port)
        for headers in ({}, {"Authorization": "Bearer s3cret"}):
            actual.append(exchanged(server, "GET", "/metrics", headers=headers.items())[0])

    interrupted(ServeConfig(verifier_paths["prm"], port=0), ask, loaded=False)
    assert actual == [401, 200]


def test_serve_takes_ipv6(local):
    try:
        server = ScoreServer("::1", 0, "six")
    except UserError:
        pytest.skip("this machine has no IPv6")
    with running(opened(server, local)):
        assert server.url.startswith("http://[::1]:")
        assert RemoteRewardModel(server.url).score([PROMPT], [COMPLETION]) == local.score([PROMPT], [COMPLETION])


def test_a_taken_port_is_refused_before_anything_is_loaded():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match=r"cannot listen at 127.0.0.1, port \d+ \(Address already in use\)"),
    ):
        serve(ServeConfig("no/such/model", port=taken.getsockname()[1]))
    with pytest.raises(UserError, match="cannot listen at host.invalid, port 0"):
        serve(ServeConfig("no/such/model", host="host.invalid", port=0))


@pytest.mark.distributed
@pytest.mark.slow
def test_an_empty_host_is_refused():
    """The system takes it for every address of the machine."""
    with pytest.raises(UserError, match=r"host is empty. Give 127\.0\.0\.1 .* or 0\.0\.0\.0"):
        serve(ServeConfig("nowhere", host="", port=0))


def test_serve_refuses_what_is_no_verifier_and_frees_the_port(tiny_lm):
    port = free_port()
    with pytest.raises(UserError, match="is no rlstep verifier"):
        serve(ServeConfig(tiny_lm, port=port))
    ScoreServer("127.0.0.1", port, "free").close()


def test_options_of_score_reach_the_verifier(verifier_paths, monkeypatch):
    given = {}

    def load(path, device, **options):
        given.update(options, path=path, device=device)

    monkeypatch.setattr(RewardModel, "from_pretrained", load)
    monkeypatch.setattr(ScoreServer, "start", lambda server, worker, workers: worker.args[0].load("cpu"))
    monkeypatch.setattr(ScoreServer, "serve_forever", lambda server: None)
    options = {
        "dtype": "bfloat16", "batch_tokens": 99, "kind": "orm", "layout": "qwen", "neutral": "ignore",
        "packing": False, "trust_remote_code": True, "attn_implementation": "eager",
    }  # fmt: skip
    serve(ServeConfig("folder", port=0, boundary="tag", boundary_tag="=", **options), PromptOptions("chat"))
    place = {"path": "folder", "device": "cpu", "gives": "probability"}
    assert given == options | place | {"boundary": Boundary("tag", "="), "prompts": PromptOptions("chat")}
    hints, theirs = get_type_hints(ServeConfig), get_type_hints(ScoreConfig)
    for name in (*options, "boundary", "boundary_tag"):
        mine, other = ServeConfig.__dataclass_fields__[name], ScoreConfig.__dataclass_fields__[name]
        assert (hints[name], mine.default, mine.metadata) == (theirs[name], other.default, other.metadata)


def test_limits_reach_the_server(monkeypatch):
    servers = []
    monkeypatch.setattr(ScoreServer, "start", lambda server, worker, workers: servers.append((server, workers)))
    monkeypatch.setattr(ScoreServer, "serve_forever", lambda server: None)
    settings = {"max_queue": 5, "batch_rows": 6, "batch_across_clients": False, "stop_seconds": 7.5, "workers": 3}
    serve(ServeConfig("folder", port=0, max_request_mb=2, **settings))
    ((server, workers),) = servers
    assert server.limits == Limits(2 << 20, 5, 6, False, 7.5)
    assert workers == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"port": -1}, "port is -1"),
        ({"port": 65536}, "port is 65536"),
        ({"model": ""}, "model is empty; give a verifier's folder or hub id"),
        ({"name": ""}, "name is empty; give one, or leave it out"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"max_request_mb": 0}, "max_request_mb is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"max_queue": 0}, "max_queue is 0"),
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"stop_seconds": -1}, "stop_seconds is -1"),
        ({"boundary_tag": "="}, "boundary is null, so boundary_tag would do nothing"),
        ({"boundary": "tag"}, 'boundary rule "tag" needs the text'),
    ],
)
def test_settings_are_checked(options, reason):
    with pytest.raises(UserError, match=reason):
        ServeConfig(**{"model": "folder"} | options)


def test_the_name_is_the_folders_or_the_hubs(tmp_path):
    assert ServeConfig(str(tmp_path)).name == tmp_path.name
    assert ServeConfig("Qwen/Qwen2.5-Math-PRM-7B").name == "Qwen/Qwen2.5-Math-PRM-7B"
    assert ServeConfig(str(tmp_path), name="mine").name == "mine"


# --- A process of its own.


@contextmanager
def started(path: str, *options: str):
    """`rlstep serve` on any port, and a function that waits for its URL."""
    # A test run in the background has SIGINT ignored, and its children inherit that.
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from rlstep.cli import main"
    command = [sys.executable, "-c", f"{script}; sys.exit(main())", "serve", "--model", path, "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(300, process.kill)
        watchdog.start()
        try:
            yield process, lambda: re.findall(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        finally:
            watchdog.cancel()
            process.kill()


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_rlstep_serve_ends_at_ctrl_c_and_sigterm(verifier_paths, local, by):
    with started(verifier_paths["prm"]) as (process, url):
        actual = RemoteRewardModel(url()).score([PROMPT], [COMPLETION])
        process.send_signal(by)
        out, err = process.communicate()
    assert actual == local.score([PROMPT], [COMPLETION])
    assert (process.returncode, out) == (0, "serve: requests 1, rows 1\n")
    assert "Traceback" not in err
