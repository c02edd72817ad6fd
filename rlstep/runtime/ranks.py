"""Which of several processes speaks: what all of them would say is shown once."""

import logging
import os
import time
import warnings

# Progress bars and log lines of libraries; read when these are imported.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
# A launcher ends all processes within a second or so after one has failed.
GRACE_S = 10.0


def is_first_process() -> bool:
    """Whether this is the first process of a launcher, or one that no launcher started."""
    return os.environ.get("RANK", "0") == "0"


def is_one_of_several() -> bool:
    """Whether a launcher has started other processes beside this one."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def speak_once() -> None:
    """Keeps the warnings, log lines and progress bars of all processes but the first from being shown again."""
    if is_first_process():
        return
    os.environ.update(QUIET)
    logging.getLogger("rlstep").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def hide_calls_of_libraries() -> None:
    """Hides what libraries warn of their own calls again and again: nobody who runs a command can change them."""
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # DeepSpeed's, at nearly every step under torch 2.13
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def wait_for_the_first() -> None:
    """Lets the first process report an error that all have; one that it does not have is reported after this."""
    if not is_first_process():
        time.sleep(GRACE_S)
