"""A search for solutions that a PRM guides: beams write one step each, and those that it scores highest go on.

`rlstep.core.guided_search` says which beams go on, and how often. A step is what the PRM was taught that one is; a beam
is scored at the end of its last step, by the values of all its steps.

The completions are kept as the tokens that were drawn. A beam ends as a sample does, at an end token or at
`max_new_tokens`, and its solution has a score for each step of the whole text, as `rlstep score` gives them. One that
has become too long for the PRM, in the PRM's own tokens, is scored as with `rlstep score --on_long_row cut`: up to the
last step that fits. It ranks below every beam that was read whole, and its other steps have no score.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from rlstep.core.aggregate import LOWEST, Aggregate, solution_score
from rlstep.core.guided_search import continuations, groups
from rlstep.policy.engines.base import Begun, Engine, Sampling, sample_name
from rlstep.policy.rewards.sources import check_fit
from rlstep.policy.sampling import Batch
from rlstep.policy.search_options import SearchOptions
from rlstep.policy.step_tags import check_tag
from rlstep.runtime.errors import UserError
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.steps.records import Problem, Solution, Span
from rlstep.verifiers.interface import Verifier

SCORES = "prm"  # their name in a solution


@dataclass(frozen=True)
class Beam:
    """A completion in the making.

    Attributes:
        problem: its problem.
        group: the number of its search among those of the problem that do not compete.
        prompt: tokens of the prompt.
        written: tokens of the completion so far.
        ended: whether the model has ended it.
        text: what is written.
        steps: spans of the text's steps.
        scores: the PRM's value of each that it read.
    """

    problem: Problem
    group: int
    prompt: list[int]
    written: list[int] = field(default_factory=list)
    ended: bool = False
    text: str = ""
    steps: list[Span] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def score(self, how: Aggregate) -> float:
        """What it competes by; the lowest where the PRM did not read it whole: the steps it did not read may be bad."""
        return solution_score(self.scores, how) if len(self.scores) == len(self.steps) else LOWEST


class GuidedSearch:
    """Searches for solutions.

    Args:
        engine: writes the steps.
        verifier: the PRM.
        options: what is searched, and how.
        sampling: how steps are drawn, and how long a completion may be.
        tokenizer: the policy's.
        prompt_format: how prompts are written for the policy.
        stops: tokens that end a completion.
    """

    def __init__(
        self,
        engine: Engine,
        verifier: Verifier,
        options: SearchOptions,
        sampling: Sampling,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
        stops: Sequence[int],
    ):
        self.engine, self.verifier, self.options, self.sampling = engine, verifier, options, sampling
        self.tokenizer, self.prompt_format, self.stops = tokenizer, prompt_format, frozenset(stops)
        self.boundary = verifier.boundary

    def generate(self, batch: Batch) -> list[Solution]:
        """The solutions of a batch, in its order: one search per problem, all at the same time.

        Args:
            batch: (problem, sample), all samples of each problem.

        Raises:
            UserError: the engine or the PRM cannot, and says why.
        """
        samples = Counter(problem.id for problem, _ in batch)
        problems = {problem.id: problem for problem, _ in batch}
        tokens: Counter[str] = Counter()
        over: dict[str, list[Beam]] = {name: [] for name in problems}
        beams = self._roots(problems, samples)
        for step in range(self.options.search_steps):
            last = step + 1 == self.options.search_steps
            beams = self._scored(self._written(beams, step, last, tokens))
            for beam in beams:
                if self._is_over(beam):
                    over[beam.problem.id].append(beam)
            beams = self._kept([beam for beam in beams if not self._is_over(beam)])
            if not beams:
                break
        shares = {name: _shares(tokens[name], samples[name]) for name in problems}
        return [self._solution(over[p.id][sample], sample, shares[p.id][sample]) for p, sample in batch]

    def _roots(self, problems: dict[str, Problem], samples: Counter[str]) -> list[Beam]:
        """The empty beams of each problem, as many as it gets samples."""
        prompts = self.prompt_format.encode(self.tokenizer, [problem.prompt for problem in problems.values()])
        roots = []
        for problem, prompt in zip(problems.values(), prompts, strict=True):
            sizes = groups(self.options.search, samples[problem.id], self.options.beam_width)
            roots += [Beam(problem, group, prompt) for group, size in enumerate(sizes) for _ in range(size)]
        return roots

    def _written(self, beams: Sequence[Beam], step: int, last: bool, tokens: Counter[str]) -> list[Beam]:
        """The beams with one more step, or written to their end.

        Args:
            beams: those of a problem one after the other.
            step: how many steps they have.
            last: whether to write to the end.
            tokens: of each problem, what is generated here is added.
        """
        written, whole = list(beams), [self.boundary.whole_steps(beam.text) for beam in beams]
        places = _places(beams)
        going, part = list(range(len(beams))), 0
        while going:
            begun = [self._begun(written[row], places[row], (step, part)) for row in going]
            new = self.engine.go_on(begun, None if last else self.boundary)
            for row, ids in zip(going, new, strict=True):
                written[row] = self._longer(written[row], ids)
                tokens[written[row].problem.id] += len(ids)
            # A server stops at what may end a step: a blank line, say, ends the one before it.
            going = [
                row for row in going
                if not self._is_over(written[row]) and self.boundary.whole_steps(written[row].text) == whole[row]
            ]  # fmt: skip
            part += 1
        return written

    def _begun(self, beam: Beam, place: int, part: tuple[int, int]) -> Begun:
        # The first part's seed is that of a sample that is not searched for.
        seed = self.sampling.seed_of(beam.problem, place, *(part if any(part) else ()))
        room = self.sampling.max_new_tokens - len(beam.written)
        return Begun(sample_name(beam.problem, place), beam.prompt, beam.written, room, seed)

    def _longer(self, beam: Beam, ids: Sequence[int]) -> Beam:
        written = [*beam.written, *ids]
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        return replace(beam, written=written, text=text, ended=any(token in self.stops for token in ids))

    def _is_over(self, beam: Beam) -> bool:
        return beam.ended or len(beam.written) >= self.sampling.max_new_tokens

    def _scored(self, beams: Sequence[Beam]) -> list[Beam]:
        """The beams with the PRM's values of their steps: whole ones, or those of a completion that is over."""
        steps = [self.boundary.split(beam.text) for beam in beams]
        prompts, texts = [beam.problem.prompt for beam in beams], [beam.text for beam in beams]
        values = self.verifier.score(prompts, texts, steps, cut=True)
        return [replace(beam, steps=spans, scores=scores)
                for beam, spans, scores in zip(beams, steps, values, strict=True)]  # fmt: skip

    def _kept(self, beams: Sequence[Beam]) -> list[Beam]:
        """The beams that go on, each as often as it does."""
        competing: dict[tuple[str, int], list[Beam]] = {}
        for beam in beams:
            competing.setdefault((beam.problem.id, beam.group), []).append(beam)
        kept = []
        for rivals in competing.values():
            numbers = continuations([beam.score(self.options.search_score) for beam in rivals], self.options.beam_width)
            kept += [beam for beam, number in zip(rivals, numbers, strict=True) for _ in range(number)]
        return kept

    def _solution(self, beam: Beam, sample: int, tokens: int) -> Solution:
        problem = beam.problem
        return Solution(
            problem.id,
            problem.prompt,
            beam.text,
            problem.reference,
            sample=sample,
            finished=beam.ended,
            steps=beam.steps,
            scores={SCORES: beam.scores + [None] * (len(beam.steps) - len(beam.scores))},
            prompt_format=self.prompt_format.to_dict(),
            extra=problem.extra,
            generated_tokens=tokens,
        )


def check_guide(
    path: str,
    verifier: Verifier,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    prompt_format: PromptFormat,
    new_tokens: int,
) -> None:
    """Refuses a verifier that cannot guide a search, before anything is sampled.

    Args:
        path: where it is from, for messages.
        verifier: the verifier.
        tokenizer: the policy's.
        prompts: the problems' prompts.
        prompt_format: how the policy reads them.
        new_tokens: the most tokens of a completion.

    Raises:
        UserError: it is no PRM, its steps are over only when the next one has begun, or as `check_tag` and
            `check_fit` say.
    """
    if verifier.kind != "prm":
        raise UserError(
            f"{path} is an {verifier.kind}, and a search is guided by a PRM; give the path of one. The values of an "
            "implicit PRM, too, are those of all that is written so far, and not of a step."
        )
    if verifier.boundary.closing is None:
        raise UserError(
            f"{path} was taught steps by {verifier.boundary}, of which one is over only when the next has begun, so "
            "that no engine can stop at its end. A search takes a PRM of steps by line, blank_line or tag."
        )
    check_tag(path, verifier.boundary, tokenizer)
    check_fit({"prm": verifier}, prompts, prompt_format, new_tokens, setting="max_new_tokens")


def _places(beams: Sequence[Beam]) -> list[int]:
    """Each beam's number among those of its problem."""
    numbers: Counter[str] = Counter()
    places = []
    for beam in beams:
        places.append(numbers[beam.problem.id])
        numbers[beam.problem.id] += 1
    return places


def _shares(total: int, parts: int) -> list[int]:
    """A number divided into parts that differ by one at most.

    >>> _shares(8, 3)
    [3, 3, 2]
    """
    return [total // parts + (part < total % parts) for part in range(parts)]
