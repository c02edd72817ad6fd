from collections import Counter

import pytest

from rlstep.runtime.errors import UserError
from rlstep.tasks import get
from rlstep.tasks.rises_words import read_problem

TASK = get("rises_words")
PROMPT = (
    "How many of these numbers are greater than the one before: 3, 8, 9, 5, 7? Compare each number with the one "
    "before it, one line each, then give the count."
)
SOLUTION = "8 > 3: yes\n9 > 8: yes\n5 > 9: no\n7 > 5: yes\nAnswer: 3"


@pytest.mark.parametrize("prompt", [PROMPT, [{"role": "user", "content": PROMPT}]])
def test_the_worked_example(prompt):
    result = TASK.check(prompt, SOLUTION, "3")
    assert (result.labels, result.answer, result.correct) == ([1, 1, 1, 1, 1], "3", True)


@pytest.mark.parametrize(
    ("change", "labels", "answer"),
    [
        (("8 > 3: yes", "8 > 3: no"), [0, 1, 1, 1, 0], "3"),  # the answer does not count the lines any more
        (("3: yes\n9 > 8: yes\n5 > 9: no", "3: no\n9 > 8: yes\n5 > 9: yes"), [0, 1, 0, 1, 1], "3"),
        (("9 > 8", "8 > 9"), [1, 0, 1, 1, 1], "3"),
        (("9 > 8: yes\n", ""), [1, 0, 0, 0], "3"),  # every later line compares another place
        (("Answer: 3", "Answer: 4"), [1, 1, 1, 1, 0], "4"),
        (("Answer: 3", "Answer: 3\n7 > 5: yes"), [1, 1, 1, 1, 1, 0], "3"),
        (("Answer: 3", "Three."), [1, 1, 1, 1, 0], None),
        (("7 > 5: yes\n", "7 > 5: yes\n7 > 5: no\n"), [1, 1, 1, 1, 0, 0], "3"),
    ],
)
def test_what_is_right_line_by_line(change, labels, answer):
    result = TASK.check(PROMPT, SOLUTION.replace(*change), "3")
    assert (result.labels, result.answer, result.correct) == (labels, answer, answer == "3")


def test_no_constant_pays():
    """Neither one word for all comparisons nor one count for all problems is right for many."""
    problems = TASK.problems("test", 400, seed=0)
    sequences = [read_problem(problem.prompt) for problem in problems]
    verdicts = [b > a for numbers in sequences for a, b in zip(numbers, numbers[1:], strict=False)]
    assert sum(verdicts) / len(verdicts) == pytest.approx(0.5, abs=0.03)
    assert Counter(problem.reference for problem in problems).most_common(1)[0][1] < 0.4 * len(problems)
    always_yes = ["\n".join([*(f"{b} > {a}: yes" for a, b in zip(n, n[1:], strict=False)), f"Answer: {len(n) - 1}"])
                  for n in sequences]  # fmt: skip
    right = [TASK.check(p.prompt, text, p.reference).correct for p, text in zip(problems, always_yes, strict=True)]
    assert sum(right) < 0.05 * len(right)


def test_references_are_right_and_demonstrations_partly():
    for problem in TASK.problems("ood", 20, seed=1):
        numbers = read_problem(problem.prompt)
        assert int(problem.reference) == sum(b > a for a, b in zip(numbers, numbers[1:], strict=False))
        assert 9 <= len(numbers) <= 10
    checks = [TASK.check(s.prompt, s.completion, s.reference) for s in TASK.demonstrations(300, seed=0)]
    labels = [label for check in checks for label in check.labels]
    assert 0.7 < sum(labels) / len(labels) < 0.9
    on_wrong_steps = [0 in check.labels for check in checks if check.correct]
    assert 0.03 < sum(on_wrong_steps) / len(on_wrong_steps) < 0.5


def test_splits_share_no_problem_whatever_the_seed():
    texts = [{p.prompt[0]["content"] for seed in (0, 1) for p in TASK.problems(split, 300, seed)}
             for split in ("train", "test", "ood")]  # fmt: skip
    assert not texts[0] & texts[1]
    assert not (texts[0] | texts[1]) & texts[2]
    with pytest.raises(UserError, match="has no split 'dev'; there are train, test, ood"):
        TASK.problems("dev", 1, seed=0)
    with pytest.raises(UserError, match="at most 50000 problems"):
        TASK.problems("test", 50_001, seed=0)


@pytest.mark.parametrize("prompt", ["Increasing? 3 8\n", PROMPT.replace("9", "12"), PROMPT + " ", ""])
def test_a_prompt_of_another_task_is_refused(prompt):
    with pytest.raises(ValueError, match="not a prompt of the task rises_words"):
        TASK.check(prompt, "", "0")


def test_the_tokenizer_speaks_in_turns():
    tokenizer = TASK.tokenizer()
    messages = [{"role": "user", "content": PROMPT}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
