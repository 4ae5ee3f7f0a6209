"""Options that the programs for text LMs share."""

import argparse
import re
from pathlib import Path
from typing import Any

import yaml


class HelpWithDefaults(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of a description, and adds defaults to options."""


def read_bool(value: str) -> bool:
    """`true` or `false`."""
    if value.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{value} is neither true nor false")
    return value.lower() == "true"


def add_fields(parser: argparse._ActionsContainer, fields: Any, choices: dict[str, tuple[str, ...]]) -> None:
    """An option for each field of a NamedTuple with defaults; its docstring's lines are the help."""
    for name, default in fields._field_defaults.items():
        described = re.search(rf"^ +{name}: (.*)$", fields.__doc__, re.MULTILINE)
        assert described is not None, name
        kind = read_bool if isinstance(default, bool) else type(default)
        parser.add_argument(f"--{name}", type=kind, default=default, choices=choices.get(name), help=described[1])


def add_ngpu(parser: argparse.ArgumentParser) -> None:
    """Where to compute."""
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=1, help="0 computes on the CPU")


def check_gpu(ngpu: int) -> None:
    """Refuse a GPU that is not there.

    Raises:
        ValueError: None can be seen.
    """
    import torch

    if ngpu and not torch.cuda.is_available():
        raise ValueError("--ngpu 1: no GPU can be seen (nvidia-smi, CUDA_VISIBLE_DEVICES); --ngpu 0 takes the CPU.")


def options_of_yaml(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """Its entries as words of a command line, so that their types and ranges are checked alike.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no table, or has an entry that is no option.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config {path} is missing; name a YAML with the program's options.")
    entries: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(entries, dict):
        raise ValueError(f"--config {path} is a {type(entries).__name__}; expected lines `option: value`.")
    known = {action.dest for action in parser._actions if action.nargs is None}
    if unknown := sorted(str(name) for name in entries if name not in known):
        raise ValueError(f"--config {path}: {', '.join(unknown)}: no option of one value; --help lists them.")
    return [word for name, value in entries.items() for word in (f"--{name}", str(value))]
