"""`PromptOptions`: the settings by which every stage that shows prompts to a model is told how to write them."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.constraints import ReadUnless, check
from rlstep.runtime.conversion import as_mapping
from rlstep.runtime.errors import UserError
from rlstep.steps.prompts import Prompt, PromptFormat, template_digest
from rlstep.steps.records import Solution

logger = logging.getLogger(__name__)

OF_CHATS = ReadUnless("prompt_format", "text")

# What templates are called with here.
OF_THE_CALL = (
    "messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message",
)  # fmt: skip


@dataclass
class PromptOptions:
    """How problems become what the model reads (`rlstep.steps.prompts`).

    Raises:
        UserError: settings of chats with `prompt_format: text`, a template's file that is not there or holds none, a
            system prompt that names a file, or arguments that are no mapping.
    """

    prompt_format: Literal["auto", "text", "chat"] = field(
        default="auto",
        metadata={
            "help": "text: prompts are given to the model as they are; chat: messages, and plain text as a user's "
            "message, go through the chat template. auto: as the checkpoint was taught, else by the prompts themselves "
            "(messages are chats, as is all with one of the settings below)."
        },
    )
    system_prompt: Annotated[str | None, OF_CHATS] = field(
        default=None, metadata={"help": "A system message that is put before each problem's messages."}
    )
    chat_template: Annotated[str | None, OF_CHATS] = field(
        default=None,
        metadata={"help": "A file with a chat template (Jinja) to take in place of the tokenizer's own."},
    )
    chat_template_arguments: Annotated[dict | str | None, OF_CHATS] = field(
        default=None,
        metadata={
            "help": "What the template reads beside the messages, as a mapping, for example "
            '{"enable_thinking": false}; on the command line as JSON.'
        },
    )

    def __post_init__(self):
        self.chat_template_arguments = as_mapping(
            "chat_template_arguments", self.chat_template_arguments, '{"enable_thinking": false}'
        )
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        if self.system_prompt is not None and _is_file(self.system_prompt):
            yield f"system_prompt is the text itself, and {self.system_prompt} is a file; give what is in it"
        if taken := [name for name in self.chat_template_arguments or () if name in OF_THE_CALL]:
            yield f"chat_template_arguments has {', '.join(taken)}, which is set here and no variable of a template"
        if self.chat_template is None:
            return
        if "{%" in self.chat_template or "{{" in self.chat_template:
            yield "chat_template is a template; write it to a file, and give the file's path"
        elif not _is_file(self.chat_template):
            yield f"chat_template is {self.chat_template}, which is no file; give one that holds a Jinja template"
        elif problem := self._template_fault():
            yield f"chat_template is {self.chat_template}, which {problem}"

    def _template_fault(self) -> str | None:
        """What is wrong with the template's file: it would be written into every prompt."""
        try:
            text = self.template_text
        except UnicodeDecodeError:
            return "is no UTF-8 text; give a file with a Jinja template"
        if not text.strip():
            return "is empty; give a file with a Jinja template"
        if text.startswith("\ufeff"):
            return "begins with a byte order mark (BOM); cut it off: `tail -c +4 FILE > NEW`"
        if _is_json_object(text):
            return "is JSON; give the template alone: `jq -r .chat_template FILE > NEW.jinja`"
        if "messages" not in text:
            return "is no chat template: it does not read the variable messages"
        return None

    @property
    def requested(self) -> PromptFormat | None:
        """The format that the settings request, None where they leave it open; a setting of chats requests chats."""
        of_chats = (self.system_prompt, self.chat_template, self.chat_template_arguments)
        form = "chat" if any(setting is not None for setting in of_chats) else self.prompt_format
        if form == "auto":
            return None
        return PromptFormat(form, self.system_prompt, self.chat_template_arguments or {})

    def _over(self, given: PromptFormat) -> PromptFormat:
        """The requested format over a given one: what is left open, such as a system prompt, stays as given."""
        requested = self.requested
        if requested is None or requested.form == "text" or given.form == "text":
            return requested or given
        changes = {"form": requested.form}
        if self.system_prompt is not None:
            changes["system_prompt"] = requested.system_prompt
        if self.chat_template_arguments is not None:
            changes["template_arguments"] = requested.template_arguments
        return replace(given, **changes)

    @property
    def template_text(self) -> str | None:
        """What the file of `chat_template` holds."""
        return None if self.chat_template is None else Path(self.chat_template).read_text(encoding="utf-8")

    def give_template(self, tokenizer) -> None:
        """Puts the file's template, if there is one, in place of the tokenizer's, to be saved with it."""
        if self.chat_template is not None:
            tokenizer.chat_template = self.template_text

    def agreed(self, tokenizer, taught: PromptFormat | None, whose: str) -> PromptFormat | None:
        """What a model was taught, if nothing else is asked of it; the tokenizer gets the template that is asked for.

        Args:
            tokenizer: the model's.
            taught: what its checkpoint holds; None where it holds nothing, and everything may be asked.
            whose: the model, for messages.

        Returns:
            What is taught or else asked, None where neither says anything.

        Raises:
            UserError: something else is asked than was taught, or the template beside the checkpoint is another.
        """
        self.give_template(tokenizer)
        requested = self.requested
        if taught is None or taught.form == "auto":
            return requested
        if taught.template is not None and taught.template != template_digest(tokenizer):
            other = "chat_template" if self.chat_template else "the chat template of its tokenizer"
            raise UserError(
                f"{whose} was taught with another chat template than {other}. Leave chat_template out, and keep the "
                "tokenizer's files as the run that taught it wrote them."
            )
        if requested is not None and (difference := taught.difference(self._over(taught))):
            raise UserError(f"{whose} was taught {difference}. Leave it out, or train the model with it.")
        return taught

    def for_model(self, tokenizer, prompts: Sequence[Prompt], taught: PromptFormat | None, whose: str) -> PromptFormat:
        """How the prompts of a run are written: text or chat, with the digests of the tokenizer.

        Args:
            tokenizer, taught, whose: as in `agreed`.
            prompts: the run's, which decide where neither checkpoint nor settings do.

        Raises:
            UserError: as `agreed`; or prompts of two forms, and nothing says which is meant.
        """
        agreed = self.agreed(tokenizer, taught, whose)
        chosen = (agreed or PromptFormat()).resolved(prompts).of_tokenizer(tokenizer)
        if agreed is None and chosen.form == "text" and getattr(tokenizer, "chat_template", None):
            logger.warning(
                "prompts are plain text, which %s is given as it is, although its tokenizer has a chat template: for "
                "an instruct model set prompt_format: chat, for a base model prompt_format: text",
                whose,
            )
        return chosen

    def for_rows(self, tokenizer, solutions: Sequence[Solution], taught: PromptFormat | None = None) -> PromptFormat:
        """How the prompts of solutions are written for a verifier: as they were for the policy that wrote these.

        Args:
            tokenizer: the verifier's.
            solutions: the rows.
            taught: what the generator that the verifier starts from was taught, which counts where no row says how its
                prompt was written, as with people's solutions; None where that is not known either.

        Raises:
            UserError: they were not all written alike, or something else is asked.
        """
        self.give_template(tokenizer)
        written = written_as(solutions)
        base = self._over(written or taught or PromptFormat())
        chosen = base.resolved([solution.prompt for solution in solutions]).of_tokenizer(tokenizer)
        if written is not None and (difference := written.difference(chosen)):
            raise UserError(
                f"the solutions were sampled with {difference}, which the verifier would be taught. Leave the setting "
                "out: then it reads what the policy read."
            )
        return chosen


def written_as(solutions: Iterable[Solution]) -> PromptFormat | None:
    """How the prompts of solutions were written for the policy that sampled them; None where no row says it.

    Raises:
        UserError: rows of one file were sampled with different formats.
    """
    first: PromptFormat | None = None
    row: dict | None = None
    for solution in solutions:
        if solution.prompt_format is None or solution.prompt_format == row:
            continue
        one = PromptFormat.from_dict(solution.prompt_format)
        if first is None:
            first, row = one, solution.prompt_format
        elif difference := first.difference(one):
            raise UserError(
                f"the solutions were sampled in two ways: with {difference}, that of problem '{solution.problem_id}', "
                f"sample {solution.sample}. Train on those of one way."
            )
    return first


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False  # it could not be a file's name


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


# The default for a stage that is called without them: as the checkpoint was taught, or by the prompts' own form.
BY_CHECKPOINT = PromptOptions()
