"""Enhancement and recognition: ESPnet's `enh_s2t_train` with our encoders and front ends, in spawned processes too."""

import sys

import espnet_larm.registered  # noqa: F401  # a spawned process imports this module, and nothing else of ours
from espnet_larm.bin._program import run_program


def main(cmd: list[str] | None = None) -> int:
    """Train as ESPnet does."""
    from espnet2.bin.enh_s2t_train import main as train

    train(cmd)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
