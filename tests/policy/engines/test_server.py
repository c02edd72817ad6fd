"""`rlstep sample --engine server`: the rows of transformers, from a server that speaks vLLM's protocol."""

import json
import logging
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fastapi.responses import PlainTextResponse, RedirectResponse
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlstep.runtime.errors import UserError
from rlstep.runtime.json_client import API_KEY_VARIABLE
from rlstep.runtime.rows import write_rows
from rlstep.stages.sample import sample
from rlstep.steps.prompt_options import PromptOptions
from tests.model_server import ModelServer, error

COMPLETIONS = "/v1/completions"


@pytest.fixture
def serve():
    servers = []

    def start(**options) -> ModelServer:
        servers.append(ModelServer(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(serve, tiny_lm) -> ModelServer:
    return serve(models={tiny_lm: tiny_lm})


@pytest.fixture
def from_server(rows_of, server):
    """Rows from the server by the recipe with some settings changed."""
    return lambda **changes: rows_of(**({"engine": "server", "url": server.url} | changes))


def only_completions(answer):
    """Every completion is answered so."""
    return lambda path, _: answer if path == COMPLETIONS else None


def before_completions(do):
    """Something is done before every completion."""

    def fault(path, _):
        if path == COMPLETIONS:
            do()

    return fault


# --- Rows


def test_greedy_rows_are_those_of_transformers(rows_of, from_server):
    assert from_server(n=1, temperature=0.0) == rows_of(n=1, temperature=0.0)


def test_the_seed_decides_each_row_in_whatever_batches(rows_of, from_server):
    first = from_server()
    assert from_server(batch_size=12, concurrency=3) == first
    assert from_server(batch_size=1) == first
    assert len({row["completion"] for row in first}) > 6
    other = from_server(seed=1)
    assert sum(a != b for a, b in zip(first, other, strict=True)) > 6
    # All but what was drawn is as by transformers.
    drawn = ("completion", "finished", "generated_tokens")
    bare = [[{k: v for k, v in row.items() if k not in drawn} for row in rows] for rows in (first, rows_of())]
    assert bare[0] == bare[1]


def test_more_samples_keep_the_first(from_server):
    few, more = from_server(n=2), from_server(n=4)
    assert [row for row in more if row["sample"] < 2] == few


@pytest.mark.parametrize("option", [{"top_p": 0.05}, {"top_k": 1}, {"temperature": 0.05}])
def test_each_way_to_truncate_narrows_the_choice(from_server, server, option):
    def kinds(**options) -> int:
        return len({row["completion"] for row in from_server(n=30, max_new_tokens=1, batch_size=90, **options)})

    assert kinds(**option) < kinds() / 2
    ((name, value),) = option.items()
    assert {body[name] for body in server.asked(COMPLETIONS)[:90]} == {value}
    assert {body["max_tokens"] for body in server.asked(COMPLETIONS)} == {1}


def test_habits_of_the_served_model_are_left_out(rows_of, from_server, server, tiny_lm):
    """What vLLM takes from generation_config.json where a request does not say otherwise."""
    plain = from_server(n=1, temperature=0.0)
    own = server.models[tiny_lm].generation_config
    own.repetition_penalty, own.eos_token_id = 50.0, list(range(4, 30))
    assert from_server(n=1, temperature=0.0) == plain


def test_completions_end_at_any_end_token_of_the_policy(rows_of, serve, tiny_lm, tmp_path):
    """Also at one that is no special token and stays in the text."""
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_lm), AutoModelForCausalLM.from_pretrained(tiny_lm)
    ends = tokenizer.convert_tokens_to_ids([str(digit) for digit in range(5)])
    model.generation_config.eos_token_id = ends
    model.save_pretrained(tmp_path / "ends")
    tokenizer.save_pretrained(tmp_path / "ends")
    # The served weights know nothing of them.
    server = serve(models={"policy": tiny_lm})
    options = {"model": str(tmp_path / "ends"), "n": 1, "temperature": 0.0}
    rows = rows_of(engine="server", url=server.url, served_model="policy", **options)
    assert rows == rows_of(**options)
    assert any(row["finished"] and row["completion"][-1:] in set("01234") for row in rows)
    assert {tuple(body["stop_token_ids"]) for body in server.asked(COMPLETIONS)} == {(tokenizer.eos_token_id, *ends)}


def test_a_chat_is_rendered_here(config, chat_lm, serve):
    server = serve(models={chat_lm: chat_lm})
    rows = []
    for name, options in (("server", {"engine": "server", "url": server.url}), ("here", {})):
        out = str(Path(config.out).with_name(f"{name}.jsonl"))
        given = {"model": chat_lm, "out": out, "n": 1, "temperature": 0.0} | options
        sample(replace(config, **given), PromptOptions(prompt_format="chat", system_prompt="Answer: "))
        rows.append(Path(out).read_text())
    assert rows[0] == rows[1]
    assert json.loads(rows[0].splitlines()[0])["prompt_format"]["system_prompt"] == "Answer: "


def test_an_adapter_is_named(rows_of, serve, tiny_lm, adapter):
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_lm), adapter).eval()
    server = serve(models={tiny_lm: tiny_lm, "tuned": tuned})
    options = {"model": adapter, "n": 1, "temperature": 0.0}
    rows = rows_of(engine="server", url=server.url, served_model="tuned", **options)
    assert rows == rows_of(**options)
    assert rows != rows_of(engine="server", url=server.url, served_model=tiny_lm, **options)


def test_a_url_may_end_as_openais_does(from_server, server):
    rows = from_server(n=1, temperature=0.0)
    assert from_server(n=1, temperature=0.0, url=f"{server.url}/v1/") == rows


# --- Servers of text


def test_a_server_of_text_is_asked_in_openais_words(rows_of, serve, tiny_lm):
    server = serve(models={tiny_lm: tiny_lm}, answers_tokens=False)
    rows = rows_of(engine="server", url=server.url, prompts_as="text", n=1, temperature=0.0)
    # This tokenizer adds nothing, and the server stops at the same token; of text nobody counts the tokens.
    assert rows == [row | {"generated_tokens": None} for row in rows_of(n=1, temperature=0.0)]
    known = {"model", "prompt", "n", "max_tokens", "temperature", "top_p", "seed"}
    assert {name for body in server.asked(COMPLETIONS) for name in body} == known
    assert [body["prompt"] for body in sorted(server.asked(COMPLETIONS), key=lambda b: b["prompt"])] == sorted(
        row["prompt"] for row in rows
    )


@pytest.mark.parametrize(("reason", "finished"), [("stop", True), ("length", False)])
def test_of_text_the_server_says_whether_it_is_finished(rows_of, serve, tiny_lm, reason, finished):
    choice = {"text": "7 + 3 = 10\n", "finish_reason": reason}
    server = serve(models={tiny_lm: tiny_lm}, fault=only_completions({"choices": [choice]}))
    rows = rows_of(engine="server", url=server.url, prompts_as="text")
    assert {(row["completion"], row["finished"]) for row in rows} == {("7 + 3 = 10\n", finished)}


@pytest.mark.parametrize("text", [None, 7, "7 + \ud83d"])
def test_what_is_no_text_is_refused(rows_of, serve, tiny_lm, text):
    answer = PlainTextResponse(json.dumps({"choices": [{"text": text, "finish_reason": "stop"}]}))
    server = serve(models={tiny_lm: tiny_lm}, fault=only_completions(answer))
    with pytest.raises(UserError, match="expected a text, got"):
        rows_of(engine="server", url=server.url, prompts_as="text")


# --- Many requests


def test_so_many_requests_are_there_at_a_time(from_server, server):
    # None is answered before three are there.
    server.fault = before_completions(threading.Barrier(3, timeout=60).wait)
    from_server(concurrency=3, batch_size=12)
    assert server.most == 3


def test_one_request_at_a_time(from_server, server):
    from_server(concurrency=1)
    assert server.most == 1


def test_a_request_that_fails_is_sent_again(from_server, server):
    plain = from_server()
    answers = iter([error(503, "starting"), error(429, "busy", Retry_After="0"), error(500, "oops")])
    server.fault = lambda path, _: next(answers, None) if path == COMPLETIONS else None
    before = len(server.calls)
    assert from_server(concurrency=1) == plain
    assert len(server.calls) - before == 1 + 12 + 3


def test_a_retry_after_is_honoured(from_server, server):
    """Its two seconds do not fit into the second that is left, and the half of one that is waited otherwise does."""
    for header, requests in (({"Retry_After": "2"}, 1), ({}, 2)):
        server.calls.clear()
        answers = iter([error(429, "busy", **header)])
        server.fault = lambda path, _, answers=answers: next(answers, None) if path == COMPLETIONS else None
        if header:
            with pytest.raises(UserError, match=r"status 429 \(busy\) and asks to wait 2 seconds; tried for 1 seconds"):
                from_server(retry_for=1.0, n=1, batch_size=1)
        else:
            from_server(retry_for=1.0, n=1, batch_size=1)
        assert len(server.asked(COMPLETIONS)[:2]) == requests


def test_nothing_is_lost_when_the_server_goes_away(config, rows_of, from_server, server, serve, tiny_lm):
    whole, asked = from_server(), len(server.asked(COMPLETIONS))
    assert asked == 12
    started = threading.Event()
    server.fault = lambda path, _: error(503, "stopping") if len(server.asked(COMPLETIONS)) > 12 + 7 else started.set()
    given = {"engine": "server", "url": server.url, "retry_for": 0.0, "concurrency": 2}
    with pytest.raises(UserError, match=r"answers with status 503 \(stopping\)"):
        sample(replace(config, **given))
    written = [line for part in Path(config.out + ".partial").glob("*.jsonl") for line in part.read_text().splitlines()]
    assert len(written) == 5
    # Elsewhere, and asked otherwise: the same rows.
    other = serve(models={tiny_lm: tiny_lm})
    changed = given | {"url": other.url, "retry_for": 5.0, "concurrency": 7, "request_timeout": 50.0}
    sample(replace(config, **changed))
    assert [json.loads(line) for line in Path(config.out).read_text().splitlines()] == whole
    assert len(other.asked(COMPLETIONS)) == 12 - 5


# --- What can go wrong


NO_TOKENS = {"choices": [{"text": "7", "finish_reason": "stop"}]}
ANSWERS = {
    "garbage": (PlainTextResponse("<html>hello</html>"), "does not answer in JSON.*<html>hello.*Is it the address"),
    "a list": ([1], "expected one choice, got null"),
    "no choices": ({"id": "x"}, "expected one choice, got null"),
    "two choices": ({"choices": [{}, {}]}, r"expected one choice, got \[\{\}, \{\}\]"),
    "aborted": ({"choices": [{"finish_reason": "abort"}]}, 'the completion ended by "abort"'),
    "text alone": (NO_TOKENS, "gave no tokens with the text; take vLLM 0.10.2 or later, or prompts_as: text"),
    "too many": ({"choices": [{"token_ids": [5] * 13, "finish_reason": "length"}]}, "expected 12 tokens at most"),
    "no numbers": ({"choices": [{"token_ids": ["7"], "finish_reason": "stop"}]}, r'at most, got \["7"\]'),
    "no token": ({"choices": [{"token_ids": [2**40], "finish_reason": "stop"}]}, r"at most, got \[1099511627776\]"),
    "endless brackets": (PlainTextResponse("[" * 100_000), "does not answer in JSON"),
    "refused": (error(400, "bad prompt.\nReally."), r"refuses the request, status 400: bad prompt. Really \(prom"),
    "gone": (error(404, "The model does not exist."), "v1/completions is not there, or the model"),
    "elsewhere": (RedirectResponse("https://example.com/"), "redirects to https://example.com/, which is not followed"),
    "private": (error(401, "no key"), f"asks for a key .status 401: no key.. Set {API_KEY_VARIABLE}"),
    "down": (error(502, "no backend"), r"answers with status 502 \(no backend\); tried for 0 seconds. Start"),
}  # fmt: skip


@pytest.mark.usefixtures("without_gc")
@pytest.mark.parametrize("case", ANSWERS)
def test_a_bad_answer_is_one_clear_line(config, from_server, server, case):
    answer, message = ANSWERS[case]
    server.fault = only_completions(answer)
    with pytest.raises(UserError, match=message) as raised:
        from_server(retry_for=0.0)
    assert "\n" not in str(raised.value)
    assert not Path(config.out).exists()


def test_a_row_is_named_where_it_is_the_row(from_server, server):
    server.fault = only_completions(error(400, "no"))
    with pytest.raises(UserError, match=r"^problem '[^']+', sample \d: http"):
        from_server()


def test_no_server_is_there(rows_of):
    with pytest.raises(UserError, match=r"127.0.0.1:1 cannot be reached \(Connection refused\); tried for 0 seconds"):
        rows_of(engine="server", url="http://127.0.0.1:1", retry_for=0.0)


def test_a_slow_server_is_given_up(from_server, server):
    awake = threading.Event()
    server.fault = before_completions(lambda: awake.wait(30))
    with pytest.raises(UserError, match="has not answered within 0.2 seconds. Raise request_timeout, or ask for less"):
        from_server(request_timeout=0.2, n=1, batch_size=1)
    awake.set()


def test_a_server_that_lists_its_models_late_is_asked_again(from_server, server, monkeypatch):
    monkeypatch.setattr("rlstep.runtime.json_client.GET_TIMEOUT_S", 0.5)
    late = threading.Event()

    def fault(path, _):
        if path == "/v1/models" and not late.is_set():
            late.set()
            threading.Event().wait(2)

    server.fault = fault
    from_server(n=1)
    assert [call.path for call in server.calls].count("/v1/models") == 2


def test_an_unknown_model_is_told_what_there_is(rows_of, serve, tiny_lm):
    server = serve(models={"base": tiny_lm, "tuned": tiny_lm})
    with pytest.raises(UserError, match=f"serves 'base', 'tuned', and no model '{tiny_lm}'. Name one of these"):
        rows_of(engine="server", url=server.url)
    assert server.asked(COMPLETIONS) == []


def test_what_lists_no_models_is_no_server_of_models(rows_of, server):
    server.fault = lambda *_: {"status": "ok"}
    with pytest.raises(UserError, match="does not list its models at /v1/models"):
        rows_of(engine="server", url=server.url)


def test_a_prompt_too_long_for_the_served_model_is_named(config, rows_of, serve, tiny_lm, task):
    server = serve(models={tiny_lm: tiny_lm}, context=40)
    rows = [asdict(problem) for problem in task.problems("test", 2, seed=0)]
    rows[1] |= {"id": "endless", "prompt": "Left to right, mod 20: 1" + " + 1" * 20 + "\n"}
    write_rows(config.problems, rows)
    with pytest.raises(
        UserError,
        match=r"row 2, .* 23 tokens .* and 18 new ones exceed the served model's \(max_model_len of .* 40 positions",
    ):
        rows_of(engine="server", url=server.url, max_new_tokens=18)
    assert server.asked(COMPLETIONS) == []
    rows_of(engine="server", url=server.url, max_new_tokens=17)


def test_the_first_error_ends_the_waiting_of_the_others(from_server, server, no_hang):
    """One is refused while others would be sent again after a minute."""
    numbers = iter(range(100))

    def fault(path, _):
        if path == COMPLETIONS:
            return error(400, "no") if next(numbers) == 4 else error(503, "busy", Retry_After="60")

    server.fault = fault
    with pytest.raises(UserError, match="status 400: no|status 503"):
        from_server(concurrency=5)
    assert len(server.asked(COMPLETIONS)) == 5


# --- The key


def test_the_key_goes_to_the_server_alone(config, from_server, server, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-secret-1")
    from_server(out=config.out)
    assert {call.headers["authorization"] for call in server.calls} == {"Bearer sk-secret-1"}
    server.fault = only_completions(error(400, "Incorrect API key provided: sk-secret-1."))
    with pytest.raises(UserError, match=r"Incorrect API key provided: \(key\)") as raised:
        from_server()
    server.fault = only_completions(error(403, "sk-secret-1 is no key"))
    with pytest.raises(UserError, match="refuses the key that it was given"):
        from_server()
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert "sk-secret-1" not in "".join([caplog.text, str(raised.value), *written])


def test_without_a_key_none_is_sent(from_server, server, monkeypatch, tmp_path):
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password of-another-service\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    # As of another machine: of this one, nothing is taken from the environment.
    monkeypatch.setattr("rlstep.runtime.json_connection.is_loopback", lambda host: False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    from_server(n=1)
    assert not any("authorization" in call.headers for call in server.calls)


def test_a_key_with_a_line_break_is_refused(from_server, monkeypatch):
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-secret\n")
    with pytest.raises(UserError, match=f"{API_KEY_VARIABLE} is empty or has characters") as raised:
        from_server()
    assert "sk-secret" not in str(raised.value)


def test_a_loopback_address_needs_no_proxy(from_server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    from_server(n=1)


# --- Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "server"}, "engine is 'server', so url must be set"),
        ({"url": "http://gpu:8000"}, "engine is 'transformers', so url would do nothing; set engine to 'server'"),
        ({"served_model": "x"}, "so served_model would do nothing"),
        ({"prompts_as": "text"}, "so prompts_as would do nothing"),
        ({"concurrency": 3}, "so concurrency would do nothing"),
        ({"request_timeout": 3.0}, "so request_timeout would do nothing"),
        ({"retry_for": 3.0}, "so retry_for would do nothing"),
        ({"engine": "server", "url": "gpu:8000"}, "url: 'gpu:8000' is no server's address; give http://HOST:PORT"),
        ({"engine": "server", "url": "http://h:1", "tensor_parallel_size": 2}, "tensor_parallel_size would do nothing"),
        ({"engine": "server", "url": "http://h:1", "dtype": "float32"}, "so dtype would do nothing"),
        ({"engine": "server", "url": "http://h:1", "concurrency": 0}, "concurrency is 0; it must be at least 1"),
        (
            {"engine": "server", "url": "http://h:1", "prompts_as": "text", "top_k": 5},
            "top_k is 5, which OpenAI's protocol lacks",
        ),
        ({"engine": "vllms"}, "engine is 'vllms'; it must be one of transformers, vllm, server"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, settings, message):
    with pytest.raises(UserError, match=message):
        replace(config, **settings)


def test_a_password_in_the_url_is_not_repeated(config):
    with pytest.raises(UserError, match="is no server's address") as raised:
        replace(config, engine="server", url="http://me:hunter2@gpu:8000")
    assert "hunter2" not in str(raised.value)
