import os
import signal
import subprocess
import sys
import threading

import pytest

from rlstep.steps import answers
from rlstep.steps.answers import extract, is_correct, same_answer
from rlstep.steps.grader import Grader

ENDLESS = "9^{9^{9^{9}}}"


@pytest.fixture
def no_worker(monkeypatch):
    """Fails the test when a grading reaches the worker."""

    def same(answer, reference):
        raise AssertionError(f"the worker was asked about {answer!r} and {reference!r}")

    monkeypatch.setattr(answers.GRADER, "same", same)
    same_answer.cache_clear()
    yield
    same_answer.cache_clear()


@pytest.fixture(scope="module")
def grader():
    grader = Grader(seconds=0.5)
    yield grader
    grader.close()


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"so \boxed{12}.", "12"),
        (r"so \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {3}", "3"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"{ an open brace, \boxed{5}", "5"),
        (r"\boxed{5} and \boxed{6", "5"),
        (r"\boxed{5} and \boxed{ }", "5"),
        ("a\n#### 18", "18"),
        ("a\n#### 1,250 \nb", "1,250"),
        ("that is 18 #### 18", "18"),
        ("1 + 1 = 2\nAnswer: 2\n", "2"),
        ("1: yes\nAnswer: no", "no"),
        ("Answer: 1\n#### 2", "2"),
        ("#### 2\nAnswer: 1", "1"),
        (r"\boxed{3}" + "\nAnswer: 1", "1"),
        ("Answer: 1\nso " + r"\boxed{3}", "3"),
        (r"Answer: $\boxed{3}$", "3"),
    ],
)
def test_the_last_stated_answer_is_found(completion, answer):
    assert extract(completion) == answer


@pytest.mark.parametrize(
    "completion",
    ["", "18", "The answer is 18", "Answer:", "####", "#### \n", "##### 18", r"\boxed{18", r"\boxed{}", "}}}"],
)
def test_a_completion_that_states_no_answer_has_none(completion):
    assert extract(completion) is None
    assert not is_correct(completion, "18")


def test_boxes_in_boxes_without_end_are_read_once():
    assert extract("\\boxed{" * 50_000) is None
    assert extract("\\boxed{" * 50_000 + "7" + "}" * 50_000) == "7"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("18", "18"), (" 18 ", "18"), ("18.", "18"), ("18.0", "18"), ("018", "18"), ("+18", "18"),
        ("1,250", "1250"), ("1250.00", "1,250"), ("$18", "18"), (r"\$18.50", "18.5"), ("-$3", "-3"), ("$-3", "-3"),
        ("$18$", "18"), (r"\(18\)", "18"), (r"\text{no}", "no"), ("\u22125", "-5"), (".5", "0.5"),
        ("50%", "50"), (r"50\%", "50%"), ("50%", "0.5"), ("0.5", "50%"), ("1/2", "0.5"), ("2/4", "1/2"),
        ("1 1/2", "1.5"), ("-1 1/2", "-1.5"), ("Yes", "yes"), ("9" * 290, "9" * 290 + ".0"),
    ],
)  # fmt: skip
def test_equal_plain_answers_are_the_same_without_the_worker(no_worker, answer, reference):
    assert same_answer(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("17", "18"), ("-18", "18"), ("1.8", "18"), ("1", "1 1/2"), ("0.333", "1/3"),
        ("5000%", "0.5"), ("0.5", "50"), ("yes", "no"), ("no", "1"), ("", "18"), (".", "18"),
    ],
)  # fmt: skip
def test_different_plain_answers_are_told_apart_without_the_worker(no_worker, answer, reference):
    assert not same_answer(answer, reference)


def test_commas_that_group_no_thousands_are_not_taken_for_a_number():
    assert answers._number("1,2") is None
    assert answers._number("12,3456") is None
    assert answers._number("1/0") is None
    assert answers._number("--3") is None
    assert answers._number("-$-3") is None
    assert answers._number("\u0663") is None


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("x^2 + 1", "1 + x^2", True),
        ("x^2 + 2", "1 + x^2", False),
        (r"12\text{ cm}", "12", True),
        (r"\{2, 1\}", r"\{1, 2\}", True),
        ("(1, 2)", "(2, 1)", False),
        ("not mathematics }{ at all", "3", False),
        ("", "3", False),
    ],
)
def test_expressions_are_compared_mathematically(grader, answer, reference, same):
    assert grader.same(answer, reference) is same


def test_an_endless_power_is_stopped_counted_and_wrong(grader, caplog):
    before = grader.stopped
    assert not grader.same(ENDLESS, "81")
    assert not grader.same("(9^9)^(9^9)", "81")
    assert grader.stopped == before + 2
    assert caplog.text.count("was stopped after") <= 1
    assert grader.same(r"\sqrt{8}", r"2\sqrt{2}"), "the next grading gets a new worker"


def test_an_endless_power_costs_its_time_once(monkeypatch, grader):
    monkeypatch.setattr(answers, "GRADER", grader)
    same_answer.cache_clear()
    before = grader.stopped
    assert not any(is_correct(f"\\boxed{{{ENDLESS}}}", "81") for _ in range(3))
    assert grader.stopped == before + 1


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os').system('touch {path}')",
        "\\text{__import__('os').system('touch {path}')}",
        "().__class__.__base__",
    ],
)
def test_nothing_a_model_wrote_is_run(grader, tmp_path, attack):
    path = tmp_path / "touched"
    assert not grader.same(attack.replace("{path}", str(path)), "1")
    assert not path.exists()


def test_the_worker_reads_number_literals_alone():
    code = "import sympy; from rlstep.steps import grader; grader._equality(); "
    code += "print(sympy.Number('12.5')); sympy.sympify('2+2')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "12.5000000000000\n"
    assert "not a number: '2+2'" in found.stderr


def test_a_long_answer_is_wrong_without_grading(no_worker, grader):
    stopped = grader.stopped
    assert not grader.same("1+" * 1000 + "1", "1001")
    assert grader.stopped == stopped


def test_grading_works_off_the_main_thread(grader):
    found = []
    thread = threading.Thread(target=lambda: found.append(grader.same(r"\sqrt{18}", r"3\sqrt{2}")))
    thread.start()
    thread.join()
    assert found == [True]


def test_many_threads_get_their_own_answers(grader):
    found = {}

    def ask(k: int) -> None:
        found[k] = grader.same(f"\\frac{{{2 * k}}}{{2}}", str(k % 5))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: k < 5 for k in range(10)}


def test_a_worker_killed_from_outside_is_replaced(grader):
    assert grader.same(r"\frac{2}{4}", "0.5")
    stopped = grader.stopped
    os.kill(grader._process.pid, signal.SIGKILL)
    grader._process.wait()
    assert grader.same(r"\frac{3}{6}", "0.5")
    assert grader.stopped == stopped


def test_a_forked_child_gets_its_own_worker(grader):
    assert grader.same(r"\frac{2}{4}", "0.5")
    worker = grader._process.pid
    child = os.fork()
    if child == 0:
        right = grader.same(r"\frac{4}{8}", "0.5") and grader._process.pid != worker
        grader.close()
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert grader.same(r"\frac{5}{10}", "0.5")
    assert grader._process.pid == worker


def test_a_closed_grader_starts_again_when_asked(grader):
    assert grader.same(r"\frac{2}{4}", "0.5")
    process = grader._process
    grader.close()
    assert process.poll() is not None
    assert grader.same(r"\frac{2}{4}", "0.5")
