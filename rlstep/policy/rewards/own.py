"""Rewards of a user's own: a function, `package.module:function`, or a name that an installed package gives one.

    def short(prompts, completions, references, **columns) -> list[float]

One number per completion is an outcome reward, one list per completion, of a number per step, are step rewards. What a
function returns is held against that, at the start on one problem with an empty completion, and then on every batch.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.plugins import load_object
from rlstep.steps.prompts import Prompt
from rlstep.steps.records import Span

GROUP = "rlstep.rewards"
# What a function is given beside the problems' other fields.
GIVEN = ("prompts", "completions", "references", "steps")

Pays = Literal["steps", "outcome"]


@dataclass(frozen=True)
class OwnReward:
    """A user's reward function.

    Attributes:
        name: the name it was given by, under which it is logged.
        function: the function itself.
        takes: the columns that it names; None takes them all.
        pays: whether it gives step rewards or an outcome reward.
    """

    name: str
    function: Any
    takes: frozenset[str] | None
    pays: Pays

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        references: Sequence[str],
        steps: Sequence[list[Span]],
        columns: Mapping[str, list],
    ) -> list[list[float]]:
        """One list per completion: a reward per step, or the outcome's alone.

        Raises:
            UserError: what it returned is not that.
        """
        columns = {"steps": [list(spans) for spans in steps], **columns}
        if self.takes is not None:
            columns = {name: values for name, values in columns.items() if name in self.takes}
        rewards = self.function(list(prompts), list(completions), list(references), **columns)
        return self._checked(rewards, steps)

    def _checked(self, rewards: Any, steps: Sequence[list[Span]]) -> list[list[float]]:
        rows = _list(rewards)
        if rows is None or len(rows) != len(steps):
            got = type(rewards).__name__ if rows is None else counted(len(rows), "value")
            wanted = f"for {counted(len(steps), 'completion')}; give a list with one number or one list for each"
            raise self._fault(f"{got} {wanted}")
        checked = []
        for row, (value, spans) in enumerate(zip(rows, steps, strict=True)):
            values = _list(value)
            if (values is not None) != (self.pays == "steps"):
                first = "step rewards, a list per completion" if self.pays == "steps" else "one number per completion"
                raise self._fault(f"{value!r} for completion {row}; before, it gave {first}, and it cannot give both")
            values = [value] if values is None else values
            if self.pays == "steps" and len(values) != len(spans):
                given, there = counted(len(values), "reward"), counted(len(spans), "step")
                raise self._fault(f"{given} for the {there} of completion {row}")
            if wrong := [one for one in values if not isinstance(one, Real) or not math.isfinite(one)]:
                raise self._fault(f"{wrong[0]!r} for completion {row}; a reward is a finite number")
            checked.append([float(one) for one in values])
        return checked

    def _fault(self, problem: str) -> UserError:
        return UserError(f"reward {self.name} returned {problem}.")


def _list(value: Any) -> list | None:
    """The items of a list, tuple, array or tensor; None for anything else."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, (list, tuple)) else None


def load_own_reward(name: str, prompt: Prompt, reference: str, columns: Mapping[str, list]) -> OwnReward:
    """The function of that name, tried on one problem with an empty completion: that shows what it pays for.

    Args:
        name: an entry point of the group `rlstep.rewards`, or `package.module:function`.
        prompt, reference: a problem's.
        columns: what else is known of it (`columns_of`).

    Raises:
        UserError: there is no such function, it cannot be called so, fails, or returns no rewards.
    """
    function = load_object(name, GROUP, "reward")
    if not callable(function) or isinstance(function, type):
        raise UserError(f"reward {name} is no function, but {type(function).__name__}.")
    takes = _takes(name, function, columns)
    first = {"steps": [[]], **columns}
    first = first if takes is None else {key: values for key, values in first.items() if key in takes}
    try:
        tried = _list(function([prompt], [""], [reference], **first))
    except Exception as error:  # the user's code
        raise UserError(
            f"reward {name}: tried on the first problem with an empty completion, it fails: {type(error).__name__}: "
            f"{error}. A policy writes such completions, too."
        ) from error
    pays: Pays = "steps" if tried and _list(tried[0]) is not None else "outcome"
    own = OwnReward(name, function, takes, pays)
    own([prompt], [""], [reference], [[]], columns)
    return own


def _takes(name: str, function: Any, columns: Iterable[str]) -> frozenset[str] | None:
    """The columns that a function names; None where it takes any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C
        return frozenset()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if len(positional) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in positional):
        raise UserError(
            f"reward {name} takes {counted(len(positional), 'argument')}; write it as f(prompts, completions, "
            "references, **columns)."
        )
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p not in positional[:3]]
    there = {*columns, "steps"}
    if lacking := [p.name for p in named if p.default is p.empty and p.name not in there]:
        raise UserError(
            f"reward {name} asks for {', '.join(lacking)}, which the problems do not have; there is "
            f"{', '.join(sorted(there))}."
        )
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else frozenset(p.name for p in named)


def columns_of(extras: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """The problems' other fields as columns: by name one value per problem, None where it has none.

    Raises:
        UserError: a field has the name of something else that a reward function is given.
    """
    names = dict.fromkeys(name for extra in extras for name in extra)
    if taken := [name for name in names if name in GIVEN]:
        raise UserError(
            f"the problems have a field '{taken[0]}', and reward functions are given something else of that name; "
            "rename it in the data."
        )
    return {name: [extra.get(name) for extra in extras] for name in names}
