"""Atomic writes, and folders that one program writes at a time.

A file is written beside its target, synced to the disk, then moved: a rename replaces a file in one step, so that a
kill or a power cut leaves the old file or the whole new one.
The lock of a folder is the operating system's (POSIX record locks), so that it ends with its process, however that
ends: none is ever stale. Record locks are not handed on to forked processes, as those of flock are, and workers that
outlive a killed parent do not hold them.
"""

import contextlib
import errno
import fcntl
import logging
import lzma
import os
import pickle
import re
import shlex
import shutil
import socket
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pth"
PREVIOUS = "checkpoint.previous.pth"
INTERRUPTED = "checkpoint.interrupted.pth"
# What zipfile, pickle and torch raise when they read damaged files.
DAMAGES = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, lzma.LZMAError, pickle.PickleError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
EPOCH_FILE = re.compile(r"(\d+)epoch\.pth")
LOCK = ".lock"
# What killed programs leave: files and folders that were written beside their targets.
LEFT_BEHIND = (".part*", ".*.part")
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


class InUseError(BlockingIOError):
    """Another process writes in a folder; the message says which, and since when."""


def epoch_of(path: Path) -> int | None:
    """The N of `Nepoch.pth`; None for any other file."""
    match = EPOCH_FILE.fullmatch(path.name)
    return int(match[1]) if match else None


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


def parse_yaml(text: str) -> Any:
    """What YAML says, by libyaml where PyYAML has it: 262,144 tokens in 4 s instead of 17.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    # The doctor imports this file where nothing is installed yet.
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # a safe one


def read_yaml(path: Path) -> dict[str, Any]:
    """Read options from a YAML file, without tags that make objects.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or holds something else than options.
    """
    import yaml

    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; name a YAML file of options.")
    try:
        options = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = "a folder" if path.is_dir() else " ".join(str(error).split())
        raise ValueError(
            f"{path} is no YAML of options in UTF-8: {why}. Write a line `name: value` each, indented with spaces."
        ) from error
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        found = "nothing" if options is None else f"a {type(options).__name__}"
        raise ValueError(
            f"{path} holds {found} where options should be; write a line `name: value` each, with a space behind the "
            "colon."
        )
    return options


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


def is_whole(path: Path) -> bool:
    """Whether a file of torch.save is undamaged, by the checksums in it (torch.load does not read them)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except DAMAGES:
        return False


def is_compressed(path: Path) -> bool:
    """Whether a zip file is compressed, or says that it holds more bytes than it has."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    is_stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
    return not is_stored or sum(info.file_size for info in infos) > path.stat().st_size


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


def read_tensors(path: Path, mmap: bool = False) -> Any:
    """What torch.save wrote, tensors and plain values; nothing else is unpickled, so that a file cannot run code.

    Args:
        path: Path of the file.
        mmap: Leave the tensors on the disk, and their checksums unread: for files that `is_whole` was asked of.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is damaged, or holds other objects.
    """
    # Programs that write texts alone do without torch.
    import torch

    if is_compressed(path):
        raise ValueError(
            f"{path} is compressed, which torch's files are not: it may grow beyond any memory, and is refused."
        )
    if not mmap and zipfile.is_zipfile(path) and not is_whole(path):
        raise ValueError(f"{path} is damaged (its checksums are not those of its content); copy or make it again.")
    try:
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except FileNotFoundError:
        raise
    except DAMAGES as error:
        if is_whole(path):
            raise ValueError(
                f"{path} holds more than tensors and plain values, and may run code as it is loaded "
                f"({str(error).partition(chr(10))[0]})."
            ) from error
        raise ValueError(f"{path} is truncated or damaged, or no file of torch.save; copy or make it again.") from error
