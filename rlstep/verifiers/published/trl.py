"""Token classifiers that TRL's PRMTrainer made, asked as it trained them (its tokenize_row, up to TRL 1.13).

The tokens: the beginning-of-text token where the tokenizer has one, the prompt, then for each step its own and those of
the separator, tokenised apart; a step's label stands at the separator's last token. Label 1 is right.

A two-label token classifier may mean anything, so this family is never guessed: the user names it.
"""

from dataclasses import dataclass

from transformers import AutoModelForTokenClassification

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import refuse_halves
from rlstep.verifiers.features import Feature, feature_at
from rlstep.verifiers.pretrained import load_config, load_every_weight
from rlstep.verifiers.published.rows import TwoClasses, clean, step_texts


@dataclass(frozen=True)
class TRLFormat(TwoClasses):
    """Prompts and steps lose the white space around them; the separator takes its place.

    Attributes:
        separator: the trainer's `step_separator`.
    """

    separator: str = "\n"

    def _features(self, problems, completions, steps, tokenizer) -> list[Feature]:
        rows = [
            (problem.strip(), [clean(text) for text in step_texts(completion, spans)])
            for problem, completion, spans in zip(problems, completions, steps, strict=True)
        ]
        unique = list(dict.fromkeys([self.separator, *(text for prompt, texts in rows for text in (prompt, *texts))]))
        refuse_halves(unique)
        coded = tokenizer(unique, add_special_tokens=False, verbose=False)["input_ids"]
        ids_of = dict(zip(unique, coded, strict=True))
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [self._feature(ids_of, start, *row) for row in rows]

    def _feature(self, ids_of: dict[str, list[int]], start: list[int], prompt: str, texts: list[str]) -> Feature:
        ids, positions = start + ids_of[prompt], []
        for text in texts:
            ids = ids + ids_of[text] + ids_of[self.separator]
            positions.append(len(ids) - 1)
        return feature_at(ids, positions)


def recognises(config: dict, path: str) -> bool:
    return False


def load(path: str, tokenizer, dtype: str, trust_remote_code: bool):
    config = load_config(path, trust_remote_code)
    if config.num_labels != 2:
        raise UserError(f"{path} has {counted(config.num_labels, 'label')}; a trl PRM has two, wrong and right.")
    return load_every_weight(AutoModelForTokenClassification, path, config, dtype, trust_remote_code), TRLFormat()
