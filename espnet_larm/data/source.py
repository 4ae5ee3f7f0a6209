"""What a `wav.scp` or `segments` names: a file, an entry of an archive, a shell command, or a part of one of these.

A part is written `RECORDING[START:END]`, in seconds; `kaldi_dir.read_sources` makes it of `segments`.
"""

import functools
import io
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from espnet_larm.data.audio_error import AudioError, MissingAudioError
from espnet_larm.data.command import run_command
from espnet_larm.data.container import is_placeholder

ARCHIVE_ENTRY = re.compile(r"(?P<path>.+):(?P<offset>\d+)")
PART = re.compile(r"(?P<recording>.+)\[(?P<start_s>\d+\.\d+):(?P<end_s>\d+\.\d+|inf)\]", re.DOTALL)
ARCHIVED_AUDIO = b"AUDIO"
ARCHIVED_WAV = b"RIFF"
ARCHIVED_MATRIX = b"\0B"  # Kaldi's own binary objects
REPEAT = "repeat the stage that wrote it"


class Part(NamedTuple):
    """A part of a recording; the whole of it by default.

    Attributes:
        recording: File, archive entry or command.
        start_s: Where it begins, in seconds.
        end_s: Where it ends, in seconds; infinity for the end of the recording.
    """

    recording: str
    start_s: float = 0.0
    end_s: float = float("inf")

    def __str__(self) -> str:
        return f"{self.recording}[{self.start_s:.6f}:{self.end_s:.6f}]"


def part_of(source: str) -> Part:
    """Split a source into recording and part. A file whose own name ends like a part is taken for a file."""
    match = PART.fullmatch(source)
    if match is None or Path(source).exists():
        return Part(source)
    return Part(match["recording"], float(match["start_s"]), float(match["end_s"]))


def is_command(source: str) -> bool:
    """Whether audio comes from a shell command that writes it to its output, as Kaldi marks it."""
    return part_of(source).recording.endswith("|")


def is_archive_entry(source: str) -> bool:
    """Whether `source` is `archive:offset`. A file whose own name ends like that is taken for a file."""
    return not is_command(source) and ARCHIVE_ENTRY.fullmatch(source) is not None and not Path(source).exists()


def open_source(source: str) -> BinaryIO:
    """Open the encoded recording that a source names; the caller closes it.

    Raises:
        MissingAudioError: No such file.
        AudioError: It is a truncated archive, or the command failed.
    """
    recording = part_of(source).recording
    if is_command(recording):
        # Parts of one recording follow each other.
        run = run_command if recording == source else _run_command_once
        return io.BytesIO(run(recording))
    if is_archive_entry(recording):
        return io.BytesIO(_read_archive_entry(recording))
    return open_file(recording)


def open_file(source: str) -> BinaryIO:
    """Open an audio file, whatever its name looks like; the caller closes it.

    Raises:
        MissingAudioError: There is no such file.
        AudioError: It may not be read.
    """
    if not Path(source).is_file():
        raise MissingAudioError("missing-audio", f"{source} is missing", "restore the file, or remove its line")
    try:
        return Path(source).open("rb")
    except PermissionError as error:
        raise AudioError("unreadable-audio", f"you may not read {source}", "chmod u+r it") from error


_run_command_once = functools.lru_cache(maxsize=1)(run_command)


def _read_archive_entry(source: str) -> bytes:
    """Read the encoded audio at `archive:offset`: ESPnet's, with its length before it, or plain WAV, as Kaldi's."""
    match = ARCHIVE_ENTRY.fullmatch(source)
    assert match is not None, source
    path, offset = Path(match["path"]), int(match["offset"])
    if not path.is_file():
        raise MissingAudioError("missing-audio", f"{path} is missing (named as {source})", REPEAT)
    with path.open("rb") as archive:
        archive.seek(offset)
        size = _size_of_entry(source, archive)
        data = archive.read(size)
    if len(data) < size:
        raise AudioError("truncated-audio", f"{source} is truncated: {len(data)} of {size} bytes", REPEAT)
    return data


def _size_of_entry(source: str, archive: BinaryIO) -> int:
    """Find the number of bytes of encoded audio from the mark of an entry on, and go to the first of them."""
    mark = archive.read(len(ARCHIVED_AUDIO))
    if mark == ARCHIVED_AUDIO:
        width = int.from_bytes(archive.read(1), "little")
        return int.from_bytes(archive.read(width), "little")
    if mark.startswith(ARCHIVED_WAV):
        archive.seek(len(ARCHIVED_WAV) - len(mark), io.SEEK_CUR)
        size = int.from_bytes(archive.read(4), "little")
        if is_placeholder(size):
            raise AudioError("unreadable-audio", f"{source} does not say where its WAV ends", REPEAT)
        archive.seek(-8, io.SEEK_CUR)
        return size + 8
    if mark.startswith(ARCHIVED_MATRIX):
        raise AudioError("unreadable-audio", f"{source} holds a matrix of features, no encoded audio", "name audio")
    what = f"{source} holds no encoded audio: neither ESPnet's AUDIO nor WAV begins there"
    raise AudioError("unreadable-audio", what, "correct the offset, or repeat what wrote the archive")
