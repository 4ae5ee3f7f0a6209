"""Which checkpoint to resume from, and what must stand beside it.

The newest checkpoint that is whole is taken; a damaged one is named and set aside. An epoch's file that is missing is
made again from a checkpoint of that epoch; where there is none, the epoch leaves the history, so that averaging never
asks for it.
"""

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet2.train.reporter import Reporter

from espnet_larm.errors import OptionError
from espnet_larm.files import CHECKPOINT, INTERRUPTED, PREVIOUS, is_whole, replace_link, save_synced
from espnet_larm.train.staging import Staging

logger = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A checkpoint on the disk.

    Attributes:
        epoch: Finished epochs.
        num_batches: Of the epoch in progress, that were trained on; 0 of a checkpoint at an epoch's end.
        world_size: Processes that wrote it; 0 if any number can go on from it.
        path: Of the file.
    """

    epoch: int
    num_batches: int
    world_size: int
    path: Path


def newest(output_dir: Path, world_size: int) -> Checkpoint | None:
    """The checkpoint to resume from; None if there is none.

    Raises:
        ValueError: There are checkpoints, and all are damaged.
    """
    paths = [path for name in (INTERRUPTED, CHECKPOINT, PREVIOUS) if (path := output_dir / name).exists()]
    found = [read_progress(path) for path in paths if not _set_aside_if_damaged(path)]
    if paths and not found:
        raise ValueError(
            f"--resume true: every checkpoint in {output_dir} is damaged ({', '.join(path.name for path in paths)}; "
            f"now named *.damaged). Copy a good one there, or train from the start with --resume false."
        )
    for checkpoint in sorted(found, reverse=True):
        if checkpoint.world_size in (0, world_size):
            return checkpoint
        logger.warning(
            "%s holds an epoch in progress of %d processes; this training has %d, so that the epoch starts again.",
            checkpoint.path,
            checkpoint.world_size,
            world_size,
        )
    return None


def read_progress(path: Path) -> Checkpoint:
    """How far a checkpoint got. Its tensors stay on the disk."""
    states = read_states(path)
    started = states.get("epoch_in_progress")
    ranks = started["ranks"] if started else []
    num_batches = max((rank["num_batches"] for rank in ranks), default=0)
    return Checkpoint(states["reporter"]["epoch"], num_batches, len(ranks), path)


def read_states(path: Path) -> dict[str, Any]:
    """A checkpoint's dictionary with its tensors mapped, not read. Nothing else is unpickled.

    Raises:
        OptionError: It holds something else.
    """
    try:
        states: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise OptionError(
            f"{path} holds more than tensors and plain values, as checkpoints of ESPnet 202511 do, and may run code as "
            "it is loaded. Begin anew from its weights, in another folder: --init_param <its folder>/latest.pth."
        ) from error
    return states


def repair(staging: Staging, reporter: Reporter, criteria: Sequence[Sequence[str]], num_best: int) -> None:
    """Make an experiment's folder fit its checkpoint: epochs' files and the links to the latest and best.

    Args:
        staging: Of the experiment.
        reporter: As loaded from the checkpoint.
        criteria: ESPnet's `best_model_criterion`, (phase, key, mode) each.
        num_best: How many best epochs are averaged.
    """
    epoch = reporter.get_epoch()
    if epoch == 0:
        return
    _restore_epoch(staging, epoch)
    while missing := [best for best in best_epochs(reporter, criteria, num_best) if not _restore_epoch(staging, best)]:
        for best in sorted(missing):
            logger.warning(
                "%depoch.pth is missing or damaged and cannot be made again: epoch %d is left out of averaging.",
                best,
                best,
            )
            del reporter.stats[best]
    staging.drop_all_but(best_epochs(reporter, criteria, num_best) | {epoch})
    replace_link(staging.output_dir / "latest.pth", f"{epoch}epoch.pth")
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            link = staging.output_dir / f"{phase}.{key}.best.pth"
            replace_link(link, f"{reporter.get_best_epoch(phase, key, mode)}epoch.pth")


def best_epochs(reporter: Reporter, criteria: Sequence[Sequence[str]], num_best: int) -> set[int]:
    """Epochs that ESPnet would average by any of the criteria."""
    found = set()
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            found.update(reporter.sort_epochs(phase, key, mode)[:num_best])
    return found


def _set_aside_if_damaged(path: Path) -> bool:
    if is_whole(path):
        return False
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    logger.warning("%s is damaged and is passed over; it is now %s.", path, aside.name)
    return True


def _restore_epoch(staging: Staging, epoch: int) -> bool:
    """Make an epoch's file of a checkpoint of that epoch, if it is not there. Returns whether it is."""
    if _has(staging, epoch):
        return True
    for path in (staging.output_dir / CHECKPOINT, staging.output_dir / PREVIOUS):
        if path.exists() and read_progress(path).epoch == epoch:
            (staging.folder / f"{epoch}epoch.pth").unlink(missing_ok=True)
            save_synced(read_states(path)["model"], staging.output_dir / f"{epoch}epoch.pth", staging.folder)
            staging.link_epoch(epoch)
            logger.warning("%depoch.pth was missing or damaged and was made again from %s.", epoch, path.name)
            return True
    return False


def _has(staging: Staging, epoch: int) -> bool:
    return is_whole(staging.output_dir / f"{epoch}epoch.pth")
