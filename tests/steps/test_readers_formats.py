"""The other published formats: rows written by hand from their schemas, solutions worked out by hand."""

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.readers import ReadReport, read


def read_all(format, tmp_path, *rows, **options):
    write_rows(tmp_path / "x.jsonl", rows)
    return list(read(format, tmp_path / "x.jsonl", **options))


def assert_fault(format, tmp_path, good, bad, field, **options):
    """The second row is refused, and the error names it and its field."""
    write_rows(tmp_path / "x.jsonl", [good, bad])
    with pytest.raises(DataError) as caught:
        list(read(format, tmp_path / "x.jsonl", **options))
    assert (caught.value.path, caught.value.row, caught.value.field) == (str(tmp_path / "x.jsonl"), 2, field)
    return caught.value


# --- stepwise

STEPWISE = {"prompt": "What is 2 + 3 * 4?", "completions": ["3 * 4 = 12", "2 + 12 = 15"], "labels": [True, False]}


def test_stepwise_rows_become_solutions(tmp_path):
    [solution] = read_all("stepwise", tmp_path, STEPWISE)
    assert solution.prompt == "What is 2 + 3 * 4?\n"
    assert solution.completion == "3 * 4 = 12\n2 + 12 = 15"
    assert solution.step_texts == ["3 * 4 = 12\n", "2 + 12 = 15"]
    assert solution.labels == [1, 0]
    assert not any(isinstance(label, bool) for label in solution.labels)


@pytest.mark.parametrize(
    ("label", "read_as"),
    [
        (True, 1), (False, 0), (1, 1), (0, 0), (1.0, 1), (0.75, 0.75), (0.999, 0.999),
        (-100, None), (-100.0, None), (None, None),
    ],
)  # fmt: skip
def test_a_stepwise_label_is_what_it_says(tmp_path, label, read_as):
    # int() would floor 0.75 to 0, and bool() would make -100 right.
    [solution] = read_all("stepwise", tmp_path, {**STEPWISE, "labels": [label, 1]})
    assert solution.labels == [read_as, 1]


@pytest.mark.parametrize("label", [-1, 2, 1.5, float("nan"), float("inf"), "+", "1", [1], -99])
def test_what_is_no_label_is_refused(tmp_path, label):
    assert_fault("stepwise", tmp_path, STEPWISE, {**STEPWISE, "labels": [1, label]}, "labels[1]")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"labels": [True]}, "labels"),
        ({"labels": [True, True, True]}, "labels"),
        ({"labels": True}, "labels"),
        ({"completions": []}, "labels"),
        ({"completions": "3 * 4 = 12"}, "completions"),
        ({"completions": ["3 * 4 = 12", " "]}, "completions[1]"),
        ({"completions": ["3 * 4 = 12", None]}, "completions[1]"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_a_malformed_stepwise_row_is_named_with_its_field(tmp_path, change, field):
    assert_fault("stepwise", tmp_path, STEPWISE, STEPWISE | change, field)


def test_a_stepwise_row_without_a_step_is_left_out_and_counted(tmp_path):
    # TRL's own prm800k and math_shepherd have such rows.
    report, empty = ReadReport(), {"prompt": "What?", "completions": [], "labels": []}
    [solution] = read_all("stepwise", tmp_path, empty, STEPWISE, empty, report=report)
    assert (solution.labels, report.dropped, report.bad_rows) == ([1, 0], {"no step": 2}, 0)


def test_a_missing_field_is_named_with_those_there_are(tmp_path):
    fault = assert_fault("stepwise", tmp_path, STEPWISE, {"prompt": "?", "completion": ["a"]}, "completions")
    assert "this row has prompt, completion" in str(fault)


def test_the_last_step_ends_in_a_separator_when_asked(tmp_path):
    [solution] = read_all("stepwise", tmp_path, STEPWISE, close_last=True, separator="\n\n")
    assert solution.step_texts == ["3 * 4 = 12\n\n", "2 + 12 = 15\n\n"]


@pytest.mark.parametrize("separator", ["", "<step>", " . ", r"\n"])
def test_a_separator_is_white_space(tmp_path, separator):
    with pytest.raises(UserError, match="separator is"):
        read_all("stepwise", tmp_path, STEPWISE, separator=separator)


# --- Math-Shepherd

QUESTION = "Buzz shares 78 slices 5:8. How many are left?"
SHEPHERD = {
    "input": f"{QUESTION} Step 1: The total is 5+8 = <<5+8=13>>13. ки\nStep 2: So 78 / 13 = 6. The answer is: 6 ки",
    "label": f"{QUESTION} Step 1: The total is 5+8 = <<5+8=13>>13. +\nStep 2: So 78 / 13 = 6. The answer is: 6 -",
    "task": "GSM8K",
}


def test_math_shepherd_rows_become_solutions_without_the_tag(tmp_path):
    report = ReadReport()
    [solution] = read_all("math_shepherd", tmp_path, SHEPHERD, report=report)
    assert solution.prompt == QUESTION + "\n"
    assert solution.step_texts == [
        "Step 1: The total is 5+8 = <<5+8=13>>13.\n",
        "Step 2: So 78 / 13 = 6. The answer is: 6",
    ]
    assert "ки" not in solution.completion
    assert (solution.labels, solution.answer, solution.correct) == ([1, 0], "6", False)
    assert report.seen == {"task: GSM8K": 1}


def test_signs_inside_the_text_are_no_labels(tmp_path):
    row = {"input": "What is - 1 + 2? Step 1: - 1 + 2 ки is ки", "label": "What is - 1 + 2? Step 1: - 1 + 2 - is +"}
    [solution] = read_all("math_shepherd", tmp_path, row)
    assert (solution.step_texts, solution.labels) == (["Step 1: - 1 + 2\n", "is"], [0, 1])


def test_soft_labels_are_kept(tmp_path):
    [solution] = read_all("math_shepherd", tmp_path, {**SHEPHERD, "label": [0.75, 0.125]})
    assert (solution.labels, solution.correct) == ([0.75, 0.125], None)
    [solution] = read_all("math_shepherd", tmp_path, {**SHEPHERD, "label": [0.75, 1.0]})
    assert (solution.labels, solution.correct) == ([0.75, 1], True)


def test_a_tag_inside_the_question_is_no_step(tmp_path):
    row = {key: SHEPHERD[key].replace("5:8.", f"5:8. {tag}") for key, tag in (("input", "ки"), ("label", "-"))}
    report = ReadReport()
    [solution] = read_all("math_shepherd", tmp_path, row, report=report)
    assert (len(solution.steps), solution.labels) == (2, [1, 0])
    assert "ки" not in solution.prompt
    assert report.seen == {"tag inside the question": 1}


def test_text_after_the_last_tag_is_a_step_of_unknown_label(tmp_path):
    row = {key: SHEPHERD[key] + "\nStep 3: Done." for key in ("input", "label")}
    [solution] = read_all("math_shepherd", tmp_path, row)
    assert (solution.step_texts[2], solution.labels, solution.correct) == ("Step 3: Done.", [1, 0, None], None)


def test_the_tag_and_the_first_step_can_be_other_texts(tmp_path):
    row = {key: text.replace("ки", "<s>").replace("Step 1:", "Solution.") for key, text in SHEPHERD.items()}
    [solution] = read_all("math_shepherd", tmp_path, row, tag="<s>", first_step="solution.")
    assert solution.step_texts[0] == "Solution. The total is 5+8 = <<5+8=13>>13.\n"
    for options, match in (({"tag": "<s>"}, "no 'Step 1:'"), ({"first_step": "Solution."}, "no step tag 'ки'")):
        with pytest.raises(DataError, match=match):
            read_all("math_shepherd", tmp_path, row, **options)


@pytest.mark.parametrize("option", ["tag", "first_step"])
def test_a_blank_mark_is_an_error(tmp_path, option):
    with pytest.raises(UserError, match=f"{option} is blank"):
        read_all("math_shepherd", tmp_path, SHEPHERD, **{option: " "})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input": "How? Step 1: x +", "label": "How? Step 1: x +"}, "input"),
        ({"input": "How? It is 4. ки", "label": "How? It is 4. +"}, "input"),
        ({"input": "Step 1: It is 4. ки", "label": "Step 1: It is 4. +"}, "input"),
        ({"input": "How? Step 1: x ки ки", "label": "How? Step 1: x + +"}, "input"),
        ({"label": SHEPHERD["label"].replace(" -", " ?")}, "label"),
        ({"label": SHEPHERD["label"].replace("13. +", "13.")}, "label"),
        ({"label": SHEPHERD["label"] + " more"}, "label"),
        ({"label": SHEPHERD["input"]}, "label"),
        ({"label": [1]}, "label"),
        ({"label": [1, -1]}, "label[1]"),
        ({"label": None}, "label"),
        ({"input": 4}, "input"),
    ],
)
def test_a_malformed_math_shepherd_row_is_named_with_its_field(tmp_path, change, field):
    assert_fault("math_shepherd", tmp_path, SHEPHERD, SHEPHERD | change, field)


RECIPE = "A cook follows a recipe. Step 1: boil 3 eggs. Step 2: boil 2 more. How many eggs?"


@pytest.mark.parametrize(
    ("question", "first"),
    [
        (RECIPE, "Step 1: 3 + 2 = 5."),
        (RECIPE, "Step 1: Step 1: 3 + 2 = 5."),
        (RECIPE.replace("Step 1:", "step 1:"), "Step 1: 3 + 2 = 5."),
        ("How many?", "Step 1: As step 1: says, 5."),
        ("How many?", "step 1: 5."),
    ],
)
@pytest.mark.parametrize("format", ["math_shepherd", "rlhflow"])
def test_a_question_may_hold_the_words_with_which_a_solution_begins(tmp_path, format, question, first):
    text = f"{question} {first}"
    row = {
        "math_shepherd": {"input": f"{text} ки\nStep 2: 5. ки", "label": f"{text} +\nStep 2: 5. -"},
        "rlhflow": turns(text, "+", "Step 2: 5.", "-"),
    }[format]
    report = ReadReport()
    [solution] = read_all(format, tmp_path, row, report=report)
    assert solution.prompt == question + "\n"
    assert solution.step_texts == [first + "\n", "Step 2: 5."]
    assert solution.labels == [1, 0]
    assert report.seen == ({"'Step 1:' inside the question": 1} if "Step 1:" in question else {})


# --- RLHFlow


def turns(*contents):
    roles = ("user", "assistant") * len(contents)
    return {"conversations": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


RLHFLOW = turns("How many legs have 2 ducks? Step 1: A duck has 2.", "+", "Step 2: 2 * 2 = 5. The answer is: 5", "-")


def test_rlhflow_conversations_become_solutions(tmp_path):
    [solution] = read_all("rlhflow", tmp_path, RLHFLOW, separator="\n\n", prompt="Q: {problem}\n\n")
    assert solution.prompt == "Q: How many legs have 2 ducks?\n\n"
    assert solution.step_texts == ["Step 1: A duck has 2.\n\n", "Step 2: 2 * 2 = 5. The answer is: 5"]
    assert (solution.labels, solution.answer, solution.correct) == ([1, 0], "5", False)


def test_rlhflow_first_step_can_begin_otherwise(tmp_path):
    [solution] = read_all("rlhflow", tmp_path, turns("How? First: x", "+"), first_step="First:")
    assert (solution.prompt, solution.completion) == ("How?\n", "First: x")
    with pytest.raises(UserError, match="first_step is blank"):
        read_all("rlhflow", tmp_path, RLHFLOW, first_step="")


def test_rlhflow_rows_whose_first_step_has_no_mark_keep_every_other_label(tmp_path):
    # As in Deepseek-PRM-Data: the question and the first step are one text.
    report, unmarked = ReadReport(), turns("How many legs? A duck has 2.", "+", "2 * 2 = 5. The answer is: 5", "-")
    solutions = read_all("rlhflow", tmp_path, unmarked, RLHFLOW, turns("How? It is 4.", "+"), report=report)
    assert [(s.prompt, s.completion, s.labels) for s in solutions] == [
        ("How many legs? A duck has 2.\n", "2 * 2 = 5. The answer is: 5", [0]),
        ("How many legs have 2 ducks?\n", "Step 1: A duck has 2.\nStep 2: 2 * 2 = 5. The answer is: 5", [1, 0]),
    ]
    assert report.seen == {"first step not separable from the question, its label left out": 2}
    assert report.dropped == {"no step after the question": 1}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"conversations": []}, "conversations"),
        (turns("How? Step 1: x"), "conversations"),
        (turns("Step 1: It is 4.", "+"), "conversations[0].content"),
        (turns("How? Step 1: x", "yes"), "conversations[1].content"),
        (turns("How? Step 1: x", "+", " ", "+"), "conversations[2].content"),
        ({"conversations": turns("How? Step 1: x", "+")["conversations"][::-1]}, "conversations[0].role"),
        ({"conversations": ["How? Step 1: x", "+"]}, "conversations[0]"),
    ],
)
def test_a_malformed_conversation_is_named_with_its_field(tmp_path, bad, field):
    assert_fault("rlhflow", tmp_path, RLHFLOW, bad, field)


# --- ProcessBench

BENCH = {
    "id": "gsm8k-7", "generator": "Qwen2-7B-Instruct", "problem": "How many legs have 2 ducks?",
    "steps": ["A duck has 2 legs.", "2 * 2 = 5.", "So \\boxed{5}."], "final_answer_correct": False, "label": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("label", "labels"), [(-1, [1, 1, 1]), (0, [0, None, None]), (1, [1, 0, None]), (2, [1, 1, 0])]
)
def test_processbench_labels_name_the_first_wrong_step(tmp_path, label, labels):
    [solution] = read_all("processbench", tmp_path, {**BENCH, "label": label})
    assert solution.labels == labels
    assert solution.step_texts == ["A duck has 2 legs.\n", "2 * 2 = 5.\n", "So \\boxed{5}."]
    assert (solution.problem_id, solution.prompt) == ("gsm8k-7", "How many legs have 2 ducks?\n")
    assert (solution.answer, solution.correct) == ("5", False)


def test_processbench_keeps_a_right_answer_on_a_wrong_step(tmp_path):
    [solution] = read_all("processbench", tmp_path, {**BENCH, "final_answer_correct": True})
    assert (solution.correct, solution.labels[1]) == (True, 0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"label": 3}, "label"),
        ({"label": -2}, "label"),
        ({"label": True}, "label"),
        ({"label": 1.0}, "label"),
        ({"label": None}, "label"),
        ({"final_answer_correct": 1}, "final_answer_correct"),
        ({"steps": []}, "steps"),
        ({"steps": ["a", ""]}, "steps[1]"),
        ({"problem": ""}, "problem"),
        ({"id": 7}, "id"),
    ],
)
def test_a_malformed_processbench_row_is_named_with_its_field(tmp_path, change, field):
    assert_fault("processbench", tmp_path, BENCH, BENCH | change, field)


# --- PRMBench

PRMBENCH = {
    "original_question": "How many legs have 2 ducks?", "modified_question": "How many legs have some ducks?",
    "original_process": ["1. A duck has 2 legs.", "2. 2 * 2 = 4."],
    "modified_process": ["1. A duck has 2 legs.", "2. Ducks have 3 legs.", "3. There are 2 ducks.", "4. 2 * 3 = 6."],
    "modified_steps": [2, 3, 4], "error_steps": [2, 4], "reason": "Steps 2 and 4 are wrong.",
    "idx": "counterfactual_prm_test_p1_0", "question": "How many legs have $2$ ducks?",
    "classification": "counterfactual",
}  # fmt: skip


def test_prmbench_marks_each_wrong_step(tmp_path):
    report = ReadReport()
    [solution] = read_all("prmbench", tmp_path, PRMBENCH, report=report)
    assert solution.prompt == "How many legs have some ducks?\n"
    assert solution.step_texts == [
        "1. A duck has 2 legs.\n", "2. Ducks have 3 legs.\n", "3. There are 2 ducks.\n", "4. 2 * 3 = 6.",
    ]  # fmt: skip
    assert solution.labels == [1, 0, 1, 0]
    assert (solution.correct, solution.reference, solution.finished) == (None, "", True)
    assert report.seen == {"classification: counterfactual": 1}


def test_prmbench_takes_the_original_solutions_once(tmp_path):
    # Nine rows, one a class, have the same original; the published evaluation takes it from those of one class.
    report, sound = ReadReport(), {**PRMBENCH, "classification": "multi_solutions", "error_steps": []}
    actual = read_all(
        "prmbench", tmp_path, PRMBENCH, {**PRMBENCH, "classification": "redundency"}, sound, report=report
    )
    assert [s.labels for s in actual] == [[1, 0, 1, 0], [1, 0, 1, 0], [1, 1], [1, 1, 1, 1]]
    assert actual[2].prompt == "How many legs have 2 ducks?\n"
    assert actual[2].completion == "1. A duck has 2 legs.\n2. 2 * 2 = 4."
    assert report.seen["original solution"] == 1
    classes = ["counterfactual", "redundency", "original", "multi_solutions"]
    assert [s.extra for s in actual] == [{"classification": name} for name in classes]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"error_steps": [0]}, "error_steps[0]"),
        ({"error_steps": [2, 5]}, "error_steps[1]"),
        ({"error_steps": ["2"]}, "error_steps[0]"),
        ({"error_steps": None}, "error_steps"),
        ({"modified_process": []}, "modified_process"),
        ({"modified_process": ["a", ""]}, "modified_process[1]"),
        ({"modified_question": " "}, "modified_question"),
        ({"classification": None}, "classification"),
        ({"classification": "redundency", "original_process": []}, "original_process"),
        ({"classification": "redundency", "original_question": None}, "original_question"),
    ],
)
def test_a_malformed_prmbench_row_is_named_with_its_field(tmp_path, change, field):
    assert_fault("prmbench", tmp_path, PRMBENCH, PRMBENCH | change, field)


# --- MATH

MATH = {
    "problem": "What is $\\frac{1}{4}+\\frac{1}{4}$?", "level": "Level 1", "type": "Prealgebra",
    "solution": "It is $\\frac{2}{4}=\\boxed{\\frac{1}{2}}$.",
}  # fmt: skip


def test_math_rows_become_solutions(tmp_path):
    report = ReadReport()
    [solution] = read_all("math", tmp_path, MATH, report=report)
    assert solution.prompt == MATH["problem"] + "\n"
    assert (solution.completion, solution.reference) == (MATH["solution"], "\\frac{1}{2}")
    assert solution.steps is None
    assert solution.problem_id.startswith("math-")
    assert report.seen == {"level: Level 1": 1, "type: Prealgebra": 1}


def test_math_takes_the_answer_and_the_id_of_the_row(tmp_path):
    row = {**MATH, "answer": "0.5", "unique_id": "test/prealgebra/1.json", "solution": "By hand."}
    [solution] = read_all("math", tmp_path, row)
    assert (solution.reference, solution.problem_id) == ("0.5", "test/prealgebra/1.json")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"solution": "It is a half."}, "solution"),
        ({"solution": "It is \\boxed{1"}, "solution"),
        ({"solution": None}, "solution"),
        ({"problem": ""}, "problem"),
        ({"answer": 0.5}, "answer"),
        ({"unique_id": 4}, "unique_id"),
    ],
)
def test_a_malformed_math_row_is_named_with_its_field(tmp_path, change, field):
    assert_fault("math", tmp_path, MATH, MATH | change, field)


# --- all of them

ROWS = {
    "stepwise": STEPWISE,
    "math_shepherd": SHEPHERD,
    "rlhflow": RLHFLOW,
    "processbench": BENCH,
    "prmbench": PRMBENCH,
    "math": MATH,
    "gsm8k": {"question": "How many legs have 2 ducks?", "answer": "#### 4"},
}


@pytest.mark.parametrize("format", ROWS)
def test_a_template_with_braces_is_a_text(tmp_path, format):
    [solution] = read_all(format, tmp_path, ROWS[format], prompt="\\boxed{} {0} {problem}: ")
    assert solution.prompt.startswith("\\boxed{} {0} ")
    assert solution.prompt.endswith(": ")


@pytest.mark.parametrize("format", ROWS)
@pytest.mark.parametrize("prompt", ["", "no place\n", "{problem} {problem}"])
def test_a_template_names_the_problem_once(tmp_path, format, prompt):
    with pytest.raises(UserError, match="must hold {problem} once"):
        read_all(format, tmp_path, ROWS[format], prompt=prompt)


@pytest.mark.parametrize("format", ROWS)
def test_a_line_break_that_the_shell_did_not_make_is_refused(tmp_path, format):
    with pytest.raises(UserError, match="a backslash and an n in it; a line break is"):
        read_all(format, tmp_path, ROWS[format], prompt=r"{problem}\n")
    [solution] = read_all(format, tmp_path, ROWS[format], prompt=r"$\neq$ {problem}")
    assert solution.prompt.startswith(r"$\neq$ ")


@pytest.mark.parametrize("format", sorted(set(ROWS) - {"gsm8k", "processbench"}))
def test_solutions_of_one_problem_are_numbered(tmp_path, format):
    solutions = read_all(format, tmp_path, ROWS[format], ROWS[format])
    assert solutions[0].problem_id == solutions[1].problem_id
    assert [s.sample for s in solutions] == [0, 1]


@pytest.mark.parametrize("format", ROWS)
def test_a_row_that_is_no_problem_at_all_is_refused(tmp_path, format):
    write_rows(tmp_path / "x.jsonl", [{}])
    with pytest.raises(DataError, match="missing; this row has no fields"):
        list(read(format, tmp_path / "x.jsonl"))


def versa(**changes) -> dict:
    return {
        "id": "70", "cot_id": 3, "category": "law", "src": "ori", "question": "Which? A. x B. y", "answer": "B",
        "chain_of_thoughts": "['It\\'s x.', \"So x.\", 'The answer is (A).']", "labels": "[1, -1, -1]",
        "parsed_answer": "A", "parsed_answer_correctness": False,
    } | changes  # fmt: skip


def test_versaprm_rows_become_solutions(tmp_path):
    """Lists are texts in the published files, and lists in what others made of them."""
    lists = {"chain_of_thoughts": ["It's x.", "So x.", "The answer is (A)."], "labels": [1, -1, 1]}
    write_rows(tmp_path / "x.jsonl", [versa(), versa(**lists)])
    report = ReadReport()
    first, second = read("versaprm", tmp_path / "x.jsonl", report=report)
    assert first.step_texts == ["It's x.\n", "So x.\n", "The answer is (A)."]
    # What comes after the first wrong step has no label of its own.
    assert first.labels == second.labels == [1, 0, None]
    assert (first.prompt, first.reference, first.answer, first.correct) == ("Which? A. x B. y\n", "B", "A", False)
    assert (first.problem_id, first.sample, second.sample) == (second.problem_id, 0, 1)
    assert (first.extra, report.seen["category: law"]) == ({"category": "law"}, 2)
    write_rows(tmp_path / "x.jsonl", [versa(chain_of_thoughts="[]", labels="[]"), versa(labels="[1, 1, 1]")])
    assert [solution.labels for solution in read("versaprm", tmp_path / "x.jsonl", report=report)] == [[1, 1, 1]]
    assert report.dropped["no step"] == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"labels": "[1, -1]"}, "labels"),
        ({"labels": "[1, 0, 1]"}, "labels[1]"),
        ({"labels": "[1, True, 1]"}, "labels[1]"),
        ({"labels": "[1, open('x'), 1]"}, "labels"),
        ({"chain_of_thoughts": "['a', 'b'"}, "chain_of_thoughts"),
        ({"chain_of_thoughts": "[" * 100_000}, "chain_of_thoughts"),
        ({"chain_of_thoughts": "['a', 2, 'c']"}, "chain_of_thoughts[1]"),
        ({"question": " "}, "question"),
        ({"parsed_answer_correctness": "no"}, "parsed_answer_correctness"),
    ],
)
def test_a_malformed_versaprm_row_is_named_with_its_field(tmp_path, change, field):
    write_rows(tmp_path / "x.jsonl", [versa(**change)])
    with pytest.raises(DataError) as caught:
        list(read("versaprm", tmp_path / "x.jsonl"))
    assert (caught.value.row, caught.value.field) == (1, field)
