"""The option --device: where a program computes."""

import argparse
import re

AUTO, CPU = "auto", "cpu"
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option to a parser."""
    words = "auto (a GPU if there is one), cpu, cuda or cuda:N (default: auto)"
    parser.add_argument("--device", type=_read, default=AUTO, metavar="DEVICE", help=words)


def device_of(word: str) -> str:
    """A device that is here, for the word of the option.

    Raises:
        ValueError: There is no such GPU.
    """
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if word == AUTO:
        return "cuda" if num_gpus else CPU
    number = int(word.partition(":")[2] or 0)
    if word != CPU and number >= num_gpus:
        raise ValueError(f"device is {word}, but torch sees {num_gpus} GPUs here; allowed: auto, cpu.")
    return word


def _read(word: str) -> str:
    if DEVICE.fullmatch(word) is None:
        raise argparse.ArgumentTypeError(f"{word}; allowed: auto, cpu, cuda, cuda:N")
    return word
