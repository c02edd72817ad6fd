"""A PPO run's completions as rows, for programs: OUTPUT_DIR/completions.jsonl beside the pages of the same."""

import os
from pathlib import Path

from transformers import TrainerCallback

from rlstep.policy.monitoring.completions import COMPLETIONS, PPO, choose, solution_row
from rlstep.policy.monitoring.pages import CompletionTable
from rlstep.policy.monitoring.run_log import rows_up_to
from rlstep.policy.rewards.scored import ScoredBatch
from rlstep.runtime.rows import as_json, naming, write_rows
from rlstep.steps.prompts import PromptFormat


class CompletionLog(TrainerCallback):
    """Appends the completions of each page to completions.jsonl (`rlstep.policy.monitoring.completions`).

    A run that is continued drops what was written after its checkpoint, and writes that again. A run that starts from
    the beginning removes the file of an earlier one, whether or not it writes its own.

    Args:
        table: which writes the pages, and says of which updates.
        prompt_format: how prompts are written for the policy.
    """

    def __init__(self, table: CompletionTable, prompt_format: PromptFormat):
        self.table, self.prompt_format = table, prompt_format.to_dict()

    def on_train_begin(self, args, state, control, **_):
        path = Path(args.output_dir) / COMPLETIONS
        if not state.is_world_process_zero or not path.is_file():
            return
        if not state.global_step:
            path.unlink()
            return
        kept = rows_up_to(path, args.batches_at(state.global_step), ("extra", PPO, "update"), "completions")
        write_rows(path, kept)

    def __call__(self, batch: ScoredBatch) -> None:
        """Writes the completions of a batch of all ranks, if it has a page."""
        args = self.table.args
        if args.process_index != 0 or not self.table.due(batch.update):
            return
        sizes = args.generation_batch_size, args.num_generations
        rows = [
            solution_row(batch, row, why, *sizes, self.prompt_format)
            for why, places in choose(batch.scored).items()
            for row in places
        ]
        path = Path(args.output_dir) / COMPLETIONS
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(as_json(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
