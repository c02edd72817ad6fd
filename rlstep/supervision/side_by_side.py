"""Process and outcome supervision side by side, on solutions of sequences that increase or do not."""

import random

from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution
from rlstep.tasks.base import checked
from rlstep.tasks.increasing import Increasing, draw, is_increasing, prompt_of, pupil, write_solution


def solve(rng: random.Random, length: int) -> Solution:
    """A random sequence (increasing or not, evenly) with the checked solution of a solver that slips."""
    sequence = draw(rng, length, rises=rng.random() < 0.5)
    reference = "yes" if is_increasing(sequence) else "no"
    solution = Solution("example", prompt_of(sequence), write_solution(sequence, pupil(rng)), reference)
    return checked(Increasing(), solution)


def side_by_side(solution: Solution) -> str:
    """A table of a solution: one line per step, with its label by process and by outcome supervision."""
    lines = [
        f"{problem_text(solution.prompt).strip()}  (in truth: {solution.reference})",
        "  step          process  outcome",
    ]
    for text, label in zip(solution.step_texts, solution.labels, strict=True):
        lines.append(f"  {text.strip():<12}  {label:>7}")
    lines[-1] += f"  {int(solution.correct):>7}"
    if solution.correct and not solution.clean:
        lines[-1] += "   right, on a wrong step"
    return "\n".join([*lines, ""])


def compare(solutions: list[Solution]) -> dict[str, float]:
    """Both accuracies, and the share of right answers that rest on a wrong step."""
    labels = [label for solution in solutions for label in solution.labels]
    right = [solution for solution in solutions if solution.correct]
    return {
        "process_accuracy": sum(labels) / len(labels),
        "outcome_accuracy": len(right) / len(solutions),
        "right_on_wrong_step": sum(not solution.clean for solution in right) / max(len(right), 1),
    }
