"""Speech translation: ESPnet's `st_train` with our encoders and front ends, in spawned processes too.

ESPnet's translation models read the last output of an encoder, and hand it no CTC head: checkpoint loops and feedback
of the looped encoder are refused before training.
"""

import argparse
import sys
from typing import Any

import espnet_larm.registered  # noqa: F401  # a spawned process imports this module, and nothing else of ours
from espnet_larm import registry
from espnet_larm.bin._program import run_program


def main(cmd: list[str] | None = None) -> int:
    """Train as ESPnet does."""
    from espnet2.tasks.st import STTask

    args = STTask.get_parser().parse_args(cmd)
    check_encoder(args)
    STTask.main(args=args)
    return 0


def check_encoder(args: argparse.Namespace) -> None:
    """Refuse an encoder that gives or wants more than a model of speech translation takes or gives.

    Raises:
        ValueError: With the options of encoder_conf to set.
    """
    if args.encoder != "larm":
        return
    from espnet_larm.encoder.larm import LarmEncoder

    conf: dict[str, Any] = args.encoder_conf or {}
    registry.check_conf("encoder", args.encoder, conf)
    encoder = LarmEncoder(input_size=80, **conf)
    needed = {}
    if encoder.num_checkpoints > 1:
        needed["checkpoint_period"] = str(encoder.num_loops)
    if encoder.interctc_use_conditioning:
        needed["feedback"] = "false"
    if needed:
        options = ", ".join(f"{name}: {value}" for name, value in needed.items())
        raise ValueError(
            "ESPnet's models of speech translation read the encoder's last output alone and have no CTC head for it. "
            f"Set encoder_conf: {options}."
        )


if __name__ == "__main__":
    sys.exit(run_program(main))
