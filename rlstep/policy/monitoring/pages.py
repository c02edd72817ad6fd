"""Pages of a PPO run's completions, their steps coloured by score: OUTPUT_DIR/completions/00001.html and so on.

`completions.py` chooses them, `completion_log.py` keeps the same as rows.
"""

import html
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rlstep.core.aggregate import solution_score, vote_weight
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.monitoring.completions import choose
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.runtime.counted import counted
from rlstep.runtime.rows import atomic
from rlstep.runtime.trackers import active_trackers
from rlstep.runtime.tracking import unharmed
from rlstep.runtime.visible import visible
from rlstep.steps.prompts import Prompt, problem_text

PAGES = "completions"


class CompletionTable:
    """At regular updates, a page that shows a few completions.

    There is a page for the first update and every `every`-th one from then on; trackers that the run reports to get
    a table `completions/steps` of the same. Only the main process writes.

    Args:
        args: output_dir, report_to, and which process this is.
        every: updates from one page to the next; 0: none.
    """

    def __init__(self, args: StepPPOConfig, every: int):
        self.args, self.every = args, every

    def due(self, update: int) -> bool:
        """Whether this update, counted from 1, has a page."""
        return self.every > 0 and (update - 1) % self.every == 0

    def observe(
        self,
        update: int,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        scored: Sequence[ScoredCompletion],
        finished: Sequence[bool] | None = None,
    ) -> None:
        """Shows the batch, if it is due.

        Args:
            update: counted from 1.
            prompts, completions, scored: of all ranks, in one order.
            finished: whether the policy ended the completion itself; None where that is not known.
        """
        if self.args.process_index != 0 or not self.due(update):
            return
        samples = update * self.args.generation_batch_size
        shown = [
            (
                why,
                row,
                card(prompts[row], completions[row], scored[row], finished is None or finished[row]),
            )
            for why, rows in choose(scored).items()
            for row in rows
        ]
        with atomic(Path(self.args.output_dir) / PAGES / f"{update:05d}.html") as temporary:
            title = f"Update {update}, {counted(samples, 'sample')}"
            temporary.write_text(page(title, [(why, fragment) for why, _, fragment in shown]), encoding="utf-8")
        for tracker in active_trackers(self.args):
            with unharmed(f"{tracker.__name__}: the completions"):
                self._log_table(tracker, update, samples, scored, shown)

    def _log_table(self, tracker: ModuleType, update: int, samples: int, scored, shown) -> None:
        columns, rows = ["update", "chosen", "completion", "process", "outcome", "right"], []
        # What a model wrote is never treated as a path (trackio takes nothing with a tag in it for one), and no style
        # sheet is fetched for it.
        options = {"inject": False} | ({"data_is_not_path": True} if tracker.__name__ == "wandb" else {})
        for why, row, fragment in shown:
            cell = tracker.Html(f"<style>{STYLE}</style>{fragment}", **options)
            worth = scored[row]
            rows.append([update, why, cell, float(sum(worth.step_rewards)), float(worth.outcome), worth.correct])
        table = tracker.Table(columns=columns, data=rows)
        tracker.log({"completions/steps": table, "train/samples": samples})


# --- HTML. All that a model or a data set wrote goes through `_text`; pages hold no script, and may load nothing.

# Okabe and Ito's pair, which stays apart for colour-blind readers, and the usual one: (low, high) scores; 0.5 is white.
PALETTES = {"ob": ("#D55E00", "#0072B2"), "rg": ("#D0342C", "#2E8B3D")}
STRENGTH = 0.6  # of the colours at 0 and 1, so that black text can be read on them
STYLE = """
.card{font:14px/1.5 system-ui,sans-serif;color:#222;background:#fff;border:1px solid #ccc;border-radius:6px;
padding:10px 14px;margin:0 0 14px;max-width:72em}
.card p{margin:0 0 8px}.flag{border:1px solid #999;border-radius:9px;padding:0 7px;margin-right:6px;font-size:12px}
.prompt,.step,.between{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;margin:2px 0;padding:3px 8px}
.prompt{background:#f3f3f3}.between{color:#767676}.step{background:var(--ob);border-radius:3px;display:flow-root}
.step small{float:right;margin-left:14px;font-variant-numeric:tabular-nums}
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}
body{{margin:24px;font:14px/1.5 system-ui,sans-serif;color:#222;background:#fff}}
h1{{font-size:20px}}h2{{font-size:15px;margin-top:28px}}
body:has(#rg:checked) .step{{background:var(--rg)}}
</style>
</head>
<body>
<h1>{title}</h1>
<p>A step's colour is its score p; where no PRM gave one, the exact label. After it: p, the label (✓ right, ✗ wrong,
? unknown), the reward r, and the guard that withheld it.
<input type="radio" name="palette" id="ob" checked><label for="ob">orange 0, blue 1</label>
<input type="radio" name="palette" id="rg"><label for="rg">red 0, green 1</label></p>
{body}
</body>
</html>
"""
LABELS = {1: ("✓", "right"), 0: ("✗", "wrong"), None: ("?", "unknown")}


def page(title: str, cards: Sequence[tuple[str, str]]) -> str:
    """A page of `card`s, given as (section, card) in order."""
    parts, section = [], None
    for name, fragment in cards:
        if name != section:
            parts.append(f"<h2>Chosen {_text(name)}</h2>")
            section = name
        parts.append(fragment)
    return PAGE.format(title=_text(title), style=STYLE, body="\n".join(parts))


def card(prompt: Prompt, completion: str, worth: ScoredCompletion, finished: bool) -> str:
    """The HTML of one completion: what it is worth, the prompt, then step by step what was written."""
    flags = ["answer right" if worth.correct else "answer wrong" if worth.answered else "no answer"]
    flags += ["every step right"] * worth.clean + ["truncated"] * (not finished)
    flags += [f"process {sum(worth.step_rewards):+.2f}", f"outcome {worth.outcome:+.2f}"]
    flags += [f"cut for the {name}" for name in worth.cut_by or []]
    if worth.step_scores is not None and "prm" not in (worth.cut_by or []):
        flags.append(f"PRM {vote_weight(solution_score(worth.step_scores, 'product'), 'product'):.2f}")
    parts = ['<p class="flags">' + "".join(f'<span class="flag">{flag}</span>' for flag in flags) + "</p>"]
    parts.append(f'<div class="prompt">{_text(problem_text(prompt))}</div>')
    place = 0
    for number, (start, end) in enumerate(worth.steps):
        parts += [_between(completion[place:start]), _step(completion[start:end], worth, number)]
        place = end
    parts.append(_between(completion[place:]))
    return f'<div class="card">{"".join(parts)}</div>'


def _step(text: str, worth: ScoredCompletion, number: int) -> str:
    score, label, reward, guard = (
        values[number] if values is not None and number < len(values) else None
        for values in (worth.step_scores, worth.labels, worth.step_rewards, worth.guards)
    )
    mark, word = LABELS[label]
    # (what is shown after the step, what hovering over it shows)
    facts = [(mark, f"label {word}")]
    facts.append(("", "no score") if score is None else (f"p {score:.2f}", f"score {score:.4f}"))
    facts.append(("no reward",) * 2 if reward is None else (f"r {reward:+.2f}", f"reward {reward:+.4f}"))
    facts += [] if guard is None else [(_text(guard), f"withheld: {_text(guard)}")]
    seen, said = zip(*facts, strict=True)
    colours = "".join(f"--{name}:{shade(label if score is None else score, *ends)};" for name, ends in PALETTES.items())
    small = f"<small>{' &nbsp; '.join(filter(None, seen))}</small>"
    title = ", ".join([f"step {number + 1}", *said])
    return f'<div class="step" style="{colours}" title="{title}">{small}{_text(text)}</div>'


def _between(text: str) -> str:
    """Text outside of steps, if it is more than white space."""
    return f'<div class="between">{_text(text)}</div>' if text.strip() else ""


def shade(score: float | None, low: str, high: str) -> str:
    """The colour of a score: `low` at 0, white at 0.5 and where there is none, `high` at 1; both lightened."""
    if score is None or math.isnan(score):
        return "#FFFFFF"
    away = STRENGTH * min(abs(2 * score - 1), 1.0)
    end = high if score > 0.5 else low
    mixed = [round(255 + away * (int(end[i : i + 2], 16) - 255)) for i in (1, 3, 5)]
    return "#" + "".join(f"{channel:02X}" for channel in mixed)


def _text(text: str) -> str:
    """Text as HTML, in elements and attributes alike; what could not be seen, or not be encoded, is made visible."""
    return html.escape(visible(text), quote=True)
