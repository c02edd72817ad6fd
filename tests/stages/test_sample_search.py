"""`rlstep sample --search`: a policy whose next token never depends on the text, and PRMs that like certain tokens."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlstep.policy.guided_search import GuidedSearch
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.sample import SampleConfig, sample
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import read_solutions
from rlstep.tasks.small import small_model
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.identity import verifier_identity
from rlstep.verifiers.serving.server import ScoreServer
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier
from tests.stages.test_sample import Killed, kill_before
from tests.verifiers.serving.servers import opened, running

PLAIN = {"search": None, "prm": None, "beam_width": 4}
# What is next, with these probabilities.
WRITTEN = {"1\n": 0.4, "2\n": 0.4, "Answer: ": 0.15, "<eos>": 0.05}


@pytest.fixture(scope="module")
def policy(tiny_lm, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("uniform")
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_lm), AutoModelForCausalLM.from_pretrained(tiny_lm)
    hidden = model.config.hidden_size
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.ones(hidden).expand(len(tokenizer), -1))
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(len(tokenizer), hidden))
        for token, probability in WRITTEN.items():
            # The normalised state is all ones, so a row's sum is the token's logit: far above the others' 0.
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(token)] = 1 + math.log(probability) / hidden
    model.config.tie_word_embeddings = False
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


class ScriptedPRM:
    """A step with the text is likely right, others are not; or the other way round."""

    kind, gives, prompt_format = "prm", "probability", None

    def __init__(self, liked: str, boundary: Boundary):
        self.liked, self.boundary = liked, boundary

    def score(self, prompts, completions, steps, cut=False):
        return [[0.9 if self.liked in text[a:b] else 0.2 for a, b in spans]
                for text, spans in zip(completions, steps, strict=True)]  # fmt: skip


@pytest.fixture
def scripted(monkeypatch):
    """The PRM `likes-X` likes steps with an X in them."""

    def load(path, **_):
        return ScriptedPRM(path.removeprefix("likes-"), load.boundary)

    load.boundary = Boundary()
    monkeypatch.setattr("rlstep.verifiers.load.load_verifier", load)
    return load


@pytest.fixture
def config(policy, task, tmp_path) -> SampleConfig:
    """Three problems with eight beams each, in batches of one problem."""
    write_rows(tmp_path / "problems.jsonl", (asdict(p) for p in task.problems("test", 3, seed=0)))
    return SampleConfig(
        model=policy, problems=str(tmp_path / "problems.jsonl"), out=str(tmp_path / "out" / "found.jsonl"), n=8,
        max_new_tokens=12, batch_size=8, search="beam", prm="likes-2", beam_width=2,
    )  # fmt: skip


@pytest.fixture
def rows_of(config, tmp_path):
    number = iter(range(100))

    def run(**changes) -> list[dict]:
        out = str(tmp_path / f"{next(number)}.jsonl")
        sample(replace(config, **({"out": out} | changes)))
        return [json.loads(line) for line in Path(out).read_text().splitlines()]

    return run


def share_of_twos(rows: list[dict]) -> float:
    """Among the numbers that are written."""
    ones, twos = (sum(row["completion"].count(digit) for row in rows) for digit in "12")
    return twos / (ones + twos)


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("search", ["beam", "dvts"])
def test_a_search_finds_what_its_prm_prefers(rows_of, search):
    liked, other = rows_of(search=search), rows_of(search=search, prm="likes-1")
    # Half of those of independent samples; of two beams one has the number that is liked with 3/4.
    assert share_of_twos(liked) > 0.6 > 0.4 > share_of_twos(other)
    assert [(row["sample"], row["labels"]) for row in liked] == [(k, None) for _ in range(3) for k in range(8)]
    for row in liked:
        assert row["scores"]["prm"] == [0.9 if "2" in row["completion"][a:b] else 0.2 for a, b in row["steps"]]


@pytest.mark.usefixtures("scripted")
def test_one_beam_of_width_one_is_a_sample(rows_of):
    """One row at a time draws the same numbers, whether in steps or at once."""
    alone = {"n": 1, "batch_size": 1}
    searched = rows_of(**alone, beam_width=1)
    sampled = rows_of(**alone, **PLAIN)
    same = ("problem_id", "completion", "finished", "generated_tokens", "prompt_format")
    assert [[row[name] for name in same] for row in searched] == [[row[name] for name in same] for row in sampled]
    assert any(row["completion"].count("\n") > 1 for row in searched)


@pytest.mark.usefixtures("scripted")
def test_greedy_steps_are_the_greedy_completion(rows_of, tiny_lm):
    greedy = {"n": 1, "temperature": 0.0, "batch_size": 3, "model": tiny_lm}
    searched, sampled = rows_of(**greedy, beam_width=1), rows_of(**greedy, **PLAIN)
    assert [row["completion"] for row in searched] == [row["completion"] for row in sampled]


def test_generated_tokens_are_those_that_were_drawn(rows_of, policy):
    tokenizer = AutoTokenizer.from_pretrained(policy)
    for row in rows_of(**PLAIN):
        written = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        assert row["generated_tokens"] == len(written) + row["finished"]


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("search", ["beam", "dvts"])
def test_generated_tokens_of_a_search_are_all_that_were_drawn(rows_of, monkeypatch, search):
    """Counted where the engine gives them."""
    from rlstep.policy.engines.transformers_engine import TransformersEngine

    go_on, drawn = TransformersEngine.go_on, []

    def counted(self, begun, boundary):
        pieces = go_on(self, begun, boundary)
        drawn.extend(pieces)
        return pieces

    monkeypatch.setattr(TransformersEngine, "go_on", counted)
    rows = rows_of(search=search)
    assert sum(row["generated_tokens"] for row in rows) == sum(map(len, drawn))
    by_problem = [[row["generated_tokens"] for row in rows[start : start + 8]] for start in (0, 8, 16)]
    assert all(max(counts) - min(counts) <= 1 for counts in by_problem)
    assert sum(map(len, drawn)) > sum(len(row["completion"].splitlines()) for row in rows)


@pytest.mark.usefixtures("scripted")
def test_the_seed_decides(rows_of):
    assert rows_of() == rows_of()
    assert rows_of() != rows_of(seed=1)


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    "change",
    [{"search": "dvts"}, {"prm": "likes-1"}, {"beam_width": 4}, {"search_score": "last"}, {"search_steps": 2}],
)
def test_each_setting_changes_what_is_found(rows_of, change):
    before, after = rows_of(), rows_of(**change)
    assert [row["completion"] for row in before] != [row["completion"] for row in after]


@pytest.mark.usefixtures("scripted")
def test_steps_are_those_that_the_prm_was_taught(rows_of, scripted):
    by_line = rows_of()
    scripted.boundary = Boundary("tag", "2")
    assert {row["completion"][a:b][-1] for row in rows_of() for a, b in row["steps"][:-1]} <= {"2"}
    assert all(row["completion"][a:b].count("\n") == 1 for row in by_line for a, b in row["steps"][:-1])


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("calls", [1, 9, 28])
def test_a_killed_search_continues_to_the_same_rows(config, rows_of, monkeypatch, calls):
    whole = rows_of()
    with monkeypatch.context() as patch:
        kill_before(calls, patch)
        with pytest.raises(Killed):
            sample(config)
    kept = len([*Path(config.out + ".partial").glob("*.jsonl")])
    assert kept < 3
    assert kept > 0 or calls < 28
    sample(config)
    assert [json.loads(line) for line in Path(config.out).read_text().splitlines()] == whole


@pytest.mark.usefixtures("scripted")
def test_a_batch_holds_whole_problems(config, tmp_path):
    for batch_size, shards in ((1, 3), (15, 3), (16, 2), (100, 1)):
        out = tmp_path / f"shards-{batch_size}"
        sample(replace(config, batch_size=batch_size, out=str(out)))
        assert len([*out.glob("*.parquet")]) == shards
        assert [s.sample for s in read_solutions(out)] == [*range(8)] * 3


def test_the_scores_are_those_of_rlstep_score(config, tmp_path, tiny_lm, verifier_paths):
    """Of each step, also where the length limit cut the last one off."""
    actual = replace(config, model=tiny_lm, prm=verifier_paths["prm"], n=4, batch_size=12, max_new_tokens=24)
    sample(actual)
    before = read_solutions(actual.out)
    bare = [replace(s, steps=None, scores={}) for s in before]
    write_rows(tmp_path / "bare.jsonl", (s.to_row() for s in bare))
    score(ScoreConfig(verifier_paths["prm"], str(tmp_path / "bare.jsonl"), str(tmp_path / "scored.jsonl")))
    for one, other in zip(before, read_solutions(tmp_path / "scored.jsonl"), strict=True):
        assert one.steps == other.steps
        assert one.scores["prm"] == pytest.approx(other.scores["prm"], abs=1e-5)
    assert {len(s.steps) for s in before} - {0, 1}
    assert not all(s.finished for s in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prm": None}, "search is 'beam', so prm must be set"),
        ({"n": 7}, "n is 7 and beam_width 2, of which n must be a multiple"),
        ({"search": None, "beam_width": 4}, "search is null, so prm would do nothing; set search, or leave it at null"),
        ({"search": None, "prm": None}, "so beam_width would do nothing"),
        ({"search": None, "prm": None, "beam_width": 4, "search_score": "last"}, "so search_score would do nothing"),
        ({"search": None, "prm": None, "beam_width": 4, "search_steps": 3}, "so search_steps would do nothing"),
        ({"search": "mcts"}, "search is 'mcts'; it must be one of beam, dvts"),
        ({"search_score": "sum"}, "search_score is 'sum'"),
        (
            {"beam_width": 1, "search_score": "last", "search_steps": 3},
            "beam_width is 1, which drops no beam, so search_score and search_steps would do nothing",
        ),
        ({"search_steps": 1, "search_score": "last"}, "search_steps is 1.* so search_score would do nothing"),
        ({"beam_width": 0}, "beam_width is 0; it must be at least 1"),
        ({"search_steps": 0}, "search_steps is 0; it must be at least 1"),
        (
            {"engine": "server", "url": "http://x:1", "prompts_as": "text"},
            "prompts_as is 'text'; set prompts_as: tokens",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, change, message):
    with pytest.raises(UserError, match=message):
        replace(config, **change)


@pytest.mark.parametrize("rule", ["sentence", "heading", "math_line"])
def test_steps_that_are_over_only_when_the_next_has_begun_are_refused(config, scripted, rule, monkeypatch):
    scripted.boundary = Boundary(rule)
    kill_before(0, monkeypatch)
    with pytest.raises(UserError, match=f"likes-2 was taught steps by {rule}.*line, blank_line or tag"):
        sample(config)


def test_an_orm_is_refused(config, verifier_paths):
    with pytest.raises(UserError, match="is an orm, and a search is guided by a PRM.* implicit PRM, too"):
        sample(replace(config, prm=verifier_paths["orm"]))


def test_a_prm_that_is_too_short_is_refused_before_anything_is_sampled(config, verifier_paths, monkeypatch, tmp_path):
    from transformers import AutoModelForTokenClassification

    prm = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    prm.config.max_position_embeddings = 16
    prm.save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(verifier_paths["prm"]).save_pretrained(tmp_path / "short")
    kill_before(0, monkeypatch)
    with pytest.raises(UserError, match="the prm has 16 positions.*Lower max_new_tokens"):
        sample(replace(config, prm=str(tmp_path / "short")))


def test_solutions_that_a_prm_of_another_tokenizer_cannot_read_whole_are_cut_and_counted(
    config, byte_tokenizer, tmp_path, caplog
):
    """One token per byte, and room for prompt and completion if its tokens were the policy's."""
    longest = max(len(json.loads(line)["prompt"]) for line in Path(config.problems).read_text().splitlines())
    folder, size = tmp_path / "bytes", {"hidden_size": 32, "layers": 1, "heads": 2, "max_positions": longest + 12}
    small_model(byte_tokenizer, **size).save_pretrained(folder)
    new_verifier(str(folder), VerifierSpec("prm")).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    metrics = sample(replace(config, prm=str(folder)))
    solutions = read_solutions(config.out)
    assert len(solutions) == 24
    cut = [s for s in solutions if None in s.scores["prm"]]
    assert 0 < len(cut) == metrics["cut_rows"] < 24
    (told,) = [record.message for record in caplog.records if "too long" in record.message]
    assert f": {len(cut)} of 24 solutions." in told
    assert "Lower max_new_tokens" in told
    # As `rlstep score` cuts.
    write_rows(tmp_path / "bare.jsonl", (replace(s, scores={}).to_row() for s in solutions))
    options = {"out": str(tmp_path / "scored.jsonl"), "on_long_row": "cut"}
    assert score(ScoreConfig(str(folder), str(tmp_path / "bare.jsonl"), **options))["cut_rows"] == len(cut)
    for one, other in zip(solutions, read_solutions(options["out"]), strict=True):
        assert one.scores["prm"] == pytest.approx(other.scores["prm"], abs=1e-5)


def test_solutions_that_fit_are_not_counted_as_cut(config, verifier_paths, caplog):
    assert "cut_rows" not in sample(replace(config, prm=verifier_paths["prm"]))
    assert "too long" not in caplog.text


def test_problems_that_are_all_too_long_are_said_to_be(config, verifier_paths, monkeypatch):
    """As without a search; it was the PRM that a prompt of 0 tokens was too long for."""
    kill_before(0, monkeypatch)
    for change in ({"prm": verifier_paths["prm"]}, PLAIN):
        with pytest.raises(UserError, match="nothing is left to write to .* all 24 rows were left out"):
            sample(replace(config, max_new_tokens=100_000, on_long_row="skip", **change))


def test_one_row_that_is_too_long_is_one(config, tmp_path):
    problems = tmp_path / "one.jsonl"
    problems.write_text(Path(config.problems).read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="its 1 row was left out"):
        sample(replace(config, problems=str(problems), max_new_tokens=100_000, on_long_row="skip", n=1, **PLAIN))


def test_a_tag_that_is_a_special_token_of_the_policy_is_refused(config, scripted, policy, tmp_path, monkeypatch):
    """Completions are read without it, so that no step would end, and a beam would be one step."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<step>"]})
    model = AutoModelForCausalLM.from_pretrained(policy)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "tagged")
    tokenizer.save_pretrained(tmp_path / "tagged")
    scripted.boundary = Boundary("tag", "<step>")
    kill_before(0, monkeypatch)
    with pytest.raises(UserError, match="likes-2 has steps by tag '<step>', and .* special token '<step>'"):
        sample(replace(config, model=str(tmp_path / "tagged")))


class TestServedPRM:
    """A batch's key holds the PRM, and not the address at which it is served."""

    @pytest.fixture
    def served(self, verifier_paths):
        def serve(fingerprint: str, port: int = 0, name: str = "prm"):
            server = ScoreServer("127.0.0.1", port, name, fingerprint=fingerprint)
            return running(opened(server, RewardModel.from_pretrained(verifier_paths["prm"], device="cpu")))

        return serve

    @pytest.fixture
    def killed(self, config, tmp_path):
        """Kills the search before its third batch."""
        folder = replace(config, out=str(tmp_path / "found"), n=2, batch_size=2)

        def run(url: str) -> list[str]:
            with pytest.MonkeyPatch.context() as patch:
                generate, batches = GuidedSearch.generate, iter(range(2))

                def dies(search, batch):
                    if next(batches, None) is None:
                        raise Killed
                    return generate(search, batch)

                patch.setattr(GuidedSearch, "generate", dies)
                with pytest.raises(Killed):
                    sample(replace(folder, prm=url))
            return sorted(path.name for path in Path(f"{folder.out}.partial").glob("*.parquet"))

        return run, folder

    def test_another_prm_at_the_address_does_not_go_on_in_its_rows(self, served, killed, caplog):
        run, folder = killed
        with served("first") as server:
            url, port = server.url, server.port
            assert len(run(url)) == 2
        with served("second", port):
            sample(replace(folder, prm=url))
        assert "kept, as" not in caplog.text
        assert "2 shards of an earlier run are replaced" in caplog.text

    def test_the_same_prm_at_another_address_does(self, served, killed, caplog):
        run, folder = killed
        with served("first") as server:
            run(server.url)
        with served("first") as server:
            sample(replace(folder, prm=server.url))
        assert "of 3 shards, 2 are kept" in caplog.text

    def test_on_a_vllm_server_it_goes_by_its_name(self, verifier_paths, tmp_path):
        path = verifier_paths["prm"]
        identities = [verifier_identity(one) for one in (path, f"vllm+http://a:1/{path}", f"vllm+http://b:2/{path}")]
        assert identities[0] == identities[1] == identities[2] != verifier_identity(str(tmp_path))


def test_what_is_no_verifier_is_refused(config, tiny_lm):
    with pytest.raises(UserError):
        sample(replace(config, prm=tiny_lm))
