"""Writes zip files with the same bytes for the same input, and reads zip files of strangers safely.

Members are not compressed: weights hardly shrink, and compressed bytes would depend on zlib's version.
"""

import hashlib
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from espnet_larm.files.atomic import write_beside

# The earliest date of the format.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
MAX_MEMBERS = 10_000
# Packs are not compressed; if somebody zips one again, its texts shrink, its weights hardly.
MAX_GROWTH = 10
CHUNK_BYTES = 2**20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1


def write_archive(path: Path, members: Mapping[str, bytes | Path]) -> None:
    """Write a zip file atomically; the same members give the same bytes.

    Args:
        path: The file to write; its folder is made if it is missing.
        members: Content, or the file that holds it, by name in the archive; written in the order given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_beside(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, ZIP_EPOCH)
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            # Known beforehand, so that large members get 64-bit sizes.
            info.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
            with archive.open(info, "w") as target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, target, CHUNK_BYTES)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file and check its members: names stay below a folder, no links, no bombs.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, refused, or no zip file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a pack is a zip file that `python -m espnet_larm pack` writes.")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            yield archive
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged or no zip file ({error}); copy or download it again.") from error


def extract(archive: zipfile.ZipFile, folder: Path, names: Collection[str]) -> None:
    """Write members below a folder, each atomically, so that no link that is there is followed.

    Args:
        archive: A checked archive.
        folder: Where to write.
        names: The members to write; what nobody has named and checked stays in the archive.
    """
    for info in archive.infolist():
        if info.is_dir() or info.filename not in names:
            continue
        target = folder / info.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_beside(target) as part, archive.open(info) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)


def digest(content: bytes | Path) -> str:
    """The SHA-256 of a content or file, in hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return _digest_of(file)


def _digest_of(file: BinaryIO) -> str:
    found = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        found.update(chunk)
    return found.hexdigest()


def _check_members(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > MAX_MEMBERS:
        raise ValueError(f"{path} has {len(infos)} members; allowed: {MAX_MEMBERS}. It is no pack.")
    size, total = path.stat().st_size, sum(info.file_size for info in infos)
    if total > MAX_GROWTH * size:
        raise ValueError(f"{path} would grow from {size} to {total} bytes; allowed: {MAX_GROWTH} times. It is no pack.")
    seen: set[str] = set()
    for info in infos:
        if reason := _refusal(info, seen):
            raise ValueError(f"{path}: member {info.filename!r} {reason}; it is refused, and nothing was unpacked.")
        seen.add(_plain(info.filename))


def _plain(name: str) -> str:
    """A name as file systems compare it that do not tell case or composed letters apart."""
    return unicodedata.normalize("NFC", name).casefold()


def refusal_of_name(name: str) -> str:
    """Why no member of a pack may have a name; empty if one may."""
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts
    if leaves:
        return "has a name that leaves the folder"
    is_plain = path.as_posix() == name.rstrip("/") and name.isprintable()
    return "" if is_plain else "has a name that is not its plain one"


def _refusal(info: zipfile.ZipInfo, seen: set[str]) -> str:
    """Why a member may not be unpacked; empty if it may."""
    if reason := refusal_of_name(info.filename):
        return reason
    kind = stat.S_IFMT(info.external_attr >> 16)
    reasons = {
        "is there twice": _plain(info.filename) in seen,
        "is a link or a device": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
        "is encrypted": bool(info.flag_bits & ENCRYPTED),
        f"is compressed by method {info.compress_type}, which is not allowed": info.compress_type not in METHODS,
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "")
