"""ESPnet's training programs with our plugins, in the processes that they spawn, too.

Examples:
    espnet-larm train asr_train --config exp/asr/config.yaml --output_dir exp/again  # a training once more
    espnet-larm train asr_train --help

It takes the arguments of `python -m espnet2.bin.asr_train`, which the launcher sends here; likewise `slu_train`,
`st_train`, `s2t_train` and `enh_s2t_train`, which run ESPnet's own tasks: their folder is locked, what happens in it is
ESPnet's. A spawned process imports this module again, and nothing else of ours: that is why the plugins are registered
at its top.
ESPnet's translation models read the last output of an encoder and hand it no CTC head: checkpoint loops and feedback
of the looped encoder are refused before training.
"""

import argparse
import importlib
import sys
from typing import Any

import espnet_larm.registered  # noqa: F401
from espnet_larm import registry
from espnet_larm.process import ends_with_its_reader, set_up
from espnet_larm.program import check_config_first, run_program
from espnet_larm.train.checks.top_level import check_top_level


def train(program: str, cmd: list[str]) -> None:
    """Train with a task, in a folder that no other training writes to.

    Args:
        program: Key of PROGRAMS.
        cmd: Its arguments.

    Raises:
        ValueError: The encoder does not go with a model of speech translation, or an option of the training is wrong.
        FileNotFoundError: A file that an option names is missing.
        InUseError: Another training writes in its folder.
    """
    module_name, _, class_name = PROGRAMS[program].partition(":")
    task = getattr(importlib.import_module(module_name), class_name)
    parser = task.get_parser()
    if program == "asr_train":
        # It checks and locks by itself, and says so as ESPnet's log does.
        task.main(args=parser.parse_args(cmd))
        return
    check_config_first(parser)
    args = parser.parse_args(cmd)
    check_top_level(args, task.get_parser())
    if program == "st_train":
        _check_translation_encoder(args)
    # It imports torch, which must find the process set up.
    from espnet_larm.train.record import locked_folder

    with locked_folder(args):
        task.main(args=args)


def _check_translation_encoder(args: argparse.Namespace) -> None:
    """Refuse an encoder that gives or wants more than a model of speech translation takes or gives.

    Raises:
        ValueError: With the options of encoder_conf to set.
    """
    if args.encoder != "larm":
        return
    from espnet_larm.looped.encoder import LarmEncoder

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


# The tasks by the names of ESPnet's programs; ours survives kills and bad batches.
PROGRAMS = {
    "asr_train": "espnet_larm.train.task:LarmASRTask",
    "st_train": "espnet2.tasks.st:STTask",
    "slu_train": "espnet2.tasks.slu:SLUTask",
    "s2t_train": "espnet2.tasks.s2t:S2TTask",
    "enh_s2t_train": "espnet2.tasks.enh_s2t:EnhS2TTask",
}


def main(cmd: list[str] | None = None) -> int:
    """Train with the program that the first argument names; the others are ESPnet's.

    Raises:
        ValueError: There is no such program.
    """
    program, *rest = (sys.argv[1:] if cmd is None else cmd) or [""]
    if program in ("-h", "--help"):
        print(f"usage: espnet-larm train PROGRAM ...\n\nPROGRAM is one of {', '.join(PROGRAMS)}.\n{__doc__}")
        return 0
    if program not in PROGRAMS:
        named = f"{program} is no program" if program else "a program is missing"
        raise ValueError(f"{named}: the first argument of train is one of {', '.join(PROGRAMS)}.")
    train(program, rest)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["asr_train"]:
        # Its errors and its log are ESPnet's: logging must be its own to set up.
        set_up()
        with ends_with_its_reader():
            main()
    else:
        sys.exit(run_program(main))
