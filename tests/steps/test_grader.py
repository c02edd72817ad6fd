import os
import resource
import signal
import subprocess
import sys
import threading

import pytest

from rlstep.steps import answers
from rlstep.steps.answers import is_correct, same_answer
from rlstep.steps.grader import Grader

ENDLESS = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def grader():
    grader = Grader(seconds=0.5)
    yield grader
    grader.close()


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("x^2 + 1", "1 + x^2", True),
        ("x^2 + 2", "1 + x^2", False),
        (r"\{2, 1\}", r"\{1, 2\}", True),
        ("(1, 2)", "(2, 1)", False),
        ("not mathematics }{ at all", "3", False),
        ("", "3", False),
    ],
)
def test_expressions_are_compared_mathematically(grader, answer, reference, same):
    assert grader.same(answer, reference) is same


def test_any_of_several_pairs_is_enough(grader):
    assert grader.any_same((r"\sqrt{4}", "3"), (r"\sqrt{9}", "3"))
    assert not grader.any_same((r"\sqrt{4}", "3"), (r"\sqrt{16}", "3"))


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


HOSTILE = [
    "((((1))))" * 30, "(" * 140 + "1" + ")" * 140, "{" * 140 + "1" + "}" * 140, r"\sqrt{" * 40 + "2" + "}" * 40,
    "2^" * 140 + "2",
    "x^{100000}+(x+1)^{100000}", "1000000!", "(1000!)!", r"\binom{10^9}{5\cdot10^8}", r"\pm1" * 60, "1,1" * 99,
    r"\sin " * 60 + "x",
    r"\sqrt[999999999]{2}", r"\tan(10^{300})", "x^{50}-x^{49}+x^7-1>0", r"\sin(x^2)<\frac{1}{x}", r"e^{e^{e^{e^{10}}}}",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_answer_or_reference_is_bounded_and_wrong(grader, text):
    assert not grader.same(text[:300], "81")
    assert not grader.same(r"\sqrt{81}", text[:300])
    assert grader.same(r"\sqrt{81}", "9")


def test_a_grading_ends_by_the_clock_too():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    grader = Grader(seconds=300, clock=0.5)
    assert not grader.same(ENDLESS, "81")
    assert grader.stopped == 1
    grader.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60, "the processor time ended it"


CODE = "__import__('os').system('touch {path}')"
ATTACKS = [
    CODE,
    rf"\text{{{CODE}}}",
    f"f({CODE})",
    f"x_{{{CODE}}}",
    rf"\operatorname{{{CODE}}}(1)",
    f"[{CODE}]",
    f"{{{CODE}}}",
]
ATTACKS += [
    "().__class__.__base__",
    "eval('1')",
    "1 if x else 2",
    "lambda: 1",
    "open('{path}','w')",
    "@{path}",
    "{path}!",
    "'{path}'",
]
ATTACKS += [
    rf"\frac{{{CODE}}}{{1}}",
    f"x = {CODE}",
    f"x > {CODE}",
    rf"\begin{{pmatrix}} {CODE} \\ 1 \end{{pmatrix}}",
    f"1.{CODE}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_an_answer_or_a_reference_is_run(grader, tmp_path, attack):
    path = tmp_path / "touched"
    attack = attack.replace("{path}", str(path))
    assert not grader.same(attack, "1")
    assert not grader.same("1", attack)
    assert not path.exists()


def test_the_process_that_grades_refuses_to_evaluate_text_to_start_processes_and_to_write(tmp_path):
    """Whatever library code it goes through: SymPy's own reader of expressions is given some text here."""
    code = (
        "import os, sys, subprocess; from rlstep.steps import grader; import sympy; sys.addaudithook(grader._refuse)\n"
    )
    code += "for attempt in (lambda: sympy.sympify('2+2'), lambda: eval('2+2'), lambda: os.system('true'),\n"
    code += f"    lambda: subprocess.run(['true']), lambda: open({str(tmp_path / 'file')!r}, 'w'), os.fork):\n"
    code += "    try: attempt(); print('done')\n"
    code += "    except Exception as error: print(type(error).__name__, error)\n"
    actual = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert len(actual) == 6
    assert all("PermissionError" in line or "the grader does not evaluate text" in line for line in actual)
    assert not (tmp_path / "file").exists()


def test_a_failed_grading_is_counted_and_shown_and_not_silently_wrong(caplog):
    grader = Grader()
    assert not grader.same("3", r"\mystery{3}")
    assert grader.counts() == {"gradings_stopped": 0, "grading_errors": 1}
    assert all(part in caplog.text for part in ("'3'", "mystery", "counts as wrong"))
    assert not grader.same("4", r"\mystery{3}")
    assert grader.errors == 2
    assert caplog.text.count("counts as wrong") == 1
    assert not grader.same(r"\mystery{3}", "3"), (
        "an answer that is no mathematics is wrong, and no failure of the grader"
    )
    assert grader.errors == 2
    grader.close()


def test_grading_works_off_the_main_thread(grader):
    actual = []
    thread = threading.Thread(target=lambda: actual.append(grader.same(r"\sqrt{18}", r"3\sqrt{2}")))
    thread.start()
    thread.join()
    assert actual == [True]


def test_many_threads_get_their_own_answers(grader):
    actual = {}

    def ask(k: int) -> None:
        actual[k] = grader.same(f"\\frac{{{2 * k}}}{{2}}", str(k % 5))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert actual == {k: k < 5 for k in range(10)}


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
