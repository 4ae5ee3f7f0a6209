"""One program at a time in a folder that is written.

The lock is the operating system's (POSIX record locks), so that it ends with its process, however that ends: none is
ever stale. Record locks are not handed on to forked processes, as those of flock are, and workers that outlive a killed
parent do not hold them.
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

logger = logging.getLogger(__name__)

LOCK = ".lock"
# What killed programs leave: files and folders that were written beside their targets.
LEFT_BEHIND = (".part*", ".*.part", ".pack-*")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other programs out of a folder, which is made; remove what killed ones have left in it.

    Raises:
        BlockingIOError: Another process writes there; the message says which, where and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _take(folder)
    try:
        _remove_what_was_left(folder)
        yield
    finally:
        if descriptor is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)


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
            raise BlockingIOError(
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


def _remove_what_was_left(folder: Path) -> None:
    for pattern in LEFT_BEHIND:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
