"""Options of the programs for text LMs: declared, read from YAML, checked, and compared with those of a begun folder.

Nothing here imports torch: programs list their options without it.
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.files.reading import read_yaml

SCHEDULES = ("cosine", "linear", "constant_with_warmup")
OPTIONS = "options.json"
RECORD = "training.json"


class ModelSize(NamedTuple):
    """Size of a Llama whose head shares the weights of its embeddings.

    Attributes:
        hidden_size: size of embeddings and layers
        num_layers: number of decoder layers
        num_heads: number of attention heads; they divide hidden_size into parts of even size
        num_kv_heads: number of heads of keys and values; they divide num_heads
        ffn_size: inner size of the feed-forward parts
        max_positions: largest number of positions, speech in front of the text included
    """

    hidden_size: int = 192
    num_layers: int = 8
    num_heads: int = 6
    num_kv_heads: int = 3
    ffn_size: int = 512
    max_positions: int = 1024


class Schedule(NamedTuple):
    """Course of a training.

    Attributes:
        block_size: tokens of a block; sentences are packed without gaps
        batch_size: blocks of a step
        num_epochs: passes over the text
        max_steps: steps in all, instead of num_epochs; 0 for num_epochs
        lr: highest learning rate of AdamW
        lr_schedule: course of the learning rate after its warm-up; cosine and linear end at 0
        warmup_steps: steps in which the learning rate rises from 0
        weight_decay: weight decay of AdamW
        grad_clip: largest norm of a gradient
        seed: seed of initial weights and of the order of blocks
        bf16: true or false: multiply matrices in bfloat16; weights stay in float32
    """

    block_size: int = 256
    batch_size: int = 16
    num_epochs: float = 1.0
    max_steps: int = 0
    lr: float = 2e-3
    lr_schedule: str = SCHEDULES[0]
    warmup_steps: int = 200
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    seed: int = 0
    bf16: bool = False


def check_options(size: ModelSize, schedule: Schedule) -> None:
    """Refuse options by which no model can be built or trained.

    Raises:
        ValueError: An option has such a value; the message names it.
    """
    for name, value in (*size._asdict().items(), ("batch_size", schedule.batch_size), ("lr", schedule.lr)):
        if value <= 0:
            raise ValueError(f"--{name} {value} must be above 0.")
    if size.hidden_size % (2 * size.num_heads) != 0:
        raise ValueError(
            f"--hidden_size {size.hidden_size} is no multiple of 2 * --num_heads {size.num_heads}: each head gets a "
            "part of even size; change one of them."
        )
    if size.num_heads % size.num_kv_heads != 0:
        raise ValueError(
            f"--num_heads {size.num_heads} is no multiple of --num_kv_heads {size.num_kv_heads}; change one of them."
        )
    if not 2 <= schedule.block_size <= size.max_positions:
        raise ValueError(f"--block_size {schedule.block_size}; allowed: 2 to --max_positions {size.max_positions}.")
    if schedule.max_steps <= 0 and schedule.num_epochs <= 0:
        raise ValueError(f"--num_epochs {schedule.num_epochs} must be above 0 where --max_steps is not given.")


class HelpWithDefaults(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of a description, and adds defaults to options."""


def read_bool(value: str) -> bool:
    """Read `true` or `false`."""
    if value.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{value} is neither true nor false")
    return value.lower() == "true"


def add_fields(parser: argparse._ActionsContainer, fields: Any, choices: dict[str, tuple[str, ...]]) -> None:
    """Add an option for each field of a NamedTuple with defaults; its docstring's lines are the help."""
    for name, default in fields._field_defaults.items():
        described = re.search(rf"^ +{name}: (.*)$", fields.__doc__, re.MULTILINE)
        assert described is not None, name
        kind = read_bool if isinstance(default, bool) else type(default)
        parser.add_argument(f"--{name}", type=kind, default=default, choices=choices.get(name), help=described[1])


def add_ngpu(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where to compute."""
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=1, help="number of GPUs; 0 computes on the CPU")


def check_gpu(ngpu: int) -> None:
    """Refuse a GPU that is not there.

    Raises:
        ValueError: No GPU can be seen.
    """
    import torch

    if ngpu and not torch.cuda.is_available():
        raise ValueError("--ngpu 1: no GPU can be seen (nvidia-smi, CUDA_VISIBLE_DEVICES); --ngpu 0 takes the CPU.")


def options_of_yaml(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """Turn the entries of a YAML into words of a command line, so that their types and ranges are checked alike.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table, or has an entry that is no option.
    """
    entries = read_yaml(path)
    known = {action.dest for action in parser._actions if action.nargs is None}
    if unknown := sorted(str(name) for name in entries if name not in known):
        raise ValueError(f"--config {path}: {', '.join(unknown)}: no option of one value; --help lists them.")
    return [word for name, value in entries.items() for word in (f"--{name}", str(value))]


def trained_options(folder: Path) -> dict[str, Any] | None:
    """Options of the LM that was trained in a folder; None if there is none."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8"))["options"] if path.is_file() else None


def begun_options(folder: Path, products: str) -> dict[str, Any] | None:
    """Options of a begun tokenizer or training; None if its folder has no `products` (a pattern) yet."""
    path = folder / OPTIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() and any(folder.glob(products)) else None


def check_same(output_dir: Path, kept: Mapping[str, Any] | None, options: Mapping[str, Any]) -> None:
    """Compare options with those that something was made with.

    Raises:
        ValueError: They differ; the message has their names and values.
    """
    if kept is None:
        return
    # The kept options came through JSON.
    wanted = json.loads(json.dumps(options))
    names = [name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name)]
    if names:
        changes = ", ".join(f"{name} {_brief(kept.get(name))} (now {_brief(wanted.get(name))})" for name in names)
        raise ValueError(
            f"--output_dir {output_dir} was begun with other options: {changes}; take the same ones, or another "
            "--output_dir."
        )


def _brief(value: Any) -> str:
    """Describe texts by name and size: no one reads digests."""
    if isinstance(value, list):
        return " + ".join(f"{file['name']} of {file['bytes']} bytes" for file in value) or "none"
    return str(value)
