"""The processes of a training run: started before any weights are loaded, because ZeRO-3 shards weights in loading."""

import os
from typing import TYPE_CHECKING

from rlstep.runtime.errors import UserError

if TYPE_CHECKING:  # imports torch
    from transformers import TrainingArguments


def start_processes(args: "TrainingArguments") -> None:
    """Starts the process group under DeepSpeed; without it, the Trainer's arguments have done so. May be called again.

    Args:
        args: the Trainer's arguments.

    Raises:
        UserError: one process sees several GPUs, which torch's DataParallel would share out; or DeepSpeed is asked for
            in a process that no launcher started.
    """
    if args.n_gpu > 1:
        raise UserError(
            f"{args.n_gpu} GPUs are visible to one process. Start one process per GPU (`accelerate launch` or "
            "`torchrun`), or show it one GPU (CUDA_VISIBLE_DEVICES=0)."
        )
    if not args.deepspeed:
        return
    if "RANK" not in os.environ:
        raise UserError(
            "deepspeed is set, but no launcher started this process; start it with `deepspeed --num_gpus N --module "
            "rlstep ...`, also on one GPU, or with `torchrun`."
        )
    # With use_cpu the Trainer starts torch's process group and leaves DeepSpeed's own unset.
    import deepspeed

    deepspeed.init_distributed(auto_mpi_discovery=False)
