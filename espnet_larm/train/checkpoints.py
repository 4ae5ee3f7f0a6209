"""Choice of the checkpoint to resume from, repair of the files beside it, and the state of an epoch in progress.

The newest undamaged checkpoint is chosen; a damaged one is named and set aside. A missing epoch's file is made again
from a checkpoint of that epoch; where there is none, the epoch leaves the history, so that it is not averaged.
"""

import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet2.train.reporter import Average, ReportedValue, Reporter, SubReporter, WeightedAverage

from espnet_larm.errors import OptionError
from espnet_larm.files.atomic import replace_link, save_synced
from espnet_larm.files.checkpoint import CHECKPOINT, INTERRUPTED, PREVIOUS
from espnet_larm.files.reading import is_whole, read_tensors
from espnet_larm.train.staging import Staging

logger = logging.getLogger(__name__)

# Dictionaries that each checkpoint holds.
STATES = ("model", "reporter")


class Checkpoint(NamedTuple):
    """A checkpoint on the disk.

    Attributes:
        epoch: Number of finished epochs.
        num_batches: Batches trained on in the epoch in progress; 0 at an epoch's end.
        world_size: Number of processes that wrote it; 0 if any number can resume it.
        path: Path of the file.
    """

    epoch: int
    num_batches: int
    world_size: int
    path: Path


def newest(output_dir: Path, world_size: int) -> Checkpoint | None:
    """The checkpoint to resume from; None if there is none.

    Raises:
        ValueError: All checkpoints are damaged.
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
    """The progress that a checkpoint holds; its tensors stay on the disk."""
    states = read_states(path)
    started = states.get("epoch_in_progress")
    ranks = started["ranks"] if started else []
    num_batches = max((rank["num_batches"] for rank in ranks), default=0)
    return Checkpoint(states["reporter"]["epoch"], num_batches, len(ranks), path)


def read_states(path: Path) -> dict[str, Any]:
    """The dictionary of a checkpoint, its tensors memory-mapped; nothing else is unpickled.

    Raises:
        OptionError: The file holds other objects, or is no checkpoint.
    """
    try:
        states = read_tensors(path, mmap=True)
    except ValueError as error:
        raise OptionError(
            f"{error} Checkpoints of ESPnet 202511 are such files. Begin anew from its weights, in another folder: "
            "--init_param <its folder>/latest.pth."
        ) from error
    found = states if isinstance(states, dict) else {}
    if lacking := [name for name in STATES if not isinstance(found.get(name), dict)]:
        raise OptionError(
            f"{path} is no checkpoint of a training: it lacks {', '.join(lacking)}. Put the training's own there, or "
            f"begin in another folder with --init_param {path}."
        )
    return found


def repair(staging: Staging, reporter: Reporter, criteria: Sequence[Sequence[str]], num_best: int) -> None:
    """Make an experiment's folder fit its checkpoint: epochs' files and the links to the latest and best.

    Args:
        staging: The experiment's staging folder.
        reporter: The reporter, as loaded from the checkpoint.
        criteria: ESPnet's `best_model_criterion`, (phase, key, mode) each.
        num_best: Number of best epochs that are averaged.
    """
    epoch = reporter.get_epoch()
    if epoch == 0:
        return
    _restore_epoch(staging, epoch)
    while missing := [best for best in _best_epochs(reporter, criteria, num_best) if not _restore_epoch(staging, best)]:
        for best in sorted(missing):
            logger.warning(
                "%depoch.pth is missing or damaged and cannot be made again: epoch %d is left out of averaging.",
                best,
                best,
            )
            del reporter.stats[best]
    staging.drop_all_but(_best_epochs(reporter, criteria, num_best) | {epoch})
    replace_link(staging.output_dir / "latest.pth", f"{epoch}epoch.pth")
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            link = staging.output_dir / f"{phase}.{key}.best.pth"
            replace_link(link, f"{reporter.get_best_epoch(phase, key, mode)}epoch.pth")


def _best_epochs(reporter: Reporter, criteria: Sequence[Sequence[str]], num_best: int) -> set[int]:
    """Epochs that ESPnet would average by one of the criteria."""
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
    """Make a missing epoch's file from a checkpoint of that epoch; whether it is there now."""
    if is_whole(staging.output_dir / f"{epoch}epoch.pth"):
        return True
    for path in (staging.output_dir / CHECKPOINT, staging.output_dir / PREVIOUS):
        if path.exists() and read_progress(path).epoch == epoch:
            (staging.folder / f"{epoch}epoch.pth").unlink(missing_ok=True)
            save_synced(read_states(path)["model"], staging.output_dir / f"{epoch}epoch.pth", staging.folder)
            staging.link_epoch(epoch)
            logger.warning("%depoch.pth was missing or damaged and was made again from %s.", epoch, path.name)
            return True
    return False


def capture_progress(reporter: SubReporter, num_batches: int, is_trained: bool) -> dict[str, Any]:
    """What a process needs, beside ESPnet's checkpoint, to go on in the middle of an epoch.

    ESPnet seeds everything by the epoch's number, so that the epoch's batches are the same when it is built again.
    The result is made of tensors and Python's own types, so that it can be loaded with `weights_only=True`.

    Args:
        reporter: Reporter of the epoch's training.
        num_batches: Batches taken from the loader.
        is_trained: Whether the epoch's training is done, and only its validation is left.
    """
    return {
        "num_batches": num_batches,
        "is_trained": is_trained,
        "random": random.getstate(),
        "numpy": _numpy_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "stats": {key: [_plain(value) for value in values] for key, values in reporter.stats.items()},
        "count": reporter.count,
        "total_count": reporter.total_count,
        "seconds": time.perf_counter() - reporter.start_time,
    }


def restore_statistics(reporter: SubReporter, captured: dict[str, Any]) -> None:
    """Let a new epoch's reporter go on from the captured one."""
    reporter.stats.update({key: [_reported(plain) for plain in values] for key, values in captured["stats"].items()})
    reporter.count = captured["count"]
    reporter.total_count = captured["total_count"]
    reporter.start_time = time.perf_counter() - captured["seconds"]


def restore_random(captured: dict[str, Any]) -> None:
    """Put the random states back, after the batches that were used are skipped."""
    random.setstate(captured["random"])
    name, keys, *rest = captured["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(captured["torch"])
    if captured["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(captured["cuda"])


def _numpy_state() -> tuple[Any, ...]:
    # What ESPnet's transforms draw from.
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return (name, keys.tolist(), *rest)


def _plain(value: ReportedValue) -> tuple[float, ...]:
    """A reported value, and its weight if it has one."""
    return (value.value, value.weight) if isinstance(value, WeightedAverage) else (value.value,)


def _reported(plain: Sequence[float]) -> ReportedValue:
    return WeightedAverage(*plain) if len(plain) == 2 else Average(*plain)
