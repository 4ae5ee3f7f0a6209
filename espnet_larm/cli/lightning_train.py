"""ESPnet's `lightning_train` with our plugins, in the processes that Lightning starts, too.

Lightning starts a process a GPU by running `python -m` with the name of this module again.
"""

import sys

import espnet_larm.registered  # noqa: F401
from espnet_larm.program import run_program


def main() -> int:
    """Train as ESPnet does, with the arguments of this process."""
    from espnet2.bin.lightning_train import main as train

    train()
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
