"""Full disks, said with the file for which there was no room."""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

# Why there is no room, by the system's number.
NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota of the disk is used up",
    errno.EFBIG: "it is larger than files may be here (ulimit -f)",
}
OUTPUT = "the output"  # of the program
LITTLE_ROOM = 1 << 16  # bytes


class FullDiskError(OSError):
    """There is no room for a file.

    Args:
        target: The file, or the folder that it is in.
        reason: Why there is no room.
    """

    def __init__(self, target: Path | str, reason: str) -> None:
        super().__init__(f"{target} cannot be written: {reason}. Make room; then repeat the same command.")
        self.target, self.reason = target, reason

    def __reduce__(self) -> tuple[type["FullDiskError"], tuple[Path | str, str]]:
        """Let other processes raise it."""
        return type(self), (self.target, self.reason)


@contextlib.contextmanager
def names_full_disk(target: Path | str) -> Iterator[None]:
    """Say for what there was no room: neither writing to an open file nor the errors of libraries do.

    Args:
        target: What is written, if neither the system nor an inner block names it.

    Raises:
        FullDiskError: There was no room.
    """
    try:
        yield
    except FullDiskError:
        raise
    except BaseException as error:
        if (reason := _find_lack_of_room(error, target)) is None:
            raise
        named = str(getattr(error, "filename", None) or (OUTPUT if _holds_output() else target))
        raise FullDiskError(target if named.endswith(".part") else named, reason) from error


def _holds_output() -> bool:
    """Whether stdout holds what could not be written to it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        return True
    return False


def _find_lack_of_room(error: BaseException, target: Path | str) -> str | None:
    """Why there was no room; None if that was not the error."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return NO_ROOM[error.errno]
    if os.strerror(errno.ENOSPC) in str(error):
        return NO_ROOM[errno.ENOSPC]
    # Of torch.save and numpy, which name the file and no cause.
    says_no_cause = isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno is None)
    return NO_ROOM[errno.ENOSPC] if says_no_cause and _has_little_room(target) else None


def _has_little_room(target: Path | str) -> bool:
    try:
        return isinstance(target, Path) and shutil.disk_usage(target.parent).free < LITTLE_ROOM
    except OSError:
        return False
