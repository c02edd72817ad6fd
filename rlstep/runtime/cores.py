"""How many CPU cores this process may run on."""

import os


def usable_cores() -> int:
    """Those that the process is bound to (by Slurm, taskset, a container's cpuset); where that is not known, all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
