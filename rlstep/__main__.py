"""`python -m rlstep`, which is also what `deepspeed --module rlstep` starts."""

import sys

from rlstep.cli import main

sys.exit(main())
