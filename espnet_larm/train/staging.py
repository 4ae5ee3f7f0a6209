"""A folder in which ESPnet saves, and from which finished files are moved into the experiment's folder.

ESPnet writes `checkpoint.pth` and `Nepoch.pth` in place: a kill in the middle leaves half a file where the last good
one was. So ESPnet's trainer is given `<experiment>/.staging` as its output folder. It sees the epochs' files there as
links to the experiment's, which it averages or drops; what it saves is moved once it is finished, the checkpoint last.
Before a save begins, the room on the disk is checked.
"""

import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet_larm.files.atomic import keep_under, move_synced, replace_link
from espnet_larm.files.checkpoint import CHECKPOINT, INTERRUPTED, PREVIOUS, epoch_of
from espnet_larm.files.disk import FullDiskError
from espnet_larm.files.reading import is_whole

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
STAGING = ".staging"
# Folders that ESPnet writes straight into the experiment's.
FOLDERS = ("images", "tensorboard", "att_ws")
# Statistics, headers and alignment beside the tensors.
MARGIN_BYTES = 1 << 20


class Staging:
    """The view that ESPnet has of an experiment's folder.

    Attributes:
        output_dir: The experiment's folder.
        folder: The folder in which ESPnet saves.
    """

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.folder = output_dir / STAGING
        self._linked: set[int] = set()
        self._dropped: set[int] = set()

    def adopt(self) -> None:
        """Publish what a killed run had saved whole but not published, so that no epoch is lost."""
        if not _is_saved(self.folder / CHECKPOINT) or not is_whole(self.folder / CHECKPOINT):
            return
        for path in self._saved():
            if not is_whole(path):
                path.unlink()
        logger.info("An epoch that was saved and not yet published is taken over from %s.", self.folder)
        self._move_parameters()
        self._move_checkpoint()

    def reset(self, last_epoch: int) -> None:
        """Begin with an empty folder that shows the experiment's epochs up to `last_epoch`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in FOLDERS:
            (self.output_dir / name).mkdir(exist_ok=True)
            (self.folder / name).symlink_to(f"../{name}")
        self._linked, self._dropped = set(), set()
        for path in self.output_dir.glob("*epoch.pth"):
            epoch = epoch_of(path)
            if epoch is not None and epoch <= last_epoch:
                self.link_epoch(epoch)

    def link_epoch(self, epoch: int) -> None:
        """Link an epoch's file of the experiment for ESPnet."""
        replace_link(self.folder / f"{epoch}epoch.pth", f"../{epoch}epoch.pth")
        self._linked.add(epoch)

    def drop_all_but(self, epochs: set[int]) -> None:
        """Drop epochs that a killed run had no time to drop."""
        for epoch in self._linked - epochs:
            (self.folder / f"{epoch}epoch.pth").unlink(missing_ok=True)

    def publish(self) -> None:
        """Move the files that ESPnet has saved, the checkpoint last; then drop the epochs that ESPnet dropped.

        An epoch's file is dropped one checkpoint later than ESPnet asks: the previous checkpoint keeps its files.
        """
        self._move_parameters()
        for path in self.folder.glob("*.pth"):
            if path.is_symlink() and epoch_of(path) is None and path.name != CHECKPOINT:
                replace_link(self.output_dir / path.name, str(path.readlink()))
        if not _is_saved(self.folder / CHECKPOINT):
            return
        self._move_checkpoint()
        self._remove_dropped()
        self._dropped = self._no_longer_linked()

    def close(self) -> None:
        """Publish the last epoch, and remove the staging folder."""
        self.publish()
        self._dropped = self._no_longer_linked()
        self._remove_dropped()
        shutil.rmtree(self.folder)

    def explain(self, error: OSError | RuntimeError) -> None:
        """If `error` broke a save off, remove the half file and log which files are left.

        torch.save reports a full disk as a RuntimeError about its archive, without a word of the disk.
        """
        broken = [path for path in self.folder.glob("*.pth") if _is_saved(path) and not is_whole(path)]
        for path in broken:
            path.unlink()
            logger.error(
                "Saving %s broke off (%s); %s free on the disk. The half file is removed, and what was saved before "
                "stands in %s. Free some space; the same command then resumes.",
                path.name,
                str(error).splitlines()[0],
                megabytes(shutil.disk_usage(self.folder).free),
                self.output_dir,
            )

    def _saved(self) -> list[Path]:
        return [path for path in self.folder.glob("*.pth") if _is_saved(path) and path.name != CHECKPOINT]

    def _move_parameters(self) -> None:
        for path in self._saved():
            move_synced(path, self.output_dir / path.name)
            epoch = epoch_of(path)
            if epoch is not None:
                self.link_epoch(epoch)

    def _move_checkpoint(self) -> None:
        current = self.output_dir / CHECKPOINT
        if current.exists():
            keep_under(current, PREVIOUS)
        move_synced(self.folder / CHECKPOINT, current)
        (self.output_dir / INTERRUPTED).unlink(missing_ok=True)

    def _no_longer_linked(self) -> set[int]:
        return {epoch for epoch in self._linked if not (self.folder / f"{epoch}epoch.pth").is_symlink()}

    def _remove_dropped(self) -> None:
        for epoch in self._dropped:
            (self.output_dir / f"{epoch}epoch.pth").unlink(missing_ok=True)
        self._linked -= self._dropped


def _is_saved(path: Path) -> bool:
    """Whether ESPnet wrote the file: links lead to what is published."""
    return path.is_file() and not path.is_symlink()


class Need(NamedTuple):
    """Bytes of the next saves.

    Attributes:
        epoch: Bytes of a checkpoint and an epoch's parameters, while all old files stay.
        averages: Bytes of averaged models on top of them.
    """

    epoch: int
    averages: int


def need_of(model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer], num_averages: int) -> Need:
    """Bytes that the end of an epoch writes.

    Args:
        model: The model in training.
        optimizers: Its optimisers; before the first step, Adam's two numbers a trainable parameter are counted.
        num_averages: Number of averaged models.
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
    """Refuse to begin a save that does not fit on the disk; warn if only the averages at the end would not.

    Raises:
        FullDiskError: The bytes free and needed.
    """
    free = shutil.disk_usage(folder).free
    if free < need.epoch:
        raise FullDiskError(
            folder,
            f"the disk has {megabytes(free)} free, and saving this epoch takes {megabytes(need.epoch)}; nothing was "
            "written, the last checkpoint is as it was",
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
    """Bytes in words, as megabytes."""
    return f"{count / 1e6:,.1f} MB"
