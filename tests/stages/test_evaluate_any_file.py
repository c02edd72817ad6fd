"""`rlstep evaluate` on files that other programs wrote: what is there is evaluated, what is not is left out."""

import json
import math
from collections import Counter, defaultdict
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread

from rlstep.cli import main
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.evaluate import EvaluateConfig, evaluate


def row(problem, answer: str | None = "1", correct: bool | None = True, scores=None, **more) -> dict:
    """A sample; a field that is None is absent."""
    fields = {"problem_id": problem, "answer": answer, "correct": correct, "scores": scores}
    return {name: value for name, value in fields.items() if value is not None} | more


@pytest.fixture
def run(tmp_path):
    """Evaluates rows and returns (content of best_of_n.json, metrics)."""

    def run(rows: list[dict], **options) -> tuple[dict, dict]:
        write_rows(tmp_path / "scored.jsonl", rows)
        metrics = evaluate(EvaluateConfig(str(tmp_path / "scored.jsonl"), str(tmp_path / "out"), **options))
        return json.loads((tmp_path / "out" / "best_of_n.json").read_text()), metrics

    return run


def curves_of(result: dict) -> list[str]:
    return [name for name, value in result.items() if isinstance(value, dict) and "mean" in value]


def three_of(scores: list) -> list[dict]:
    """A problem of which only the second of three samples is right."""
    return [row("a", answer, answer == "1", score) for answer, score in zip("213", scores, strict=True)]


def test_scores_stand_without_steps_labels_orm_and_text(run):
    result, metrics = run(three_of([{"qwen": [0.9, 0.5]}, {"qwen": [0.8, 0.8, 0.8]}, {"qwen": [0.4]}]), ns=[1, 2, 3])
    assert curves_of(result) == ["qwen", "majority", "weighted_qwen", "pass_at_n"]
    # Products 0.45, 0.512, 0.4: the right one leads, and is drawn with 1/3, 2/3, 1.
    assert result["qwen"]["mean"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert set(metrics) == {"problems", "solutions", "unanswered", *(f"{name}@3" for name in curves_of(result))}


def test_one_number_per_solution_and_scores_without_a_name(run):
    assert run(three_of([{"rm": 0.2}, {"rm": 0.7}, {"rm": 0.6}]), ns=[3])[0]["rm"]["mean"] == [1]
    assert run(three_of([{"rm": 0.2}, {"rm": 0.7}, {"rm": 1}]), ns=[3])[0]["rm"]["mean"] == [0]
    for scores in ([0.2, 0.7, 0.6], [[0.9, 0.2], [0.7], [0.9, 0.7]]):
        result, _ = run(three_of(scores), ns=[3])
        assert curves_of(result) == ["score", "majority", "weighted_score", "pass_at_n"]
        assert result["score"]["mean"] == [1]


def test_aggregate_reaches_scores_of_any_name(run):
    rows = three_of([{"qwen": [0.9, 0.5]}, {"qwen": [0.8, 0.6]}, {"qwen": [0.1, 0.9]}])
    means = {how: run(rows, ns=[3], aggregate=how)[0]["qwen"]["mean"] for how in ("product", "minimum", "last", "mean")}
    assert means == {"product": [1], "minimum": [1], "last": [0], "mean": pytest.approx([0.5])}


def test_a_file_without_scores_has_votes_and_the_ceiling(run, capsys):
    result, _ = run([row("a", answer, answer == "1") for answer in "1213"], ns=[4])
    assert curves_of(result) == ["majority", "pass_at_n"]
    assert (
        "left out: best of N (no scores; if a field holds some, --fields scores.NAME=FIELD)" in capsys.readouterr().out
    )


def test_a_file_without_answers_has_no_votes_and_every_sample_may_be_picked(run, capsys):
    rows = [row("a", None, correct, {"orm": score}) for correct, score in ((True, 0.9), (False, 0.3))]
    result, metrics = run(rows, ns=[1, 2])
    assert curves_of(result) == ["orm", "pass_at_n"]
    assert result["orm"]["mean"] == [0.5, 1]
    assert "unanswered" not in result | metrics
    assert "votes (no answers)" in capsys.readouterr().out


CODE = {"completion": "def f(x):\n    return x"}


@pytest.mark.parametrize("fields", [{"answer": None}, CODE, CODE | {"answer": None}])
def test_samples_that_are_right_by_something_else_than_answers_may_all_be_picked(run, fields, capsys):
    """Code that passes its tests states no answer; taken for unanswered, nothing right could ever be picked."""
    rows = [row("a", None, correct, {"prm": score}) | fields for correct, score in ((True, 0.9), (False, 0.3))]
    result, metrics = run(rows, ns=[1, 2])
    assert curves_of(result) == ["prm", "pass_at_n"]
    assert result["prm"]["mean"] == [0.5, 1]
    assert "unanswered" not in result | metrics
    assert "left out: votes (1 of 1 right samples have none)" in capsys.readouterr().out


def test_few_right_samples_without_an_answer_are_counted(run, capsys):
    rows = [row("a", answer, correct, {"prm": 0.5}) for answer, correct in (("1", True), ("1", True), ("2", False))]
    result, _ = run([*rows, row("a", None, True, {"prm": 0.9}) | {"answer": None}], ns=[1])
    assert curves_of(result) == ["prm", "majority", "weighted", "pass_at_n"]
    assert result["prm"]["mean"] == [0.5]
    assert "right by the file and without an answer, so never picked: 1\n" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [{}, {"labels": None}, {"labels": [None, None]}])
def test_no_clean_curve_where_no_step_is_labelled(run, labels, capsys):
    result, metrics = run([row("a", scores={"prm": [0.5, 0.6], "orm": [0.5, 0.5]}, **labels)])
    assert curves_of(result) == ["prm", "orm", "majority", "weighted", "pass_at_n"]
    assert not [name for name in metrics if "clean" in name or "step" in name]
    assert "clean picks (no step is labelled)" in capsys.readouterr().out


def test_labels_of_some_rows_measure_their_steps_alone(run, capsys):
    rows = [row("a", scores={"qwen": [0.9, 0.2]}, labels=[1, 0]), row("a", scores={"qwen": [0.9, 0.2, 0.1]})]
    result, metrics = run(rows)
    assert not [name for name in curves_of(result) if "clean" in name]
    assert "clean picks (1 of 2 rows have labels)" in capsys.readouterr().out
    assert result["qwen_steps"]["accuracy"] == metrics["qwen_step_accuracy"] == 1


def test_clean_curves_and_step_measures_of_any_score(run, tmp_path):
    rows = [
        row("a", scores={"qwen": [0.9, 0.7], "rm": 0.1}, labels=[True, False]),
        row("a", scores={"qwen": [0.9, 0.4], "rm": 0.8}, labels=[1, 1]),
    ]
    result, _ = run(rows, ns=[2])
    assert (result["qwen_clean"]["mean"], result["rm_clean"]["mean"]) == ([0], [1])
    assert result["qwen_steps"]["accuracy"] == 0.5
    assert "rm_steps" not in result
    assert (tmp_path / "out" / "reliability_qwen.png").is_file()


def test_neutral_steps_are_right_in_clean_picks_and_step_measures(run):
    rows = [
        row("a", scores={"prm": [0.9, 0.4]}, labels=[1, None], neutral=[1]),
        row("b", scores={"prm": [0.9, 0.9]}, labels=[1, None]),
    ]
    result, _ = run(rows)
    assert (result["prm"]["mean"], result["prm_clean"]["mean"]) == ([1.0], [0.5])
    assert result["prm_steps"]["accuracy"] == 2 / 3
    # Where all of a file's steps are neutral, they are labelled.
    assert run([row("a", scores={"prm": [0.9]}, labels=[None], neutral=[0])])[0]["prm_clean"]["mean"] == [1.0]


def test_soft_labels_of_one_half_are_right_in_clean_picks(run):
    rows = [row("a", scores={"prm": [0.9, 0.9]}, labels=[0.9, 0.5]), row("b", scores={"prm": [0.9]}, labels=[0.4])]
    result, metrics = run(rows)
    assert (result["prm"]["mean"], result["prm_clean"]["mean"]) == ([1.0], [0.5])
    assert metrics["prm_trace_error@1"] == 0.5


def test_scores_of_takes_some_and_prm_and_orm_give_roles(run):
    rows = three_of([{"a": [0.9], "b": [0.1], "c": [0.5, 0.3]}] * 3)
    of = {
        (): ["a", "b", "c", "majority", "weighted_a", "weighted_b", "weighted_c", "pass_at_n"],
        ("b",): ["b", "majority", "weighted_b", "pass_at_n"],
        ("c", "a"): ["c", "a", "majority", "weighted_c", "weighted_a", "pass_at_n"],
    }
    for names, curves in of.items():
        assert curves_of(run(rows, scores_of=list(names) or None)[0]) == curves
    assert curves_of(run(rows, prm="a")[0]) == ["prm", "majority", "weighted", "pass_at_n"]
    assert curves_of(run(rows, orm="b", prm="a")[0]) == ["prm", "orm", "majority", "weighted", "pass_at_n"]
    both = ["prm", "c", "majority", "weighted", "weighted_c", "pass_at_n"]
    assert curves_of(run(rows, prm="a", scores_of=["c"])[0]) == both


def test_curves_come_in_one_order_whatever_the_order_of_the_scores(run):
    result, _ = run(three_of([{"x": 0.1, "orm": 0.1, "prm": 0.2}] * 3))
    weighted = ["weighted", "weighted_x"]
    assert curves_of(result) == ["prm", "orm", "x", "majority", *weighted, "pass_at_n"]


def test_the_orm_is_read_at_the_end(run):
    rows = three_of([{"c": [0.9, 0.3]}, {"c": [0.1, 0.6]}, {"c": [0.9, 0.2]}])
    assert run(rows, ns=[3])[0]["c"]["mean"] == [0]
    assert run(rows, ns=[3], orm="c")[0]["orm"]["mean"] == [1]


def test_scores_that_cannot_be_told_apart_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="scores_of has prm, and prm is 'a'"):
        EvaluateConfig("data", "out", prm="a", scores_of=["prm"])
    with pytest.raises(UserError, match=r"a score is called 'majority'.*--fields scores\.NAME=scores\.majority"):
        run(three_of([{"majority": 0.1}] * 3))
    result, _ = run(three_of([{"majority": 0.1}] * 3), fields=["scores.mine=scores.majority"])
    assert curves_of(result) == ["mine", "majority", "weighted_mine", "pass_at_n"]


def test_every_row_has_the_scores(run):
    with pytest.raises(DataError, match=r"row 2, field 'scores\.b': missing \(scores present: a\)"):
        run([row("p", scores={"a": 1, "b": 1}), row("p", scores={"a": 1})])
    more = [row("p", scores={"a": 1}), row("p", scores={"a": 1, "b": 1})]
    with pytest.raises(DataError, match=r"row 2, field 'scores\.b': the first row has no such score"):
        run(more)
    assert "a" in run(more, scores_of=["a"])[0]


def test_logits(run, capsys):
    # Sigmoids: 0.881 * 0.269 = 0.237; 0.5 * 0.622 = 0.311; 0.000 * 1.000. By the sum of logits the first would lead.
    rows = three_of([{"rm": [2.0, -1.0]}, {"rm": [0.0, 0.5]}, {"rm": [-800.0, 800.0]}])
    with pytest.raises(DataError, match=r"row 1, field 'scores\.rm': step 0 has p=2\.0.*--scores logits"):
        run(rows)
    assert run(rows, scores="logits", ns=[3])[0]["rm"]["mean"] == [1]
    # 0.881 < 0.5 + 0.5: as weights of a vote they are probabilities again
    rows = [row("a", answer, answer == "1", {"rm": logit}) for answer, logit in (("2", 2.0), ("1", 0.0), ("1", 0.0))]
    assert run(rows, scores="logits", ns=[3])[0]["weighted_rm"]["mean"] == [1]


@pytest.mark.parametrize(
    "values", ["good", "[0.5", [True], "true", [math.nan], "NaN", {"x": 1}, [0.5, "x"], [[0.1, 0.9]]]
)
def test_scores_of_another_kind_are_refused(run, values):
    with pytest.raises(DataError, match=r"row 1, field 'scores\.rm': expected a number, or a list of one number per"):
        run([row("a", scores={"rm": values})])


def test_a_sample_that_did_not_fit_into_a_verifier_is_its_last_choice(run, capsys):
    """The right sample is the only one with a step that has no score: it wins no pick and no weighted vote."""
    steps = {"labels": [1, 1], "steps": ["First.", "Then."]}
    rows = [row("a", answer, answer == "1", {"prm": scores}, **steps) for answer, scores in (
        ("1", [0.9, None]), ("2", [0.2, 0.1]), ("3", [0.1, 0.1]),
    )]  # fmt: skip
    result = run(rows, ns=[1, 3])[0]
    assert result["prm"]["mean"] == pytest.approx([1 / 3, 0])
    assert result["weighted"]["mean"][1] == 0
    assert result["pass_at_n"]["mean"][1] == 1
    # Of single steps, those of the two whole samples are measured: all are right, none is called so.
    assert result["prm_steps"]["accuracy"] == 0
    assert "without a score of prm, or with a step without one, so the lowest for it: 1" in capsys.readouterr().out
    # Whatever becomes of step scores: a mean of what is there would have put it first.
    for aggregate in ("minimum", "last", "mean"):
        assert run(rows, ns=[3], aggregate=aggregate)[0]["prm"]["mean"] == [0]
        assert run(rows, ns=[3], aggregate=aggregate, scores="logits")[0]["prm"]["mean"] == [0]
    assert run(rows, ns=[3], scores="logits")[0]["prm"]["mean"] == [0]


def test_a_sample_that_was_not_scored_is_its_last_choice(run, tmp_path):
    """As where a reward model of whole solutions failed; a table has null for a name that a row lacks."""
    rows = three_of([{"rm": 0.2}, {"rm": None}, {"rm": 0.1}])
    result, metrics = run(rows, ns=[1, 3])
    assert result["rm"]["mean"] == pytest.approx([1 / 3, 0])
    assert metrics["cut_by_rm"] == 1
    unnamed = [row("a", "1", True, 0.2), row("a", "2", False) | {"scores": None}]
    assert run(unnamed)[0]["score"]["mean"] == [0.5, 1]
    pq.write_table(pa.Table.from_pylist(three_of([{"rm": 0.2}, {}, {"rm": 0.1}])), tmp_path / "gap.parquet")
    assert evaluate(EvaluateConfig(str(tmp_path / "gap.parquet"), str(tmp_path / "gap"), ns=[3]))["cut_by_rm"] == 1
    with pytest.raises(UserError, match=r"no row has a score of rm, it is null in each"):
        run(three_of([{"rm": None, "qwen": 0.5}] * 3))


@pytest.mark.parametrize("aggregate", ["product", "minimum", "last"])
def test_rewards_on_any_scale_keep_their_order(run, aggregate):
    """In double precision the sigmoid of either of the large ones is 1, and that of either of the small ones 0."""
    for scores in ([40.0, 45.0, 44.0], [-900.0, -800.0, -850.0]):
        rows = three_of([{"rm": score} for score in scores])
        assert run(rows, scores="logits", aggregate=aggregate, ns=[3])[0]["rm"]["mean"] == [1]
        assert run(rows, scores="logits", orm="rm", ns=[3])[0]["orm"]["mean"] == [1]
    # 0.9 against twice 0.5: as weights of a vote they are probabilities whatever the aggregate
    rows = [row("a", answer, answer == "1", {"rm": logit}) for answer, logit in (("2", 2.2), ("1", 0.0), ("1", 0.0))]
    assert run(rows, scores="logits", aggregate=aggregate, ns=[3])[0]["weighted_rm"]["mean"] == [1]


@pytest.mark.parametrize("sample", [-1, 2**63])
def test_samples_are_numbered_from_0(run, sample):
    with pytest.raises(DataError, match="row 1, field 'sample': expected a whole number from 0"):
        run([row("a") | {"sample": sample}])


def test_numbers_of_steps_must_agree(run):
    with pytest.raises(DataError, match=r"row 1, field 'scores\.rm': 1 value for 2 steps; give one per step, or a nu"):
        run([row("a", scores={"rm": [0.5]}, steps=["First.", "Then."])])
    with pytest.raises(DataError, match=r"row 1, field 'scores\.rm': 1 value for 2 labels"):
        run([row("a", scores={"rm": [0.5]}, labels=[1, 0])])
    with pytest.raises(DataError, match=r"row 1, field 'labels': 1 value for 2 steps"):
        run([row("a", labels=[1], steps=["First.", "Then."])])
    with pytest.raises(DataError, match=r"row 1, field 'labels': expected a list of labels from 0 to 1 or null each"):
        run([row("a", labels=[-1, 1])])
    with pytest.raises(
        DataError, match=r"row 1, field 'steps': expected a list of \[start, end\] pairs, as the row has"
    ):
        run([row("a", labels=[1, 0], steps=["First.", "Then."], completion="First.Then.", tree="t")])
    with pytest.raises(DataError, match=r"row 1, field 'neutral': expected a list of indices of 2 steps"):
        run([row("a", labels=[None, 1], neutral=[2])])


def test_answers_are_graded_where_the_file_does_not(run, capsys):
    answers = ["1/2", "0.25", r"\frac{1}{2}", None]
    rows = [{"problem_id": "a", "answer": answer, "reference": "0.5"} for answer in answers]
    result, metrics = run(rows, ns=[1, 3])
    assert result["pass_at_n"]["mean"] == pytest.approx([0.5, 1])
    assert (metrics["graded_here"], metrics["unanswered"]) == (4, 0.25)
    assert "graded here, by value: 4" in capsys.readouterr().out
    result, metrics = run([{"problem_id": "a", "answer": "3", "reference": r"\mystery{3}"}], ns=[1])
    assert metrics["grading_errors"] == 1
    # What the file says stands.
    rows[1]["correct"] = True
    result, metrics = run(rows, ns=[1])
    assert (result["pass_at_n"]["mean"], metrics["graded_here"]) == ([0.75], 3)


def test_answers_are_read_from_completions_where_only_they_are_there(run):
    texts = ["So 2.\nAnswer: 2", r"It is \boxed{3}.", "I do not know"]
    rows = [{"problem_id": "a", "completion": text, "reference": 3} for text in texts]
    result, metrics = run(rows, ns=[1])
    assert result["pass_at_n"]["mean"] == pytest.approx([1 / 3])
    assert (metrics["answers_extracted"], metrics["unanswered"]) == (3, pytest.approx(1 / 3))
    # Null is an answer that was not found, where the row is graded; else it is one that nobody looked for.
    graded = [one | {"answer": None, "correct": False} for one in rows]
    result, _ = run(graded)
    assert curves_of(result) == ["majority", "pass_at_n"]
    assert set(result["majority"]["mean"]) == {0.0}
    sampled = [one | {"answer": None, "correct": None} for one in rows]
    assert run(sampled)[0] == run(rows)[0]


@pytest.mark.parametrize(
    "fields", [{}, {"answer": "1"}, {"reference": "1"}, {"completion": "Answer: 1"}, {"answer": "1", "reference": " "}]
)
def test_a_row_that_cannot_be_graded_says_what_it_lacks(run, fields):
    with pytest.raises(
        DataError, match=r"row 1, field 'correct': missing, and there is nothing to grade.*row has .*problem_id"
    ):
        run([{"problem_id": "a", **fields}])


@pytest.mark.parametrize(
    "reference", ["They earn 9 * 2.\n#### 18", r"It is $9 \cdot 2 = \boxed{18}$.", "The answer is 18."]
)
def test_a_whole_solution_as_the_reference_is_refused(run, reference):
    with pytest.raises(DataError, match="row 1, field 'reference': the reference .* states the answer '18'"):
        run([{"problem_id": "a", "answer": "18", "reference": reference}])


def test_two_problems_under_one_id_are_refused(run, tmp_path):
    """They would be one problem, with samples of both to pick from."""
    rows = [row("0", scores={"prm": 0.5}, reference=reference) for reference in ("1", "1.0", " 1", "2")]
    with pytest.raises(DataError, match="row 4, field 'reference': '2', and earlier rows of problem '0' have '1'"):
        run(rows)
    assert run(rows[:3])[0]["problems"] == 1
    domains = [one | {"subject": subject} for one, subject in zip(rows[2:], "ab", strict=True)]
    write_rows(tmp_path / "domains.jsonl", domains)
    assert evaluate(EvaluateConfig(str(tmp_path / "domains.jsonl"), str(tmp_path / "d"), domain="subject", n=1))
    with pytest.raises(DataError, match="row 1, field 'problem_id': blank; it says which rows are samples of one"):
        run([row(" ")])


def test_a_gap_that_became_nan_is_no_value(run):
    nan = float("nan")
    rows = [{"problem_id": "a", "answer": answer, "correct": nan, "reference": 1.0} for answer in (1.0, nan, nan)]
    result, metrics = run([one | {"sample": nan, "labels": nan} for one in rows], ns=[3])
    assert (metrics["unanswered"], result["majority"]["mean"]) == (pytest.approx(2 / 3), [1])
    with pytest.raises(DataError, match="field 'problem_id': missing"):
        run([row(nan)])


def test_values_as_other_programs_write_them(run):
    rows = [{"problem_id": 7, "answer": answer, "correct": mark} for answer, mark in ((12, 1), (12.0, 1), ("", 0))]
    result, metrics = run(rows, ns=[3])
    assert (result["problems"], metrics["unanswered"], result["majority"]["mean"]) == (1, pytest.approx(1 / 3), [1])
    for name, value in {"problem_id": [1], "answer": {}, "correct": "yes", "sample": 1.5}.items():
        with pytest.raises(DataError, match=rf"row 1, field '{name}': expected"):
            run([row("a") | {name: value}])


def test_values_of_a_table_of_text(run, tmp_path):
    """What `pandas.read_csv(..., dtype=str)` makes of a table, as the refusal of CSV says to convert it."""
    steps = {"labels": [1, 0], "steps": ["First.", "Then."]}
    rows = [
        row("7", answer, mark, {"prm": scores}, sample=k, **steps)
        for k, (answer, mark, scores) in enumerate((("2", False, [0.9, 0.4]), ("1", True, [0.9, 0.8])))
    ]
    fields = {"problem_id": "7", "answer": "x", "labels": "[1, 0]", "steps": '["First.", "Then."]'}
    texts = [
        fields | {"answer": "2", "correct": "False", "sample": "0", "prm": "[0.9, 0.4]"},
        fields | {"answer": "1", "correct": "true", "sample": "1", "prm": "[0.9, 0.8]"},
    ]
    as_text = run(texts, fields=["scores.prm=prm"])
    assert as_text == run(rows)
    assert as_text[0]["prm"]["mean"] == [0.5, 1]
    assert run([one | {"rm": text} for one, text in zip(texts, ("0.2", "0.9"), strict=True)], fields=["scores.rm=rm"])[
        0
    ]["rm"]["mean"] == [0.5, 1]
    with pytest.raises(DataError, match="row 2, field 'sample': sample 1 of '7' is already in row 1"):
        run([one | {"sample": "1.0"} for one in texts])
    with pytest.raises(DataError, match="field 'correct': expected true or false"):
        run([row("a", correct="maybe")])
    # Blank is what a gap is in such a table.
    gap = [one | {"correct": " ", "reference": "1", "sample": ""} for one in texts]
    assert run(gap, fields=["scores.prm=prm"])[1]["graded_here"] == 2


def test_whole_numbers_of_a_column_with_gaps(run):
    rows = [row(7.0, sample=0.0), row(7, sample=1.0), row(7, sample=None)]
    assert run(rows)[0]["samples_per_problem"] == 3
    with pytest.raises(DataError, match="row 2, field 'sample': sample 0 of '7' is already in row 1"):
        run([row(7.0, sample=0.0), row(7, sample=0)])


def test_all_samples_of_a_problem_in_one_row(run, tmp_path):
    """As published sets for best of N have them: {"problem", "answer", "completions", "scores"}."""
    completions = ["So 2.\nAnswer: 2", "Answer: 1", "I do not know", "Answer: 1.0"]
    scores = [[0.9, 0.9], [0.8], [0.99], [0.9, 0.2]]
    each = [
        {"problem_id": "a", "reference": "1", "completion": text, "scores": {"prm": values}}
        for text, values in zip(completions, scores, strict=True)
    ]
    wide = {"unique_id": "a", "problem": "2 - 1?", "answer": "1", "completions": completions, "scores": scores}
    mapping = ["problem_id=unique_id,reference=answer,completion=completions,scores.prm=scores"]
    assert run([wide], fields=mapping) == run(each)
    # One number for each solution, answers in place of texts, and what the file says of them.
    wide = {"problem_id": "a", "answer": ["2", "1", None], "correct": [False, True, False], "scores": [0.2, 0.9, None]}
    result, metrics = run([wide, wide | {"problem_id": "b"}], ns=[3])
    assert (result["score"]["mean"], metrics["solutions"], metrics["cut_by_score"]) == ([1], 6, 2)
    with pytest.raises(
        DataError, match=r"row 1, field 'scores\.prm': expected a list of 3, one per sample, as 'answer' "
    ):
        run([wide | {"scores": {"prm": [0.2, 0.9]}}])
    with pytest.raises(DataError, match=r"row 1, field 'correct': expected a list of 3, one per sample"):
        run([wide | {"correct": True}])
    with pytest.raises(DataError, match="row 1, field 'sample': sample 4 of 'a' is already in row 1"):
        run([wide | {"sample": [3, 4, 4]}])


def test_completions_of_chats(run):
    chats = [[{"role": "assistant", "content": f"Answer: {answer}"}] for answer in "12"]
    rows = [{"problem_id": "a", "reference": "1", "completion": chat} for chat in chats]
    assert run(rows, ns=[1])[0]["pass_at_n"]["mean"] == [0.5]
    assert run([rows[0] | {"completion": chats}]) == run(rows)


def test_unknown_fields_are_passed_over(run):
    assert run([row("a", temperature=0.7, steps_text=None, finished="yes")])[0]["problems"] == 1


def test_fields_of_other_names(run, tmp_path, capsys):
    rows = [{"id": "a", "pred": answer, "gold": "1", "rm": score} for answer, score in (("2", 0.2), ("1.0", 0.9))]
    with pytest.raises(
        DataError, match=r"row 1, field 'problem_id': missing.*--fields problem_id=NAME.* gold, id, pred"
    ):
        run(rows)
    mapping = "problem_id=id,answer=pred,reference=gold,scores.rm=rm"
    write_rows(tmp_path / "theirs.jsonl", rows)
    options = ["--data", str(tmp_path / "theirs.jsonl"), "--out", str(tmp_path / "out"), "--fields", mapping]
    assert main(["evaluate", *options]) == 0
    result = json.loads((tmp_path / "out" / "best_of_n.json").read_text())
    assert (result["ns"], result["rm"]["mean"]) == ([1, 2], [0.5, 1])
    with pytest.raises(UserError, match="no field 'id' is read"):
        EvaluateConfig("data", "out", fields=["id=problem_id"])


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"gold": None}, "correct", "missing, .* The row has gold, id, n, pred, rm"),
        ({"pred": ["1"]}, "n", "a list of 1, one per sample, as 'pred' is one; got 1. It is read as sample"),
        ({"rm": "high"}, "rm", "expected a number, .* It is read as scores.rm"),
        ({"rm": 7.0}, "rm", r"--scores logits\. It is read as scores.rm"),
        ({"n": 0}, "n", "sample 0 of 'a' is already in row 1. It is read as sample"),
        ({"id": True}, "id", "expected text or a whole number, got true. It is read as problem_id"),
        ({"gold": "2"}, "gold", "two problems have one problem_id.* It is read as reference"),
    ],
)
def test_a_fault_in_a_field_of_another_name_has_the_files_name(run, change, field, message):
    rows = [{"id": "a", "pred": "1", "gold": "1", "rm": 0.2, "n": n} for n in range(2)]
    fields = ["problem_id=id,answer=pred,reference=gold", "scores.rm=rm,sample=n"]
    assert run(rows, fields=fields)[1]["solutions"] == 2
    with pytest.raises(DataError, match=message) as caught:
        run([rows[0], rows[1] | change], fields=fields)
    assert (caught.value.row, caught.value.field) == (2, field)


def test_n_goes_up_to_what_every_problem_has(run, capsys):
    rows = [row(problem) for problem, count in (("a", 7), ("b", 5)) for _ in range(count)]
    assert run(rows)[0]["ns"] == [1, 2, 4]
    assert "N goes up to 4: problem 'b' has 5 samples" in capsys.readouterr().out
    assert run(rows, ns=[1, 5])[0]["ns"] == [1, 5]
    assert run(rows[:7] + rows[:1])[0]["ns"] == [1, 2, 4, 8]
    with pytest.raises(UserError, match="best-of-8, but problem 'b' has 5 samples.*give ns up to 5"):
        run(rows, ns=[1, 8])


def test_votes_go_by_value(run):
    """0.5 has two votes, 1/2 and \\frac{1}{2} one each; by spelling 3 would win with three."""
    answers = ["0.5", "3", "1/2", "3", r"\frac{1}{2}", "3", "0.5"]
    rows = [row("a", answer, answer != "3", {"prm": 0.5, "orm": 0.5}) for answer in answers]
    result, _ = run(rows, ns=[7])
    assert (result["majority"]["mean"], result["weighted"]["mean"]) == ([1], [1])


def test_a_group_is_right_where_most_of_its_samples_are(run):
    marks = [("0.5", True), ("1/2", False), ("1/2", True), ("3", False)]
    assert run([row("a", *mark) for mark in marks], ns=[4])[0]["majority"]["mean"] == [1]
    assert run([row("a", *mark) for mark in (marks[0], marks[1])], ns=[2])[0]["majority"]["mean"] == [0]
    marks[0] = ("0.5", False)
    assert run([row("a", *mark) for mark in marks], ns=[4])[0]["majority"]["mean"] == [0]


def test_parquet_and_folders_of_shards(run, tmp_path):
    rows = three_of([{"a": [0.9, 0.5], "b": 0.1}, {"a": [0.8], "b": 0.9}, {"a": [0.1], "b": 0.2}])
    expected, _ = run(rows)
    (tmp_path / "shards").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "shards" / "0.parquet")
    write_rows(tmp_path / "shards" / "1.jsonl", rows[2:])
    evaluate(EvaluateConfig(str(tmp_path / "shards"), str(tmp_path / "out")))
    assert json.loads((tmp_path / "out" / "best_of_n.json").read_text()) == expected


@pytest.mark.parametrize(
    "names",
    [["prm", "orm"], ["a"], [f"model-{k}/with-a-long-name-{k}" for k in range(7)], [str(k) for k in range(20)], []],
)
def test_a_table_and_a_picture_of_any_file(run, tmp_path, capsys, names):
    rows = three_of([{name: 0.1 + 0.1 * k for name in names} for k in (0, 2, 1)])
    run(rows)
    printed = capsys.readouterr().out
    assert "3 samples of 1 problem, 3 each" in printed
    assert "without an answer: 0.0%" in printed
    for head in ["majority", "pass@N", *({"prm": "PRM", "orm": "ORM"}.get(name, name) for name in names)]:
        assert any(line.split("  ")[0] == head for line in printed.splitlines()), head
    picture = imread(tmp_path / "out" / "best_of_n.png")
    assert min(picture.shape[:2]) > 300


@pytest.mark.parametrize(
    "name", ["$a$ and $\\frac{$", "half \ud83d", "two\nlines|a bar", "x" * 300, "\u5956\u52b1", "../up"]
)
def test_a_score_may_have_any_name(run, tmp_path, capsys, name):
    rows = three_of([{name: [0.1 + 0.1 * k]} for k in (0, 2, 1)])
    result, _ = run([row | {"labels": [k % 2]} for k, row in enumerate(rows)])
    assert name in result
    picture = imread(tmp_path / "out" / "best_of_n.png")
    assert min(picture.shape[:2]) > 300
    assert len([*(tmp_path / "out").glob("reliability_*.png")]) == 1
    assert len({len(line) for line in capsys.readouterr().out.splitlines() if line.endswith("[0.000, 1.000]")}) == 1


def test_names_that_a_file_cannot_have_have_a_figure_each(run, tmp_path):
    names = ["q/7b", "q:7b", "\u5956", "\u52b1", "x" * 70, "x" * 71]
    rows = three_of([{name: [0.1 + 0.1 * k] for name in names} for k in (0, 2, 1)])
    run([row | {"labels": [k % 2]} for k, row in enumerate(rows)])
    assert len([*(tmp_path / "out").glob("reliability_*.png")]) == len(names)


def at_n(ranked: list[tuple], size: int, n: int) -> float:
    """Chance that the best of n of `size` samples is right: by the chance that all n rank at or below each place.

    Args:
        ranked: (score, right) of the samples with an answer.
    """
    chance, above = 0.0, 0
    for score in sorted({score for score, _ in ranked}, reverse=True):
        tied = [right for other, right in ranked if other == score]
        drawn = math.comb(size - above, n) - math.comb(size - above - len(tied), n)
        chance += drawn / math.comb(size, n) * sum(tied) / len(tied)
        above += len(tied)
    return chance


@pytest.mark.slow
def test_sixteen_thousand_published_rows(real_data, tmp_path, capsys):
    """The curves are those of another formula, in exact arithmetic, and the votes those that were counted by hand."""
    path = real_data / "best_of_n" / "math500_500x32_scores.jsonl"
    assert main(["evaluate", "--data", str(path), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "best_of_n.json").read_text())
    assert curves_of(result) == ["score", "majority", "weighted_score", "pass_at_n"]
    assert result["ns"] == [1, 2, 4, 8, 16, 32]

    problems = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        problems[one["problem_id"]].append(one)
    assert (result["problems"], result["samples_per_problem"]) == (len(problems), 32) == (500, 32)
    best, passed = defaultdict(float), defaultdict(float)
    for rows in problems.values():
        answered = [one for one in rows if one["answer"] is not None]
        ranked = [(math.prod(Fraction(str(p)) for p in one["scores"]), one["correct"]) for one in answered]
        wrong = sum(not one["correct"] for one in rows)
        for n in result["ns"]:
            best[n] += at_n(ranked, 32, n) / 500
            passed[n] += (1 - math.comb(wrong, n) / math.comb(32, n)) / 500
    assert result["score"]["mean"] == pytest.approx([best[n] for n in result["ns"]], abs=1e-9)
    assert result["pass_at_n"]["mean"] == pytest.approx([passed[n] for n in result["ns"]], abs=1e-9)
    published = {"score": [0.695, 0.793, 0.818, 0.850], "pass_at_n": [0.695, 0.836, 0.878, 0.932]}
    for name, means in published.items():
        assert [result[name]["mean"][place] for place in (0, 2, 3, 5)] == pytest.approx(means, abs=6e-4)

    def by_spelling(rows: list[dict]) -> float:
        votes = Counter(one["answer"] for one in rows if one["answer"] is not None)
        right = {one["answer"]: one["correct"] for one in rows}
        winners = [answer for answer, count in votes.items() if count == max(votes.values())]
        return sum(right[answer] for answer in winners) / max(1, len(winners))

    assert sum(map(by_spelling, problems.values())) / 500 == pytest.approx(0.813, abs=6e-4)
    # A phrase is no value: 9 `No solution` and 6 `No solutions` are two answers.
    assert result["majority"]["mean"][-1] == pytest.approx(0.817, abs=6e-4)
    printed = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("score "))
    assert printed[1:7] == ["0.695", "0.755", "0.793", "0.818", "0.836", "0.850"]


@pytest.mark.parametrize("field", ["answer", "completion"])
def test_a_problem_without_samples_is_refused_and_not_left_out(tmp_path, field):
    """Of two problems of which one is right and the other was never answered, half is right and not all."""
    several = {"problem_id": "p", "reference": "12", field: ["The answer is 12"] if field == "completion" else ["12"]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(several) + "\n" + json.dumps(several | {"problem_id": "q", field: []}))
    with pytest.raises(DataError, match=rf"row 2, field '{field}': an empty list: a problem without samples"):
        evaluate(EvaluateConfig(str(path), str(tmp_path / "out")))
