"""Folders that one program writes at a time.

The lock of a folder is the operating system's (POSIX record locks), so that it ends with its process, however that
ends: none is ever stale. Record locks are not handed on to forked processes, as those of flock are, and workers that
outlive a killed parent do not hold them.
"""

import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from espnet_larm.files.disk import names_full_disk

logger = logging.getLogger(__name__)

LOCK = ".lock"
# What killed programs leave: files and folders that were written beside their targets.
LEFT_BEHIND = (".part*", ".*.part")


class InUseError(BlockingIOError):
    """Another process writes in a folder; the message says which, and since when."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other programs out of a folder, which is made; remove what killed ones have left in it.

    Raises:
        InUseError: Another process writes there; the message says which, where and since when.
        FullDiskError: There was no room for something.
        NotADirectoryError: It, or what it is in, is a file.
    """
    is_made = not folder.exists()
    with names_full_disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(
                f"{folder} cannot be a folder, since a file has its name or a part of it."
            ) from error
        descriptor = _take(folder)
    try:
        remove_what_was_left(folder)
        with names_full_disk(folder):
            yield
    finally:
        if descriptor is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)
        if is_made:
            # A program that refuses its options leaves nothing.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _take(folder: Path) -> int | None:
    """Lock the folder's file; None if the file system has no locks."""
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise InUseError(
                f"{folder} is being written by {holder or 'another process'}. Wait for it, end it, or name another "
                "folder."
            ) from None
        except OSError as error:
            os.close(descriptor)
            logger.warning("%s cannot be locked (%s): start no second program that writes there.", folder, error)
            return None
        # The one before may have removed the file between open and lock.
        if _is_at(descriptor, path):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, _describe_this_process().encode(), 0)
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _describe_this_process() -> str:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {since} ({shlex.join(sys.argv)[:300]})\n"


def remove_what_was_left(folder: Path) -> None:
    """Remove what killed programs have left half done in a folder, which nobody else may be writing."""
    for pattern in LEFT_BEHIND:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
