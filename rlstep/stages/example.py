"""`rlstep example`: process and outcome supervision side by side, on sequences that increase or do not.

For a few sequences, a solver that sometimes slips writes its comparisons; process supervision labels every step,
outcome supervision only the answer. Then both kinds of accuracy over many sequences.
"""

import random
from dataclasses import dataclass, field
from typing import Annotated

from rlstep.runtime.constraints import Range, check
from rlstep.supervision.side_by_side import compare, side_by_side, solve
from rlstep.tasks.increasing import NUMBERS


@dataclass
class ExampleConfig:
    sequences: Annotated[int, Range(at_least=0)] = field(
        default=3, metadata={"help": "Sequences to show step by step."}
    )
    length: Annotated[int, Range(at_least=2, at_most=NUMBERS)] = field(
        default=6, metadata={"help": "Numbers in a sequence."}
    )
    n: Annotated[int, Range(at_least=1)] = field(
        default=1000, metadata={"help": "Sequences over which the accuracies are computed."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the sequences and of the solver's slips."})

    def __post_init__(self):
        check(self)


def example(config: ExampleConfig) -> dict:
    """Prints the example; returns the accuracies that it prints."""
    rng = random.Random(f"example {config.seed}")
    for _ in range(config.sequences):
        print(side_by_side(solve(rng, config.length)))
    accuracies = compare([solve(rng, config.length) for _ in range(config.n)])
    print(f"Over {config.n} random sequences, with a solver that slips on pairs like 12 > 8:")
    print(f"  process accuracy, the share of steps that are right    {accuracies['process_accuracy']:6.1%}")
    print(f"  outcome accuracy, the share of answers that are right  {accuracies['outcome_accuracy']:6.1%}")
    print(f"  right answers that rest on a wrong step                {accuracies['right_on_wrong_step']:6.1%}")
    print("The last line is what outcome supervision rewards and process supervision does not.")
    return accuracies
