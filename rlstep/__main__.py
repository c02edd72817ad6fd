"""`python -m rlstep`, which is also what `deepspeed --module rlstep` starts."""

from rlstep.cli import entry

entry()
