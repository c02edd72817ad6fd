import json
from dataclasses import replace

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.bench import BenchConfig, bench
from rlstep.steps.records import Solution, read_solutions, write_solutions
from rlstep.verifiers.scoring.reward_model import RewardModel

PROCESSBENCH = [
    {"id": "gsm8k-0", "generator": "g", "problem": "7 + 3", "steps": ["7 + 3 = 10", "10 * 7 = 3"],
     "final_answer_correct": False, "label": 1},
    {"id": "gsm8k-1", "generator": "g", "problem": "7 + 4", "steps": ["7 + 4 = 11"], "final_answer_correct": True,
     "label": -1},
    {"id": "math-0", "generator": "g", "problem": "2 * 3", "steps": ["2 * 3 = 7"], "final_answer_correct": False,
     "label": 0},
    {"id": "math-1", "generator": "g", "problem": "2 * 4", "steps": ["2 * 4 = 8"], "final_answer_correct": True,
     "label": -1},
]  # fmt: skip
PRMBENCH = [
    {"original_question": "7 + 3", "original_process": ["7 + 3 = 10"], "modified_question": "7 + 3",
     "modified_process": ["7 + 3 = 11"], "error_steps": [1], "classification": kind}
    for kind in ("redundency", "circular")
]  # fmt: skip


@pytest.fixture
def benchmarks(tmp_path, solutions) -> dict[str, list[str]]:
    # Two at a time are taken for samples of one problem, that of the first.
    problems = [solutions[k - k % 2] for k in range(len(solutions))]
    samples = [
        replace(one, problem_id=f"p{k // 2}", sample=k % 2, prompt=of.prompt, reference=of.reference).to_row()
        for k, (one, of) in enumerate(zip(solutions, problems, strict=True))
    ]
    rows = {"processbench": PROCESSBENCH, "prmbench": PRMBENCH, "best_of_n": samples}
    for name, of_it in rows.items():
        write_rows(tmp_path / f"{name}.jsonl", of_it)
    return {name: [str(tmp_path / f"{name}.jsonl")] for name in rows}


def test_verifiers_side_by_side(verifier_paths, benchmarks, tmp_path, capsys):
    models = list(verifier_paths.values())
    metrics = bench(BenchConfig(models, str(tmp_path / "bench"), **benchmarks))
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    samples = f"best_of_n: {benchmarks['best_of_n'][0]}"
    assert set(metrics[models[0]]) == {"processbench", "prmbench", samples}
    prm = result["verifiers"][models[0]]
    assert set(prm["processbench"]) == {"gsm8k", "math", "average"}
    assert set(prm["prmbench"]) == {"overall", "redundency", "circular", "simplicity"}
    assert prm[samples]["ns"] == [1, 2]
    assert set(result["without_a_verifier"][samples]) == {"ns", "majority", "pass_at_n"}
    text = (tmp_path / "bench" / "bench.md").read_text()
    assert text in capsys.readouterr().out
    heads = ["verifier", "ProcessBench, F1", "PRMBench, score", f"best of 2, {benchmarks['best_of_n'][0]}"]
    assert text.splitlines()[0] == "| " + " | ".join(heads) + " |"
    assert [line.split(" | ")[0] for line in text.splitlines()[2:6]] == [
        *(f"| {model}" for model in models), "| (majority vote)", "| (any sample right)",
    ]  # fmt: skip


def test_scores_are_those_of_the_verifier(verifier_paths, benchmarks, tmp_path):
    bench(BenchConfig([verifier_paths["prm"]], str(tmp_path / "bench"), processbench=benchmarks["processbench"]))
    [file] = (tmp_path / "bench" / "scores").rglob("*.jsonl")
    verifier = RewardModel.from_pretrained(verifier_paths["prm"])
    for solution in read_solutions(file):
        [wanted] = verifier.score([solution.prompt], [solution.completion], [solution.steps])
        assert solution.scores["bench"] == pytest.approx(wanted, abs=1e-5)


def test_an_orm_is_read_at_the_end_and_a_prm_by_the_aggregate(verifier_paths, tmp_path, monkeypatch):
    """Two samples of a problem: the right one has the higher product, 0.45 to 0.24, and the lower last value."""
    values = {"7 + 3 = 10\nAnswer: 10": [0.9, 0.5], "7 + 3 = 11\nAnswer: 11": [0.4, 0.6]}
    samples = [
        Solution("p", "7 + 3", text, "10", sample=sample, steps=[(0, 11), (11, len(text))], answer=text[-2:],
                 correct=text.endswith("10"))
        for sample, text in enumerate(values)
    ]  # fmt: skip
    path = str(tmp_path / "samples.jsonl")
    write_solutions(path, samples)
    monkeypatch.setattr(
        RewardModel, "score", lambda self, prompts, completions, *_: [values[one] for one in completions]
    )
    prm, orm = verifier_paths["prm"], verifier_paths["orm"]
    metrics = bench(BenchConfig([prm, orm], str(tmp_path / "bench"), best_of_n=[path]))
    assert [metrics[model][f"best_of_n: {path}"] for model in (prm, orm)] == [1.0, 0.0]
    metrics = bench(BenchConfig([prm, orm], str(tmp_path / "bench"), best_of_n=[path], aggregate="last"))
    assert [metrics[model][f"best_of_n: {path}"] for model in (prm, orm)] == [0.0, 0.0]


def test_what_is_scored_is_not_scored_again(verifier_paths, benchmarks, tmp_path, monkeypatch):
    calls, plain = [], RewardModel.score
    monkeypatch.setattr(RewardModel, "score", lambda self, *args: calls.append(self.kind) or plain(self, *args))

    def run(models: list[str], **changes) -> list[str]:
        calls[:] = []
        bench(BenchConfig(models, str(tmp_path / "bench"), processbench=benchmarks["processbench"], **changes))
        return calls

    prm, orm = verifier_paths["prm"], verifier_paths["orm"]
    assert run([prm]) == ["prm"]
    assert run([prm], processbench_threshold="0.3") == []
    assert run([prm, orm]) == ["orm"]
    assert run([prm], batch_tokens=64) == ["prm"]
    write_rows(benchmarks["processbench"][0], PROCESSBENCH[:2])
    assert run([prm], batch_tokens=64) == ["prm"]


def test_thresholds_act(verifier_paths, benchmarks, tmp_path):
    def run(**changes) -> dict:
        metrics = bench(BenchConfig([verifier_paths["prm"]], str(tmp_path / "bench"), **benchmarks, **changes))
        return metrics[verifier_paths["prm"]]

    assert run(processbench_threshold="0")["processbench"] == 0  # nothing is called wrong, no error located
    assert run(prmbench_threshold=0.0)["prmbench"] != run(prmbench_threshold=1.0)["prmbench"]


def test_what_a_second_run_does_not_name_is_told(verifier_paths, benchmarks, tmp_path, caplog):
    prm, orm = verifier_paths["prm"], verifier_paths["orm"]
    bench(BenchConfig([prm], str(tmp_path), **benchmarks))
    bench(BenchConfig([prm, orm], str(tmp_path), **benchmarks))
    assert not caplog.messages
    bench(BenchConfig([prm], str(tmp_path), processbench=benchmarks["processbench"]))
    (told,) = caplog.messages
    assert orm in told
    assert "prmbench" in told
    assert prm not in told


def test_a_solution_that_is_given_twice_counts_once(verifier_paths, benchmarks, tmp_path, caplog):
    """As where a file is named beside the folder that holds it."""
    again = {name: write_rows(tmp_path / "again" / f"{name}.jsonl", rows[:2])
             for name, rows in (("processbench", PROCESSBENCH), ("prmbench", PRMBENCH))}  # fmt: skip
    given = {name: [*benchmarks[name], str(tmp_path / "again" / f"{name}.jsonl")] for name in again}
    model = verifier_paths["prm"]
    bench(BenchConfig([model], str(tmp_path / "bench"), **given))
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())["verifiers"][model]
    assert (result["processbench"]["average"]["solutions"], result["prmbench"]["overall"]["solutions"]) == (4, 2)
    assert "processbench: 2 solutions are given more than once, and each counts once" in caplog.text
    assert "prmbench: 3 solutions are given more than once" in caplog.text  # the original one, too


def test_an_undefined_f1_is_explained(verifier_paths, benchmarks, tmp_path, capsys):
    """Of a subset that has only solutions with a wrong step."""
    rows = [row for row in PROCESSBENCH if row["label"] >= 0 or not row["id"].startswith("math")]
    assert len(rows) < len(PROCESSBENCH)
    write_rows(benchmarks["processbench"][0], rows)
    bench(BenchConfig([verifier_paths["prm"]], str(tmp_path / "bench"), processbench=benchmarks["processbench"]))
    printed = capsys.readouterr().out
    assert "-: undefined." in printed
    assert "Concerns math, average." in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": []}, "models is empty"),
        ({"models": ["a", "b", "a"]}, "names a more than once"),
        ({"processbench": ["rows.jsonl"] * 2}, "processbench names rows.jsonl more than once"),
        ({"best_of_n": ["b", "a", "b"]}, "best_of_n names b more than once"),
        ({"processbench": None}, "there is nothing to measure"),
        ({"processbench_threshold": "1.5"}, "a number must be from 0 to 1"),
        ({"prmbench_threshold": 0.3}, "prmbench_threshold"),
    ],
)
def test_options_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        BenchConfig(**({"models": ["a"], "out": "out", "processbench": ["rows.jsonl"]} | changes))


def test_bad_input(verifier_paths, benchmarks, tmp_path):
    def run(**changes):
        return bench(BenchConfig([verifier_paths["prm"]], str(tmp_path / "bench"), **changes))

    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        run(processbench=[str(tmp_path / "nothing.jsonl")])
    with pytest.raises(DataError, match=r"prmbench\.jsonl.* row 1"):
        run(processbench=benchmarks["prmbench"])
    with pytest.raises(UserError, match="one of the subsets that are there, gsm8k, math"):
        run(processbench=benchmarks["processbench"], processbench_threshold="omnimath")
    assert not (tmp_path / "bench" / "scores").exists()  # which may take hours
    write_rows(tmp_path / "single.jsonl", [read_solutions(benchmarks["best_of_n"][0])[0].to_row()])
    with pytest.raises(UserError, match="best-of-N needs several"):
        run(best_of_n=[str(tmp_path / "single.jsonl")])
