"""A verifier on a vLLM server: the values of a `RewardModel`, from a stub that runs the same weights."""

import json
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests
import torch
from fastapi.responses import PlainTextResponse
from transformers import AutoModelForTokenClassification, AutoTokenizer

from rlstep.policy.options import PPOOptions
from rlstep.policy.rewards.sources import load_verifiers, wants_base
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.export import ExportConfig, export
from rlstep.stages.score import ScoreConfig, score
from rlstep.stages.serve import ServeConfig
from rlstep.stages.serve import serve as serve_stage
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import read_solutions
from rlstep.tasks.small import small_model
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.server import ScoreServer
from rlstep.verifiers.serving.vllm_pooling import PooledRewardModel
from rlstep.verifiers.serving.worker import Unreached, score_rows
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier
from tests.model_server import ModelServer, error


@pytest.fixture
def serve():
    servers = []

    def start(path: str, **options) -> ModelServer:
        servers.append(ModelServer(models={path: path}, classifies=True, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def address(server: ModelServer, name: str | None = None) -> str:
    return f"vllm+{server.url}/{name or next(iter(server.models))}"


@pytest.fixture
def rows(solutions) -> tuple[list, list, list]:
    """The second row twice, and one without a step."""
    solutions = [*solutions, solutions[1]]
    texts = [s.prompt for s in solutions], [s.completion for s in solutions], [s.steps for s in solutions]
    return *(kind + [kind[0]] for kind in texts[:2]), [*texts[2], []]


@pytest.mark.parametrize("kind", ["prm", "orm"])
def test_values_are_those_of_the_same_weights_here(serve, verifier_paths, rows, kind):
    server = serve(verifier_paths[kind])
    remote, local = load_verifier(address(server)), RewardModel.from_pretrained(verifier_paths[kind])
    for asked in (rows, rows[:2]):
        values = remote.score(*asked)
        for ours, theirs in zip(values, local.score(*asked), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
    assert len({value for row in values for value in row}) > 20
    assert (remote.kind, remote.gives, remote.boundary) == (kind, "probability", local.boundary)
    assert remote.prompt_format == local.prompt_format
    # Equal rows are asked once, and the one without a step not at all.
    assert remote.rows_scored == 13 + 12
    assert len(server.asked("/pooling")) == 12 + 12
    assert remote.tokens_scored == sum(len(body["input"]) for body in server.asked("/pooling"))


@pytest.mark.parametrize("neutral", ["positive", "negative", "ignore"])
def test_a_third_class_counts_as_asked(serve, tiny_lm, tokenizer, rows, tmp_path, neutral):
    from rlstep.steps.labels import LabelPolicy

    torch.manual_seed(3)
    new_verifier(tiny_lm, VerifierSpec("prm", policy=LabelPolicy(neutral="class"))).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    server = serve(str(tmp_path))
    remote = load_verifier(address(server), neutral=neutral).score(*rows)
    for ours, theirs in zip(remote, load_verifier(str(tmp_path), neutral=neutral).score(*rows), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_an_exported_prm_of_label_tokens_is_served(serve, tiny_lm, tokenizer, rows, tmp_path):
    spec = VerifierSpec("prm", head="token", label_tokens=(5, 6))
    path = str(tmp_path / "token")
    new_verifier(tiny_lm, spec).save_pretrained(path)
    tokenizer.save_pretrained(path)
    with pytest.raises(UserError, match=r"is no token classifier.*rlstep export .* --to DIR --what prm"):
        load_verifier(f"vllm+http://127.0.0.1:1/{path}")
    export(ExportConfig(policy=path, out=str(tmp_path / "exported"), what="prm"))
    server = serve(str(tmp_path / "exported"))
    for ours, theirs in zip(load_verifier(address(server)).score(*rows), load_verifier(path).score(*rows), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_classifier_of_others_needs_its_kind(serve, verifier_paths, rows, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    del model.config.rlstep_verifier
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(verifier_paths["prm"]).save_pretrained(tmp_path)
    server = serve(str(tmp_path))
    with pytest.raises(UserError, match="is no rlstep verifier"):
        load_verifier(address(server))
    remote = load_verifier(address(server), kind="prm", boundary=Boundary("sentence"))
    assert remote.boundary == Boundary("sentence")
    assert remote.score(*rows)[0] == pytest.approx(load_verifier(verifier_paths["prm"]).score(*rows)[0], abs=1e-6)


def test_only_as_many_requests_at_a_time(serve, verifier_paths, rows):
    server = serve(verifier_paths["prm"])
    load_verifier(address(server), concurrency=2).score(*rows)
    assert 1 <= server.most <= 2


def test_after_a_refusal_other_rows_are_asked_for_as_before(serve, verifier_paths, rows):
    """And again where that may help: the first refusal ends the waiting of its own call alone."""
    server = serve(verifier_paths["prm"])
    remote = load_verifier(address(server))
    server.fault = lambda path, _: error(400, "no") if path == "/pooling" else None
    with pytest.raises(UserError, match="refuses a row"):
        remote.score(*rows)
    server.calls.clear()
    faults = iter([error(503, "busy", Retry_After="0")])
    server.fault = lambda path, _: next(faults, None) if path == "/pooling" else None
    assert len(remote.score(*rows)) == len(rows[0])
    assert len(server.asked("/pooling")) == 1 + 12


# --- `rlstep score`


@pytest.fixture
def data(tmp_path, solutions) -> str:
    solutions[0].steps = solutions[0].labels = None
    path = tmp_path / "solutions.jsonl"
    write_rows(path, (solution.to_row() for solution in solutions))
    return str(path)


def test_the_stage_scores_as_with_the_weights_here(serve, verifier_paths, data, tmp_path):
    server, outs = serve(verifier_paths["prm"]), (tmp_path / "here.jsonl", tmp_path / "there.jsonl")
    score(ScoreConfig(verifier_paths["prm"], data, str(outs[0])))
    metrics = score(ScoreConfig(address(server), data, str(outs[1])))
    assert (metrics["rows"], metrics["different_rows"]) == (12, 12)
    for here, there in zip(*map(read_solutions, outs), strict=True):
        assert there.scores.pop("prm") == pytest.approx(here.scores.pop("prm"), abs=1e-6)
        assert here == there


def test_the_stage_goes_on_with_another_server(serve, verifier_paths, data, tmp_path, monkeypatch):
    monkeypatch.setattr("rlstep.runtime.json_client.FIRST_WAIT_S", 1000.0)  # longer than is waited
    first, second = serve(verifier_paths["prm"]), serve(verifier_paths["prm"])
    first.fault = lambda path, _: error(503, "stopping") if len(first.asked("/pooling")) > 7 else None
    out = str(tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"status 503 \(stopping\)"):
        score(ScoreConfig(address(first), data, out, chunk_rows=5))
    written = sum(1 for part in Path(out + ".partial").glob("*.jsonl") for _ in part.open())
    assert written in range(3, 8)  # a chunk or two, of three to five rows
    score(ScoreConfig(address(second), data, out, chunk_rows=5))
    assert len(second.asked("/pooling")) == 12 - written
    assert len(read_solutions(out)) == 12
    assert json.loads(Path(out + ".run.json").read_text())["config"]["model"] == address(second)


def test_a_row_too_long_for_the_served_model_is_named(serve, verifier_paths, data, tmp_path):
    server = serve(verifier_paths["prm"], context=20)
    with pytest.raises(UserError, match=r"solutions.jsonl, row \d+ .*: \d+ tokens exceed the verifier's 20"):
        score(ScoreConfig(address(server), data, str(tmp_path / "out.jsonl")))
    assert server.asked("/pooling") == []


@pytest.mark.parametrize(
    ("name", "value"), [("batch_tokens", 7), ("dtype", "float32"), ("packing", False), ("layout", "qwen")]
)
def test_options_of_the_weights_are_refused(serve, verifier_paths, data, tmp_path, name, value):
    server = serve(verifier_paths["prm"])
    with pytest.raises(UserError, match=f"{name} is .*, but vllm.http.* makes no use of it: it is for a verifier that"):
        score(ScoreConfig(address(server), data, str(tmp_path / "out.jsonl"), **{name: value}))


def test_an_rlstep_serve_is_not_what_the_stage_asks(data, tmp_path):
    with pytest.raises(UserError, match="model is http://gpu7:8000; give a verifier.s folder or hub id"):
        ScoreConfig("http://gpu7:8000", data, str(tmp_path / "out.jsonl"))


# --- Elsewhere


def test_rlstep_serve_stands_before_it(serve, verifier_paths, rows, monkeypatch):
    server, values = serve(verifier_paths["prm"]), []

    def load(_, worker, workers: int):
        """In this process, instead of a worker's."""
        values.extend(worker.args[0].load("cpu").score(*rows))

    monkeypatch.setattr(ScoreServer, "start", load)
    monkeypatch.setattr(ScoreServer, "serve_forever", lambda _: None)
    serve_stage(ServeConfig(address(server), port=0))
    assert values == load_verifier(address(server)).score(*rows)
    with pytest.raises(UserError, match="batch_tokens is 7, but vllm.http.* makes no use of it"):
        serve_stage(ServeConfig(address(server), port=0, batch_tokens=7))


def test_behind_rlstep_serve_a_server_that_is_away_is_no_fault_of_the_rows(serve, verifier_paths, rows):
    server = serve(verifier_paths["prm"])
    verifier = PooledRewardModel(address(server), retry_for=0.1)
    requests_ = [(prompt, completion, steps, False) for prompt, completion, steps in zip(*rows, strict=True)]
    assert score_rows(verifier, requests_)[0] == verifier.score(*rows)
    server.close()
    with pytest.raises(Unreached, match=f"{server.url} cannot be reached"):
        score_rows(verifier, requests_)


def test_ppo_takes_it_for_its_prm(serve, verifier_paths, rows, ppo_arguments):
    server = serve(verifier_paths["prm"])
    options = PPOOptions("problems.jsonl", reward=["prm"], prm=address(server))
    assert not wants_base(options)
    verifier = load_verifiers(options, ppo_arguments()).models["prm"]
    assert verifier.score(*rows) == load_verifier(address(server)).score(*rows)


# --- What can go wrong


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vllm+http://gpu:8000", r"'vllm\+http://gpu:8000' is no verifier on a vLLM server; give vllm\+http://HOST"),
        ("vllm+http://gpu:8000/", "is no verifier on a vLLM server"),
        ("vllm+http://gpu:99999/prm", "is no vLLM server's address"),
        ("vllm+http://127.0.0.1:1/nowhere/at/all", "nowhere/at/all: no model can be loaded from here"),
    ],
)
def test_what_is_no_address_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        load_verifier(given)


def test_no_server_is_there(verifier_paths):
    with pytest.raises(UserError, match=r"http://127.0.0.1:1 cannot be reached \(Connection refused\)"):
        load_verifier(f"vllm+http://127.0.0.1:1/{verifier_paths['prm']}", retry_for=0.0)


def test_a_server_of_another_model_says_which(serve, verifier_paths):
    server = serve(verifier_paths["orm"])
    with pytest.raises(UserError, match=f"serves '{verifier_paths['orm']}', and no model '{verifier_paths['prm']}'"):
        load_verifier(address(server, verifier_paths["prm"]))


def test_an_implicit_prm_is_refused(verifier_paths, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    model.config.rlstep_verifier = {"kind": "implicit", "format": 3, "beta": 0.05}
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is an implicit PRM, of two models, which vLLM does not serve"):
        load_verifier(f"vllm+http://127.0.0.1:1/{tmp_path}")


def test_rewards_are_not_given(verifier_paths):
    with pytest.raises(UserError, match="gives probabilities, and gives: reward is for an implicit PRM"):
        load_verifier(f"vllm+http://127.0.0.1:1/{verifier_paths['prm']}", gives="reward")


def pooled(*logits) -> dict:
    return {"data": [{"index": i, "data": data} for i, data in enumerate(logits)]}


TOKENS = 7  # of the row that is asked about
ANSWERS = {
    "garbage": (PlainTextResponse("hello"), "does not answer in JSON"),
    "a list": ([1], "expected those of one row, got null"),
    "two rows": (pooled([], []), "expected those of one row"),
    "one number per token": (pooled([[0.5]] * TOKENS), "expected 7 times 2 finite numbers"),
    "a token too few": (pooled([[0.5, 2.0]] * (TOKENS - 1)), "expected 7 times 2 finite numbers"),
    "the last token alone": (pooled([0.5, 2.0]), "expected 7 times 2 finite numbers"),
    "text": (pooled([["a", "b"]] * TOKENS), "expected 7 times 2 finite numbers"),
    "no number": (PlainTextResponse(json.dumps(pooled([[float("nan"), 1.0]] * TOKENS))), "expected 7 times 2 finite"),
    "probabilities": (pooled([[0.25, 0.75]] * TOKENS), "gave probabilities where use_activation: false asks for"),
    "no pooling": (error(400, "The model does not support Pooling API"), "status 400: The model .* --runner pooling"),
    "gone": (error(404, "Not Found"), "pooling is not there, or the model"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_bad_answer_is_one_clear_line(serve, verifier_paths, tokenizer, case):
    answer, message = ANSWERS[case]
    server = serve(verifier_paths["prm"])
    prompt, completion = "Left to right, mod 20: 7 + 3\n", "7 + 3 = 10"
    assert len(tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"]) == TOKENS
    verifier = load_verifier(address(server), retry_for=0.0)
    server.fault = lambda path, _: answer if path == "/pooling" else None
    with pytest.raises(UserError, match=message) as raised:
        verifier.score([prompt], [completion])
    assert "\n" not in str(raised.value)


def test_a_served_softmax_would_be_noticed(serve, verifier_paths, rows):
    """As of a vLLM that does not know use_activation."""
    server = serve(verifier_paths["prm"])
    verifier = load_verifier(address(server))
    server.fault = lambda _, body: body.pop("use_activation", None) or None
    with pytest.raises(UserError, match="gave probabilities"):
        verifier.score(*rows)


# --- vLLM itself


@pytest.fixture
def vllm_serve(tmp_path):
    """Starts `vllm serve` with the given options; gives its address once it answers."""
    started = []

    def start(*options: str) -> str:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = str(unused.getsockname()[1])
        output = (tmp_path / "vllm.txt").open("w")
        command = [str(Path(sys.executable).with_name("vllm")), "serve", *options, "--port", port]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        started.append((process, output))
        for _ in range(240):
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                    return f"http://127.0.0.1:{port}"
            except requests.RequestException:
                assert process.poll() is None, (tmp_path / "vllm.txt").read_text()[-4000:]
            time.sleep(1)
        raise TimeoutError((tmp_path / "vllm.txt").read_text()[-4000:])

    yield start
    for process, output in started:
        process.terminate()
        process.wait(timeout=60)
        output.close()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm: pip install 'rlstep[vllm]'")
def test_vllm_itself(vllm_serve, tokenizer, rows, tmp_path):
    """Heads of 64: vLLM's attention kernels have no smaller ones."""
    lm, prm = str(tmp_path / "lm"), str(tmp_path / "prm")
    small_model(tokenizer, hidden_size=128, layers=2, heads=2, intermediate_size=256).save_pretrained(lm)
    new_verifier(lm, VerifierSpec("prm")).save_pretrained(prm)
    tokenizer.save_pretrained(prm)
    url = vllm_serve(
        prm, "--runner", "pooling", "--convert", "classify", "--dtype", "float32", "--max-model-len", "256"
    )
    for ours, theirs in zip(
        load_verifier(f"vllm+{url}/{prm}").score(*rows), load_verifier(prm, device="cpu").score(*rows), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-3)
