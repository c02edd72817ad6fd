"""What every stage that trains with transformers' Trainer says of the settings that it takes over from it."""

from rlstep.runtime.constraints import Constraint, Idle, ReadBy

# Under which conditions the Trainer reads them.
SHARED: dict[str, tuple[Constraint, ...]] = {
    "logging_steps": (ReadBy("logging_strategy", "steps"),),
    "save_steps": (ReadBy("save_strategy", "steps"),),
    "eval_steps": (ReadBy("eval_strategy", "steps"),),
    "dataloader_persistent_workers": (ReadBy("dataloader_num_workers"),),
    **dict.fromkeys(("hub_strategy", "hub_always_push", "hub_revision"), (ReadBy("push_to_hub"),)),
    # Flags of transformers' example scripts.
    **dict.fromkeys(("do_train", "do_predict"), (Idle("a stage trains, or it is another stage"),)),
}
