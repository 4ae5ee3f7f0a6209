"""Files that are whole or not there: written beside, synced to the disk, then moved.

A rename replaces a file in one step, so that a kill or a power cut leaves the old file or the new one.
"""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKPOINT = "checkpoint.pth"
PREVIOUS = "checkpoint.previous.pth"
INTERRUPTED = "checkpoint.interrupted.pth"
EPOCH_FILE = re.compile(r"(\d+)epoch\.pth")


def epoch_of(path: Path) -> int | None:
    """The N of `Nepoch.pth`; None of any other file."""
    match = EPOCH_FILE.fullmatch(path.name)
    return int(match[1]) if match else None


@contextmanager
def write_beside(target: Path) -> Iterator[Path]:
    """Yield a path beside `target`; the file written there takes its place in the end, but not after an error.

    The folder is made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        move_synced(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with write_beside(target) as part:
        part.write_text(text, encoding="utf-8")


def move_synced(source: Path, target: Path) -> None:
    """Put a finished file in the place of `target`; both are on one file system."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: Path, target: str) -> None:
    """Point a symbolic link elsewhere, without an instant in which it is missing."""
    if link.is_symlink() and str(link.readlink()) == target:
        return
    beside = link.with_name(f".{link.name}.part")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)


def keep_under(source: Path, name: str) -> None:
    """Give a file a second name in its folder, in the place of whatever has that name."""
    beside = source.with_name(f".{name}.part")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        # A file system without hard links: for an instant the file has its second name only.
        source.replace(source.with_name(name))
    else:
        beside.replace(source.with_name(name))


def save_synced(states: object, target: Path, folder: Path) -> None:
    """Save into `folder`, then move into the place of `target`."""
    # Programs without models write their files, too, and torch takes seconds to import.
    import torch

    part = folder / target.name
    torch.save(states, part)
    move_synced(part, target)


def is_whole(path: Path) -> bool:
    """Whether all of a file that torch.save wrote is there, by the checksums in it (torch.load does not read them)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return False
