import subprocess
import sys

import pytest

from rlstep.steps.answers import extract, is_correct
from rlstep.steps.extraction import stated


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
    ["", "18", "Answer:", "####", "#### \n", "##### 18", r"\boxed{18", r"\boxed{}", "}}}"],
)
def test_a_completion_that_states_no_answer_has_none(completion):
    assert extract(completion) is None
    assert not is_correct(completion, "18")


def test_boxes_in_boxes_without_end_are_read_once():
    assert extract("\\boxed{" * 50_000) is None
    assert extract("\\boxed{" * 50_000 + "7" + "}" * 50_000) == "7"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        # markdown around the label or the answer
        ("**Answer:** 18", "18"), ("Answer: **18**", "18"), ("**Answer: 18**", "18"), ("### Answer: 18", "18"),
        ("*Final answer*: 18", "18"), ("**Final Answer:** $18$", "$18$"), 
        ("> Answer: 18", "18"), ("- answer: 18", "18"),
        ("__Answer__: `18`", "18"), ("**Answer**\n\n18", "18"), ("## Final Answer\n\n**18**\n", "18"),
        ("**Answer:**\n18 apples\n\nIt was easy.", "18 apples"), ("The final answer is:\n\n18", "18"),
        # PRM800K
        ("So it is.\n\n# Answer\n\n29", "29"), ("# Answer\n\n\\dfrac{5}{9}", r"\dfrac{5}{9}"),
        ("# Answer\n\n\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}\nDone.", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        # in a sentence
        ("The answer is 18", "18"), ("The answer is: 18", "18"), ("So the final answer is 3.5 cm. Good.", "3.5 cm"),
        ("Thus the answer is **18**.", "18"), ("The answer is $x = 5.5$. I hope it is correct.", "$x = 5.5$"),
        ("the answer is 3.\nThe answer is 4.", "4"), ("The correct answer is (B).", "(B)"),
        ("The answer is 12 because 3*4=12.", "12"), ("The answer is 12, since 3*4=12.", "12"),
        ("**Answer: 12** (because 3*4=12)", "12"), ("Answer: $x = 3$, which is even", "$x = 3$"),
        ("Final Answer: The final answer is $12$. I hope it is correct.", "$12$"),
        ("**Final Answer:** The answer is 12.5.", "12.5"), ("Thus the answer would be 12.", "12"),
        ("The final answer is clearly 12.", "12"), ("The answer is equal to 12", "12"),
        # tags, and Chinese
        ("So.\n<answer> 12 </answer>", "12"), ("<think>Answer: 11</think>\n<answer>12</answer>", "12"),
        ("<answer>The sum is \\boxed{12}.</answer>", "12"), ("<answer>12</answer>\n<answer>13</answer>", "13"),
        ("所以答案是 12。", "12"), ("答案：12", "12"), ("答案为 $12$。", "$12$"),
        ("I think the answer is 41. No, the answer is 42.", "42"), ("The answer must be 12.", "12"),
        ("The answer to part (a) is 12.", "12"), ("The answer for this is 12.", "12"),
        ("The correct option is (B).", "(B)"),
        ("Therefore, option (B) is correct.", "(B)"), ("Option **B** is the right answer.", "B"),
        ("I choose B.", "B"), ("Answer: 42. That took 3 steps.", "42"), ("Answer: $x = 3$. We check it.", "$x = 3$"),
        ("Answer: B. Paris is it.", "B. Paris is it."), ("Answer: They left. He stayed.", "They left. He stayed."),
        ("Option A is not correct.", None), ("Option A is correct only for x = 2.", None),
        ("I choose A as a base.", None),
        ("So the correct choice is **C. Paris**", "C"), ("The answer is 5! = 120.", "5! = 120"),
        ("The answer is yes, the two are equal.", "yes"), ("Answer: No, it is not prime.", "No"),
        ("Answer: yes, or no", "yes, or no"), ("The answer is 5 p.m. on Monday. Good.", "5 p.m. on Monday"),
        (r"Answer: $\sqrt{2}$ (approximately 1.414)", r"$\sqrt{2}$"), ("Answer: 12 (or 13)", "12 (or 13)"),
        ("## Final Answer\nThe final answer is $12$.", "$12$"), ("Final Answer\n12", "12"),
        ("#### The answer is 12.", "12"),
        ("**Final Answer**\n\nAfter all, the answer is 12.", "12"), ("1. Answer: 12", "12"),
        ("Final answer → 12", "12"),
        ("Final Answer - 12", "12"), ("Answer -12", None), ("**Answer** 12", "12"), ("**Answer** the question.", None),
        ("✅ **Final Answer:** 12", "12"), ("Answer: 12 ✓", "12"), (r"\textbf{Answer:} 12", "12"),
        (r"\textbf{Final Answer: } $12$", "$12$"), (r"\[\text{Answer: } 12\]", "12"), (r"$\text{Answer} = 12$", None),
        ("<answer>So 6 * 2 = 12. The answer is 12.</answer>", "12"), ("<ANSWER>12</ANSWER>", "12"),
        ("<final_answer>12</final_answer>", "12"), ('{"answer": 12}', "12"),
        ('{"steps": [], "final_answer": "1/2"}', "1/2"),
        ('{"answer": "\\\\frac{1}{2}"}', r"\frac{1}{2}"), (r"\\boxed{12}", "12"),
        # LaTeX in JSON without backslashes of its own, lists, and as Python writes it
        ('{"answer": "\\frac{1}{2}"}', r"\frac{1}{2}"), ('{"answer": "\\sqrt{2}"}', r"\sqrt{2}"),
        ('{"answer": "\\text{Evelyn}"}', r"\text{Evelyn}"), ('{"answer": [1, "x"]}', "1, x"),
        ("{'answer': '12'}", "12"), ('{"Final Answer": 12}', "12"), ('{"answer": "\\u00bd"}', "½"),
        # other languages
        ("答案是：12。", "12"), ("正确选项是C", "C"), ("因此选C。", "C"), ("La réponse est : 12", "12"),
        ("**Réponse :** 12", "12"),
        ("La respuesta correcta es C.", "C"), ("Respuesta final: 12", "12"), ("Die Antwort lautet 12.", "12"),
        ("Antwort: 12", "12"), ("La risposta è 12.", "12"), ("A resposta é 12.", "12"), ("**Ответ:** 12", "12"),
        ("答えは12です。", "12"), ("답은 12입니다.", "12"), ("正答なし", None), ("Answers vary", None),
        ("La question est 12.", None),
        # a sentence with one value in bold, fences and quotes, labels within a box
        ("**Final answer:** The number is **12**.", "12"),
        ("**Answer:** She has **3** of **4**.", "She has **3** of **4**."),
        ("**Final Answer:**\n```\n12\n```", "12"), ("Final Answer:\n> 12", "12"),
        ("Answers: 3, 4", "3, 4"), ("Ans: 12", "12"),
        (r"\boxed{\text{Answer: } 12}", "12"), (r"\boxed{\text{The answer is } 12}", "12"),
        (r"\boxed{\text{Answer: 12}}", "12"),
        (r"\boxed{\text{answerable}}", r"\text{answerable}"),
        # a box that is cut off holds an unknown part of the answer
        ("The answer is \\boxed{12", None), ("The answer is $\\boxed{\\frac{1}{2}$.", None),
        ("So C is the correct answer.", "C"), ("(C) is correct.", "(C)"), ("(C) is correct only for x = 2.", None),
        ("The final answer (in simplest form) is 12.", "12"), ("The answer, in cm, is 12.", "12"),
        ("The answer is 12, as required.", "12"), ("The answer is 12, which completes the proof.", "12"),
        ("故选B。", "B"), ("应选：(B)", "(B)"),
        # what states an answer on purpose comes before a sentence, wherever it stands
        (r"\boxed{5}" + "\nThe answer is right.", "5"), ("#### 5\nSo the answer is 6.", "5"),
        # a heading is no answer
        ("#### Step 3: Add\nThe answer is 7.", "7"), ("#### Conclusion\n\nAnswer: 7", "7"),
        ("#### Final Answer\n\n7", "7"),
        ("#### 12 apples\n", "12 apples"), ("so\n#### yes", "yes"), (r"#### \frac{1}{2}" + "\nDone.", r"\frac{1}{2}"),
        # boxes
        (r"\boxed{1} and \boxed{2}", "1, 2"), (r"$x = \boxed{1}$ or $x = \boxed{2}$.", "1, 2"),
        (r"$\boxed{1}$, $\boxed{2}$ and $\boxed{3}$", "1, 2, 3"), (r"\boxed{1}. Then \boxed{2} and \boxed{3}.", "2, 3"),
        (r"\boxed{7} and \boxed{7}", "7"), (r"\boxed{1} and so 4 gives \boxed{2}", "2"), (r"\fbox{5}", "5"),
        (r"\boxed 5", "5"), (r"$\boxed5$.", "5"), (r"\boxed 18.", "18"), (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
    ],
)  # fmt: skip
def test_an_answer_is_found_however_it_is_stated(completion, answer):
    assert extract(completion) == answer


@pytest.mark.parametrize(
    "completion",
    ["#### Step 1\nWe add.", "#### Approach: add both\n\nWe add.", "An answerable question", "Answers vary",
     "**Answer:**",
     "# Answer\n\n", "I think so", "<answer></answer>", "<answer>12"],
)  # fmt: skip
def test_a_heading_is_no_answer(completion):
    assert extract(completion) is None


PIECES = [
    "Answer: ",
    "answer is ",
    "# Answer\n",
    "#### ",
    "\\boxed",
    "\\boxed 5 and ",
    "\\boxed{5} and ",
    "**",
    "$",
    "\\[",
]
PIECES += [
    " ",
    "\n",
    "\\begin{a} ",
    "the answer is $",
    "Answer\n",
    "_*#` ",
    "\\boxed{",
    "x = ",
    "\\text{and} ",
    "#### a",
]
PIECES += ["<answer>", "<answer>a</answer>", "答案是", "the answer is 1 ", "answer: because ", "Answer: the answer is "]
PIECES += [
    '"answer": "',
    "\\textbf{Answer:} ",
    "1. ",
    "Answer: yes, ",
    "answer (approximately ",
    "故选A",
    "the answer to a ",
]
PIECES += [
    "{'answer': '",
    '"answer": [1, ',
    "la réponse est ",
    "**Answer:** a **b ",
    "Answer:\n```\n",
    "\\boxed{answer: ",
    "answer (",
]
PIECES += ["answer is\n", "Answer:\n", "#### 5\n", ". ", "answer is . ", "\\boxed{5}, x = ", "}", "so the "]


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_completion_takes_no_time_that_grows_with_its_square(piece):
    """A hundred thousand characters take milliseconds here; a square of that would run into the limit."""
    code = "import resource, sys; from rlstep.steps.extraction import extract\n"
    code += "resource.setrlimit(resource.RLIMIT_CPU, (10, 10))\n"
    code += "extract(sys.argv[1] * (100_000 // len(sys.argv[1])))"
    assert subprocess.run([sys.executable, "-c", code, piece]).returncode == 0


@pytest.mark.parametrize("beginning", ["Answer: 1", "The answer is 1", "\\boxed{1", "<answer>1", "#### 1"])
@pytest.mark.parametrize("filling", [" ", "*", ", ", "\t", "."])
def test_a_long_gap_in_an_answer_takes_no_time_that_grows_with_its_square(beginning, filling):
    code = "import resource, sys; from rlstep.steps.answers import is_correct\n"
    code += "resource.setrlimit(resource.RLIMIT_CPU, (10, 10))\n"
    code += "is_correct(sys.argv[1] + sys.argv[2] * 100_000 + 'because}</answer>', '1')"
    assert subprocess.run([sys.executable, "-c", code, beginning, filling]).returncode == 0


def test_two_boxes_are_no_way_to_be_right_twice():
    assert not is_correct(r"It is \boxed{3} or \boxed{4}.", "4")
    assert is_correct(r"It is \boxed{3} or \boxed{4}.", "4, 3")


@pytest.mark.parametrize(
    ("completion", "statement"),
    [
        ("a\nAnswer: 3\nb", "Answer: 3"),
        ("# Answer\n\n29\n", "# Answer\n\n29"),
        ("so #### 18", "#### 18"),
        ("x is \\boxed{1} and \\boxed{2}.", "\\boxed{2}"),
        ("So the answer is 3. Yes.\nb", "answer is 3. Yes."),
    ],
)
def test_a_statement_has_its_place(completion, statement):
    final = stated(completion)
    assert completion[final.start : final.end] == statement


def test_sentences_can_be_left_out():
    assert stated("The answer is 3.").answer == "3"
    assert stated("The answer is 3.", sentences=False) is None


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("So \\boxed{3}? No.\n</think>\nThe answer is 4.", "4"),
        ("Answer: 3\n</think>\n\nAnswer: 4", "4"),
        ("<think>\nAnswer: 3\n</think>\nSorry.", None),
        ("Answer: 3\n</think>\nAnswer: 4\n<think>Answer: 5</think>Answer: 6", "6"),
        # Cut off in thought, or a thought that is never closed: nothing tells the answer from the thought.
        ("So far:\nAnswer: 3", "3"),
        ("<think>\nAnswer: 3", "3"),
    ],
)
def test_an_answer_stands_after_the_thought(completion, answer):
    actual = stated(completion)
    assert (actual and actual.answer) == answer
    if actual:
        assert completion[actual.start : actual.end].strip().endswith((answer, answer + "."))
