"""Room on the disk for the next save, looked at before it begins."""

import errno
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

logger = logging.getLogger(__name__)

# Statistics, headers and alignment beside the tensors.
MARGIN_BYTES = 1 << 20


class Need(NamedTuple):
    """Bytes of the next saves.

    Attributes:
        epoch: Of a checkpoint and an epoch's parameters, while all of the old ones stay.
        averages: Of averaged models on top of them.
    """

    epoch: int
    averages: int


def need_of(model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer], num_averages: int) -> Need:
    """What the end of an epoch writes.

    Args:
        model: Its parameters and buffers.
        optimizers: With their states; before the first step twice the trainable parameters are counted, as Adam has.
        num_averages: Averaged models.
    """
    parameters = num_bytes(model.state_dict())
    trainable = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    states = sum(num_bytes(optimizer.state_dict()) for optimizer in optimizers) or 2 * trainable
    return Need(2 * parameters + states + MARGIN_BYTES, num_averages * parameters)


def num_bytes(states: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(states, torch.Tensor):
        return states.nbytes
    if isinstance(states, Mapping):
        return sum(num_bytes(value) for value in states.values())
    if isinstance(states, list | tuple):
        return sum(num_bytes(value) for value in states)
    return 0


def check_room(folder: Path, need: Need) -> None:
    """Refuse to begin a save that does not fit; say it if only the averages at the end would not.

    Raises:
        OSError: ENOSPC, with the figures.
    """
    free = shutil.disk_usage(folder).free
    if free < need.epoch:
        raise OSError(
            errno.ENOSPC,
            f"The disk has {megabytes(free)} free, and saving this epoch takes {megabytes(need.epoch)}: nothing was "
            f"written, the last checkpoint is as it was. Free some space; the same command then resumes",
            str(folder),
        )
    if free < need.epoch + need.averages:
        logger.warning(
            "The disk of %s has %s free: enough for this epoch's %s, not for the %s of averaged models at the end.",
            folder,
            megabytes(free),
            megabytes(need.epoch),
            megabytes(need.averages),
        )


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"
