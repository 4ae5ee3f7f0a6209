"""Atomic writes.

A file is written beside its target, synced to the disk, then moved: a rename replaces a file in one step, so that a
kill or a power cut leaves the old file or the whole new one.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from espnet_larm.files.disk import FullDiskError, names_full_disk


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """Give a folder beside `target`, for what is not finished; it is removed at the end.

    Raises:
        FullDiskError: There was no room; the message names `target`, whatever is in the folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # The room is looked at before the removal makes some.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part") as name:
        try:
            with names_full_disk(target):
                yield Path(name)
        except FullDiskError as error:
            raise FullDiskError(target, error.reason) from error


@contextlib.contextmanager
def write_beside(target: Path) -> Iterator[Path]:
    """Give a path to write to, in the folder of `target`, which is made; then sync that file and move it there.

    Whatever happens, `target` is the old file or the whole new one. After an error the new one is removed.

    Raises:
        FullDiskError: There was no room.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = _fresh_beside(target)
    try:
        with names_full_disk(target):
            yield beside
            move_synced(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def check_no_folder(target: Path) -> None:
    """Refuse a folder where a file shall be written.

    Raises:
        IsADirectoryError: The name is a folder's.
    """
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file to write, in it for example.")


def write_text(target: Path, text: str) -> None:
    """Write a text in UTF-8 as `write_beside` does."""
    with write_beside(target) as beside:
        beside.write_text(text, encoding="utf-8")


def save_synced(states: object, target: Path, folder: Path) -> None:
    """Save tensors into `folder`, which is on the same file system, then move the file to `target`."""
    # Programs that write texts alone do without torch.
    import torch

    part = folder / target.name
    torch.save(states, part)
    move_synced(part, target)


def move_synced(source: Path, target: Path) -> None:
    """Sync a finished file, and let it replace `target` on the same file system in one step."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    # The rename, too, must survive a power cut.
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: Path, target: str) -> None:
    """Point a symbolic link elsewhere, without an instant in which it is missing."""
    if link.is_symlink() and str(link.readlink()) == target:
        return
    beside = _fresh_beside(link)
    beside.symlink_to(target)
    beside.replace(link)


def keep_under(source: Path, name: str) -> None:
    """Give a file a second name in its folder, replacing any file of that name."""
    target = source.with_name(name)
    beside = _fresh_beside(target)
    try:
        os.link(source, beside)
    except OSError:
        # A file system without hard links: for an instant the file has its second name only.
        source.replace(target)
    else:
        beside.replace(target)


def _fresh_beside(target: Path) -> Path:
    """A path beside `target` at which nothing is, so that no link is followed."""
    beside = target.with_name(f".{target.name}.part")
    beside.unlink(missing_ok=True)
    return beside
