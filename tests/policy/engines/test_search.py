"""`rlstep sample --search` by a server and by vLLM's offline engine, of which there are fakes here."""

import pytest

from rlstep.runtime.errors import UserError
from tests.model_server import ModelServer

COMPLETIONS = "/v1/completions"


@pytest.fixture
def server(tiny_lm):
    server = ModelServer(models={tiny_lm: tiny_lm})
    yield server
    server.close()


@pytest.fixture
def searched(rows_of, verifier_paths):
    """Rows of a search with an untrained PRM and settings changed."""
    asked = {"search": "beam", "prm": verifier_paths["prm"], "beam_width": 2, "max_new_tokens": 40, "batch_size": 12}
    return lambda **changes: rows_of(**(asked | changes))


@pytest.fixture
def engines(server, fake):
    return {"server": {"engine": "server", "url": server.url}, "vllm": {"engine": "vllm"}}


def test_greedy_rows_are_those_of_transformers(searched, engines):
    greedy = {"n": 1, "beam_width": 1, "temperature": 0.0}
    here = searched(**greedy)
    assert any(len(row["steps"]) > 1 for row in here)
    for options in engines.values():
        rows = searched(**greedy, **options)
        for name in ("completion", "finished", "steps", "generated_tokens"):
            assert [row[name] for row in rows] == [row[name] for row in here], name


def test_the_seed_decides_in_whatever_batches(searched, engines):
    first = searched(**engines["server"])
    assert searched(**engines["server"], batch_size=4, concurrency=2) == first
    assert searched(**engines["vllm"]) == first
    assert searched(**engines["server"], seed=1) != first


def test_steps_are_asked_for_one_by_one(searched, engines, server, tiny_lm):
    rows = searched(**engines["server"], n=2)
    bodies = server.asked(COMPLETIONS)
    assert {tuple(body["stop"]) for body in bodies} == {("\n",)}
    assert {body["return_token_ids"] for body in bodies} == {True}
    # What is left of the 40 tokens, less from step to step.
    assert bodies[0]["max_tokens"] == 40 > min(body["max_tokens"] for body in bodies) >= 1
    assert len({body["seed"] for body in bodies}) == len(bodies)
    assert sum(row["generated_tokens"] for row in rows) > 0


def test_the_last_step_goes_on_to_the_end(searched, engines, server):
    searched(**engines["server"], n=2, search_steps=1)
    assert not any("stop" in body for body in server.asked(COMPLETIONS))


def test_a_server_that_gives_no_token_is_named(searched, engines, server):
    answer = {"choices": [{"text": "", "finish_reason": "stop", "token_ids": []}]}
    server.fault = lambda path, _: answer if path == COMPLETIONS else None
    with pytest.raises(UserError, match="problem '.*', sample 0: .* gave no completion: expected a token, got none"):
        searched(**engines["server"], n=2)
