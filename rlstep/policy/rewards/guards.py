r"""Guards: withhold step rewards for patterns that are known to game a process reward model.

They only read text, so the verifier may have another tokenizer or be on another machine. Words are what
spaces and punctuation separate: in scripts without spaces, loops and restated questions go unnoticed. There are two
kinds of guards:

**A step without reasoning** is left out of what the credit scheme sees and is paid nothing; the rest of the solution is
scored as if it were not there.

    repeats        the text of an earlier step again, or one passage over and over within the step
    filler         no letter and no digit, or nothing but phrases such as "Thank you" and "Let's think step by step"
    restated       the question, copied
    after_answer   whatever follows the step that gives the answer

**A completion that does not show its reasoning** keeps no positive step reward. Its negative ones stay: were they
dropped, a policy could write like that on hard problems to be spared its bad scores.

    no_answer        it gives none
    min_steps        fewer steps before the answer than that, steps without reasoning not counted
    max_step_chars   a longer step, up to the answer
    max_steps        more steps than that, up to the answer

The last two name the steps that are too long or too many, yet reach further than these. To leave such a step out and
pay the others would be to pay easy steps before one that was not scored: a policy that games the rewards writes
"1 + 1 = 2" a few times and the solution in a single giant step. So the credit scheme still sees these steps, and a low
score still costs.

Guards withhold but do not punish. Under a scheme that pays at most 0 (log, clip, clip_delta) nothing is the best there
is, and a completion without a step, which has no rewards at all, is priced by the outcome and `missing_answer_reward`.
Nor can guards distinguish true steps that are beside the point from those that solve the problem.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from rlstep.runtime.constraints import Range, check
from rlstep.steps.extraction import thought_end
from rlstep.steps.records import Span

# The words in a run. Loops and copied questions are recognised by their runs, in prose of at least the words below.
RUN = 4
LOOP_WORDS, LOOP_SHARE = 20, 0.5
RESTATED_WORDS = 5

# The answer may follow from the steps that these withhold, so they are scored like any other (see above).
_SEEN = ("max_steps", "max_step_chars")

_MARK = re.compile(
    r"""(?:[-*+>#\u2022]+\s+)*
    (?: [*_]*step\s+\d+(?:\.\d+)*(?:\s*[:.)\u2013\u2014-]|(?=[*_]*$))[*_]*
      | (?:\d+[.)]|\(\d+\))(?=\s+\S)
    )?\s*""",
    re.VERBOSE,
)
# Not LaTeX commands.
_WORD = re.compile(r"(?<![^\W_])(?<!\\)[^\W_]+(?:[.,'/][^\W_]+)*")
_PROSE = re.compile(r"[^\W\d_]{2}")
_PHRASE = re.compile(
    r"""(?: ok(?:ay)? | al(?:l\ )?right | sure(?:\ thing)? | certainly | absolutely | of\ course | no\ problem | hmm+
      | so | now | first | well | great | here\ we\ go | step\ by\ step
      | (?:thanks | thank\ you)(?:\ (?:so|very)\ much)?(?:\ for\ (?:reading|asking|your\ (?:time|question|help)))?
      | you're\ welcome | (?:good|great)\ (?:question|luck) | have\ a\ (?:good|great|nice)\ day
      | (?:let's | let\ (?:us|me) | (?:we|i)\ (?:need|have)\ to | (?:i|we)\ will | (?:i|we)'ll)
        \ (?:think|begin|start|see|go|solve)
        (?:\ (?:(?:about|through)\ )?(?:(?:the|this)\ (?:problem|question) | this | it))?
      | (?:here\ is | here's)(?:\ (?:the|a|my|your)(?:\ (?:solution|answer|explanation))?)?
      | (?:the\ )?(?:solution|explanation)(?:\ is\ as\ follows)?
      | (?:i\ )?hope\ (?:this|that|it)\ helps? | (?:please\ )?feel\ free\ to\ ask
      | let\ me\ know\ if\ you\ have\ any(?:\ (?:other|more|further))?\ questions
    )(?:\ |$)""",
    re.VERBOSE,
)


@dataclass
class Guards:
    """Which guards are on (see the module's docstring).

    What each setting takes and does is in its help text, which `rlstep ppo --help` and the page Settings show.

    Raises:
        UserError: settings outside their ranges, all of them in one message.
    """

    guard_max_steps: Annotated[int | None, Range(at_least=1)] = field(
        default=64,
        metadata={"help": "Steps past this number score nothing, nor does a completion that needs them; null: off."},
    )
    guard_max_step_chars: Annotated[int | None, Range(at_least=1)] = field(
        default=1000,
        metadata={"help": "A step of more characters scores nothing, nor does a completion that needs it; null: off."},
    )
    guard_repeats: bool = field(
        default=True,
        metadata={
            "help": "A step that equals an earlier one, or repeats itself over and over, scores nothing. Switch it off "
            "if right solutions repeat steps."
        },
    )
    guard_filler: bool = field(
        default=True, metadata={"help": "Steps without content (punctuation, 'Thank you') score nothing."}
    )
    guard_restated: Annotated[float | None, Range(above=0, at_most=1)] = field(
        default=0.9,
        metadata={"help": "A step with this share of its words copied from the prompt, or more, scores nothing."},
    )
    guard_after_answer: bool = field(
        default=True, metadata={"help": "Steps after the one that gives the answer score nothing."}
    )
    guard_no_answer: bool = field(
        default=True, metadata={"help": "A completion without an answer keeps no positive step reward."}
    )
    guard_min_steps: Annotated[int, Range(at_least=0)] = field(
        default=1, metadata={"help": "An answer with fewer steps before it keeps no positive step reward; 0: off."}
    )
    guard_reward_clip: Annotated[float | None, Range(above=0)] = field(
        default=1.0, metadata={"help": "Each step reward is clipped to [-c, c], before its weight; null: off."}
    )

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        most, fewest = self.guard_max_steps, self.guard_min_steps
        if most is not None and 1 <= most <= fewest:
            yield f"guard_min_steps {fewest} and guard_max_steps {most}, which counts the answer, allow no reward"


def answer_step(completion: str, steps: Sequence[Span], extract: Callable[[str], str | None]) -> int | None:
    """The first step at whose end the text states an answer; None if there is none.

    It is the first one, although `rlstep.steps.answers.extract` takes the last answer of a text: otherwise stating the
    answer once more would make reasoning of everything between the two. What a thinking model tries in its thought is
    no answer yet.

    Args:
        completion, steps: the whole text and its steps' spans, in order.
        extract: the answer of a text, or None; called once per step until it gives one.
    """
    thought = thought_end(completion)  # in it, an answer is tried and not given
    return next(
        (k for k, (_, end) in enumerate(steps) if end > thought and extract(completion[:end]) is not None), None
    )


def guard_reasons(
    prompt: str, completion: str, steps: Sequence[Span], answer: int | None, guards: Guards
) -> list[str | None]:
    """For each step the guard that withholds its reward (a name of the module's docstring), else None.

    Where several would, it is the first of after_answer, max_steps, max_step_chars, filler, repeats, restated. The step
    that gives the answer has content, however short: the last three pass it over.

    Args:
        prompt, completion: the problem, and what the policy wrote.
        steps: character spans in the completion, in order.
        answer: index of the step that gives the answer (`answer_step`), None where there is none.
        guards: the settings.
    """
    prompt_runs = set(_runs(_WORD.findall(_fold(prompt))))
    earlier: set[str] = set()
    reasons: list[str | None] = []
    for k, (start, end) in enumerate(steps):
        text = completion[start:end].strip()
        folded, reason = _fold(text), None
        if guards.guard_after_answer and answer is not None and k > answer:
            reason = "after_answer"
        elif guards.guard_max_steps is not None and k >= guards.guard_max_steps:
            reason = "max_steps"
        elif guards.guard_max_step_chars is not None and len(text) > guards.guard_max_step_chars:
            reason = "max_step_chars"
        elif k != answer:
            reason = _without_reasoning(folded, earlier, prompt_runs, guards)
        reasons.append(reason)
        earlier.add(folded)
    return reasons


def scored_steps(reasons: Sequence[str | None]) -> list[int]:
    """Indices of the steps whose scores the credit scheme is given: all but the withheld ones without reasoning."""
    return [k for k, reason in enumerate(reasons) if reason is None or reason in _SEEN]


def completion_guard(reasons: Sequence[str | None], answer: int | None, guards: Guards) -> str | None:
    """The guard that withholds every positive step reward of a completion, else None.

    `reasons` is what `guard_reasons` says of its steps; `answer` the index of the step that gives the answer, or None.
    """
    if guards.guard_no_answer and answer is None:
        return "no_answer"
    needed = reasons if answer is None else reasons[: answer + 1]
    for reason in needed:
        if reason in _SEEN:
            return reason
    if answer is not None and needed[:-1].count(None) < guards.guard_min_steps:
        return "min_steps"
    return None


def apply_guards(
    rewards: Sequence[float], reasons: Sequence[str | None], answer: int | None, guards: Guards
) -> list[float]:
    """What is paid of one completion's step rewards: positive ones withheld, then each one cut.

    A withheld step, and every step of a withheld completion, is paid min(r, 0): taking away its penalty as well would
    reward what is withheld. Under schemes whose rewards are differences of scores (delta, clip_delta, progress) a
    withheld completion therefore keeps the falls and loses the rises: there, withholding costs more than the sum.

    A completion without steps has no rewards and stays so, which under a scheme that pays at most 0 is the most that
    can be had: `missing_answer_reward` prices it.

    Args:
        rewards: the credit scheme's, from the first step on; steps that it was not given have 0. May be shorter than
            `reasons`, where later steps are not scored.
        reasons: what `guard_reasons` says of the steps.
        answer: index of the step that gives the answer, None where there is none.
        guards: the settings.

    Returns:
        as many rewards as were given.
    """
    everything = completion_guard(reasons, answer, guards) is not None
    paid = [min(r, 0.0) if everything or reason else r for r, reason in zip(rewards, reasons, strict=False)]
    return clip_rewards(paid, guards)


def clip_rewards(rewards: Sequence[float], guards: Guards) -> list[float]:
    """Each reward clipped to [-c, c], c = `guard_reward_clip`."""
    c = guards.guard_reward_clip
    return list(rewards) if c is None else [max(-c, min(c, r)) for r in rewards]


def _without_reasoning(folded: str, earlier: set[str], prompt_runs: set[tuple[str, ...]], guards: Guards) -> str | None:
    if guards.guard_filler and _is_filler(folded):
        return "filler"
    if guards.guard_repeats and (folded in earlier or _is_loop(folded)):
        return "repeats"
    if guards.guard_restated is not None and _copied_share(folded, prompt_runs) >= guards.guard_restated:
        return "restated"
    return None


def _fold(text: str) -> str:
    """The text as guards compare it: case folded, white space made single, bullet, list number or "Step 3:" taken off.

    A list number has a dot or a bracket, a space and something to count ("2. So x = 4"): "3: yes" keeps its number.
    """
    text = " ".join(text.casefold().replace("\u2019", "'").split())
    return text[_MARK.match(text).end() :]


def _is_prose(words: list[str], least: int) -> bool:
    """Whether there are at least `least` words, most with two letters in a row: equations and tables are no prose."""
    return len(words) >= least and 2 * sum(_PROSE.search(word) is not None for word in words) > len(words)


def _runs(words: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[offset:] for offset in range(RUN)), strict=False))


def _is_filler(folded: str) -> bool:
    """Whether a folded step has no letter and no digit, or consists of phrases of the list alone (English)."""
    if not any(character.isalnum() for character in folded):
        return True
    # Phrase after phrase, without going back: a regular expression that repeats phrases could take exponential time.
    text, position = " ".join(_WORD.findall(folded)), 0
    while position < len(text) and (phrase := _PHRASE.match(text, position)):
        position = phrase.end()
    return bool(text) and position == len(text)


def _is_loop(folded: str) -> bool:
    """Whether more than half of the step's runs of four words have stood in it before, in prose of 20 words or more.

    A passage of n words said m times has about n different runs out of m n: it is a loop from the third time on.
    """
    words = _WORD.findall(folded)
    if not _is_prose(words, LOOP_WORDS):
        return False
    runs = _runs(words)
    return 1 - len(set(runs)) / len(runs) > LOOP_SHARE


def _copied_share(folded: str, prompt_runs: set[tuple[str, ...]]) -> float:
    """The share of the step's words that are copied from the prompt; 0 unless it is prose of five words or more.

    A word is copied where it lies in a run of four words that the prompt also has. So a copy with a word changed, left
    out or put in here and there is still one, and a sentence that merely uses the problem's words is not.
    """
    words = _WORD.findall(folded)
    if not _is_prose(words, RESTATED_WORDS):
        return 0.0
    copied = [False] * len(words)
    for start, run in enumerate(_runs(words)):
        if run in prompt_runs:
            copied[start : start + RUN] = [True] * RUN
    return sum(copied) / len(words)
