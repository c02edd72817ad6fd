"""Judges: a chat model in this process, or one at an address. Either gives the ballots of many solutions."""

from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from rlstep.runtime.errors import UserError
from rlstep.runtime.json_client import Stopped
from rlstep.steps.prompts import Message
from rlstep.supervision.chat import CUT_OFF, ChatClient
from rlstep.supervision.options import JudgeOptions
from rlstep.supervision.verdicts import Ballot

# Prompts whose length is checked at a time.
CHUNK = 256


@dataclass(frozen=True)
class Case:
    """A solution to be judged.

    Attributes:
        row: its number among the solutions of the run.
        prompt: what the judge reads, messages.
        steps: how many it has.
        name: for messages.
    """

    row: int
    prompt: list[Message]
    steps: int
    name: str


@dataclass(frozen=True)
class Judged:
    """What came of a few cases at once, and what it cost.

    Attributes:
        ballots: by row.
        prompt_tokens, completion_tokens: read and generated; None where a server does not count them.
    """

    ballots: dict[int, Ballot]
    prompt_tokens: int | None
    completion_tokens: int | None


class Judge(Protocol):
    def judge(self, cases: Sequence[Case], done: Set[int], may_begin: Callable[[], bool]) -> Iterator[Judged]:
        """Yields what comes of all cases, a few at a time, in any order.

        Args:
            cases: all of the run.
            done: rows that were judged by an earlier run.
            may_begin: asked before anything new is begun; once it says no, what was begun is finished.
        """


class LocalJudge:
    """A chat model in this process.

    Raises:
        UserError: it cannot be loaded, or has no chat template.
    """

    def __init__(self, options: JudgeOptions):
        # Here, because a judge at an address needs no torch.
        from rlstep.policy.models import device, load_policy, load_policy_config, load_policy_tokenizer
        from rlstep.verifiers.vocabulary import check_vocabulary

        self.options = options
        self.tokenizer = load_policy_tokenizer(options.judge, options.trust_remote_code)
        config = load_policy_config(options.judge, options.trust_remote_code)
        check_vocabulary(self.tokenizer, config, generates=True)
        self.model = load_policy(options.judge, options.dtype, options.trust_remote_code).to(device()).eval()

    def judge(self, cases: Sequence[Case], done: Set[int], may_begin: Callable[[], bool]) -> Iterator[Judged]:
        """A batch of about equal lengths at a time, each with a seed of its own, so that a resumed run draws the same.

        Raises:
            UserError: a case leaves no room for an answer.
        """
        continuer = self._continuer(cases)
        cases = sorted(cases, key=lambda case: (_length(case), case.row))
        size = max(1, self.options.batch_size // Ballot(1, self.options.votes).wanted)
        for number, start in enumerate(range(0, len(cases), size)):
            batch = cases[start : start + size]
            if batch[0].row in done:
                continue
            if not may_begin():
                return
            yield self._judge(continuer, batch, self.options.seed * 1_000_003 + number)

    def _judge(self, continuer, batch: Sequence[Case], seed: int) -> Judged:
        ballots = {case.row: Ballot(case.steps, self.options.votes) for case in batch}
        prompt_tokens = completion_tokens = draws = 0
        while open_cases := [case for case in batch if ballots[case.row].wanted]:
            numbers = [min(ballots[case.row].wanted, self.options.batch_size) for case in open_cases]
            drawn = continuer.draw([(case.prompt, "") for case in open_cases], numbers, seed * 31 + draws)
            for case, texts, finished in zip(open_cases, drawn.texts, drawn.finished, strict=True):
                ballots[case.row].add([text if ended else CUT_OFF for text, ended in zip(texts, finished, strict=True)])
            prompt_tokens, completion_tokens = prompt_tokens + drawn.prefix_tokens, completion_tokens + drawn.tokens
            draws += 1
        return Judged(ballots, prompt_tokens, completion_tokens)

    def _continuer(self, cases: Sequence[Case]):
        from rlstep.policy.continuations import Continuer
        from rlstep.policy.prompt_files import read_prompt_format
        from rlstep.steps.prompt_options import BY_CHECKPOINT

        taught = read_prompt_format(self.options.judge)
        prompt_format = BY_CHECKPOINT.for_model(
            self.tokenizer, [case.prompt for case in cases], taught, self.options.judge
        )
        sampling = {name: getattr(self.options, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}
        continuer = Continuer(self.model, self.tokenizer, **sampling, prompt_format=prompt_format)
        for start in range(0, len(cases), CHUNK):
            chunk = cases[start : start + CHUNK]
            continuer.check_room([(case.prompt, "") for case in chunk], [case.name for case in chunk])
        return continuer


class RemoteJudge:
    """A chat model at an address, which judges several solutions at a time, each in a thread."""

    def __init__(self, options: JudgeOptions):
        parameters = {"max_tokens": options.max_new_tokens, "temperature": options.temperature, "top_p": options.top_p}
        self.client = ChatClient(
            options.judge_url,
            options.judge_model,
            parameters | (options.judge_parameters or {}),
            options.judge_request_timeout,
            options.judge_retry_for,
            options.judge_concurrency,
        )
        self.votes, self.concurrency = options.votes, options.judge_concurrency

    def judge(self, cases: Sequence[Case], done: Set[int], may_begin: Callable[[], bool]) -> Iterator[Judged]:
        """One at a time, as they are ready. After a failure nothing is begun, and what others answered still comes.

        Raises:
            UserError: the server fails; the message names the solution.
        """
        todo = (case for case in cases if case.row not in done)
        running: set[Future[Judged | None]] = set()
        failure: UserError | None = None
        with ThreadPoolExecutor(self.concurrency, "judge") as threads:
            try:
                while True:
                    while failure is None and len(running) < self.concurrency and may_begin():
                        if (case := next(todo, None)) is None:
                            break
                        running.add(threads.submit(self._judge, case))
                    if not running:
                        break
                    ready, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in ready:
                        if isinstance(error := future.exception(), UserError):
                            failure = failure or error
                            self.client.stop()
                        elif (judged := future.result()) is not None:
                            yield judged
            finally:
                self.client.stop()
        if failure is not None:
            raise failure

    def _judge(self, case: Case) -> Judged | None:
        """None where it was stopped before the verdict."""
        ballot = Ballot(case.steps, self.votes)
        counts: list[tuple[int | None, int | None]] = []
        try:
            while ballot.wanted:
                answers = self.client.ask(case.prompt, ballot.wanted)
                ballot.add(answers.texts)
                counts.append((answers.prompt_tokens, answers.completion_tokens))
        except Stopped:
            return None
        except UserError as error:
            kept = "What is judged so far is kept: run the command again to go on."
            raise UserError(f"{case.name}: {error} {kept}") from None
        totals = (None if None in column else sum(column) for column in zip(*counts, strict=True))
        return Judged({case.row: ballot}, *totals)


def _length(case: Case) -> int:
    """In characters, which is near enough to sort by."""
    return sum(len(message["content"]) for message in case.prompt)
