import pytest

from rlstep.steps.prompts import problem_text
from rlstep.tasks.increasing import Increasing
from rlstep.tasks.increasing_words import IncreasingWords

TASK = IncreasingWords()
PROMPT = (
    "Are these numbers in increasing order: 3, 8, 12, 7? Compare each number with the one before it, one line each, "
    "then answer yes or no."
)
SOLUTION = "3: yes\n8 > 3: yes\n12 > 8: yes\n7 > 12: no\nAnswer: no"


@pytest.mark.parametrize("prompt", [PROMPT, [{"role": "user", "content": PROMPT}]])
def test_the_worked_example(prompt):
    result = TASK.check(prompt, SOLUTION, "no")
    assert (result.labels, result.answer, result.correct) == ([1, 1, 1, 1, 1], "no", True)
    assert TASK.check(prompt, SOLUTION.replace("8 > 3: yes", "8 > 3: no"), "no").labels == [1, 0, 1, 1, 1]


def test_problems_are_messages_about_the_sequences_of_increasing():
    words, plain = TASK.problems("test", 20, seed=3), Increasing().problems("test", 20, seed=3)
    for a, b in zip(words, plain, strict=True):
        assert a.prompt == [{"role": "user", "content": problem_text(a.prompt)}]
        assert TASK.read_problem(a.prompt) == [int(word) for word in b.prompt.split()[1:]]
        assert (a.id, a.reference) == (b.id.replace("increasing", "increasing_words"), b.reference)


def test_demonstrations_are_those_of_increasing():
    words, plain = TASK.demonstrations(20, seed=3), Increasing().demonstrations(20, seed=3)
    assert [s.completion for s in words] == [s.completion for s in plain]


@pytest.mark.parametrize("prompt", ["Increasing? 3 8\n", PROMPT.replace("12", "x"), PROMPT + " ", ""])
def test_a_prompt_of_another_task_is_refused(prompt):
    with pytest.raises(ValueError, match="not a prompt of the task increasing_words"):
        TASK.check(prompt, "", "no")


def test_the_tokenizer_speaks_in_turns():
    tokenizer = TASK.tokenizer()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True
    )
    assert text == f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
