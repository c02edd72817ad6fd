"""The `export` stage: a trained policy or verifier in the layouts that other libraries load, with a model card."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlstep.policy.export import check_adapter, write_adapter, write_merged
from rlstep.report.model_card import Form, write_card
from rlstep.runtime.access import NO_HUB_TOKEN
from rlstep.runtime.constraints import check
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RECORD, RunRecord, is_stage
from rlstep.runtime.weights import check_whole, weight_names
from rlstep.verifiers.adapters import find_adapter
from rlstep.verifiers.export import export_verifier


@dataclass
class ExportConfig:
    policy: str = field(
        metadata={"help": "Folder that `rlstep ppo`, `sft`, `prm` or `orm` wrote, or one of its checkpoints."}
    )
    out: str = field(
        metadata={
            "aliases": ["--to"],
            "help": "Folder for the model that `what` names; without `what`, for adapter/ and merged/.",
        }
    )
    what: Literal["adapter", "merged", "prm"] | None = field(
        default=None,
        metadata={
            "help": "adapter: a policy's LoRA adapter, for PEFT and vLLM; merged: a policy as one plain model; prm: a "
            "verifier as a token classifier. By default both forms of a LoRA policy."
        },
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Type of the weights, an adapter's excepted; auto: that of the checkpoint."}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "With what: also upload it to this repository of the hub, OWNER/NAME."}
    )
    force: bool = field(default=False, metadata={"help": "Replace an earlier export in out."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        if self.push_to_hub is not None and self.what is None:
            yield "push_to_hub uploads one model, and without what two are written; set what"
        if self.what == "adapter" and self.dtype != "auto":
            yield f"what is 'adapter', which is copied as it is, so dtype '{self.dtype}' would do nothing; leave it out"
        if Path(self.policy).resolve().is_relative_to(Path(self.out).resolve()):
            yield f"out is {self.out}, which holds policy, {self.policy}, and would be replaced; give another one"


def export(config: ExportConfig) -> dict:
    """Writes what the options name into `config.out`, whole or not at all, with a model card; may upload it."""
    run, out = Path(config.policy), Path(config.out)
    if config.what is None or config.what == "adapter":
        check_adapter(run)
    check_whole(run)
    adapter = find_adapter(str(run))
    if adapter is not None and Path(adapter.base).resolve().is_relative_to(out.resolve()):
        raise UserError(f"out is {out}, which holds the base of {run}, and would be replaced; give another one.")
    if config.push_to_hub is not None:
        _require_token()
    with _replacing(out, config.force) as folder, RunRecord("export", asdict(config), folder) as record:
        for form in _forms(config):
            target = folder / form if config.what is None else folder
            record.metrics |= _write(form, run, target, config)
    print(f"export: {' and '.join(_forms(config))} in {out}")
    if config.push_to_hub is not None:
        _push(out, config.push_to_hub)
    return record.metrics


def _forms(config: ExportConfig) -> tuple[Form, ...]:
    return ("adapter", "merged") if config.what is None else (config.what,)


def _write(form: Form, run: Path, folder: Path, config: ExportConfig) -> dict[str, int]:
    """Writes one form of a model and its card; returns what is counted of it."""
    counts: dict[str, int] = {}
    if form == "adapter":
        write_adapter(run, folder, config.trust_remote_code)
    elif form == "merged":
        counts["parameters"] = write_merged(run, folder, config.dtype, config.trust_remote_code)
    else:
        counts["parameters"] = export_verifier(run, folder, config.dtype, config.trust_remote_code)
    place = config.push_to_hub or str(Path(config.out) if config.what else Path(config.out) / form)
    write_card(folder, form, run, place, _facts(form, run, folder))
    return counts


def _facts(form: Form, run: Path, folder: Path) -> dict[str, Any]:
    """What a card says and the run's record does not hold."""
    adapter = find_adapter(str(run))
    facts: dict[str, Any] = {} if adapter is None else {"base": adapter.base}
    if form == "adapter":
        lora = find_adapter(str(folder)).lora
        facts |= {"base": lora.base_model_name_or_path, "rank": max([lora.r, *lora.rank_pattern.values()])}
        whole = lora.modules_to_save or lora.target_parameters
        if whole or lora.use_dora:
            what = "DoRA" if lora.use_dora else f"whole weights beside LoRA ({', '.join(whole)})"
            facts["no_vllm"] = f"it holds {what}; export what: merged"
    elif form == "prm" and not any(name.startswith("score.") for name in weight_names(folder)):
        facts["no_vllm"] = "its head is not called score"
    return facts


@contextmanager
def _replacing(out: Path, force: bool) -> Iterator[Path]:
    """A hidden folder beside `out`, which takes its place at the end and is removed on an error.

    Raises:
        UserError: `out` holds something, and `force` is off or it is no export.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not is_stage(out / RECORD, "export"):
            raise UserError(f"{out} exists and is not an export, so it is not replaced; give another out.")
        if not force:
            raise UserError(f"{out} holds an earlier export; give another out, or force: true to replace it.")
    folder, replaced = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.replaced")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        # A kill while the earlier one is removed must leave no part of it under its name.
        shutil.rmtree(replaced, ignore_errors=True)
        if out.exists():
            out.rename(replaced)
        folder.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_token() -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(f"{NO_HUB_TOKEN}.")


def _push(folder: Path, repository: str) -> None:
    """Uploads an export, without its record, which holds paths of this machine."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=[RECORD])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"the export is in {folder}, but its upload to {repository} failed: {error}") from error
