"""Reads the audio that `wav.scp` names: a file, an entry of a Kaldi archive, or the output of a shell command.

Shapes: N samples. Samples are float32 in [-1, 1].
"""

import io
import re
import subprocess
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

ARCHIVE_ENTRY = re.compile(r"(?P<path>.+):(?P<offset>\d+)")
ARCHIVED_AUDIO = b"AUDIO"
STREAMED_WAV_SIZES = (0, 0xFFFFFFFF)


class AudioHeader(NamedTuple):
    """What a file says of itself.

    Attributes:
        sample_rate: In Hz.
        num_channels: 1 for mono.
        form: `FLAC`, `WAV`, ... as soundfile names it.
    """

    sample_rate: int
    num_channels: int
    form: str


class Audio(NamedTuple):
    """Decoded audio.

    Attributes:
        header: Of the source.
        samples: (N,), the mean over the channels.
    """

    header: AudioHeader
    samples: np.ndarray


def is_command(source: str) -> bool:
    """Whether `source` is a shell command that writes audio to its output, as Kaldi marks it."""
    return source.endswith("|")


def is_archive_entry(source: str) -> bool:
    """Whether `source` is `archive:offset`. A file whose own name ends like that is taken for a file."""
    return not is_command(source) and ARCHIVE_ENTRY.fullmatch(source) is not None and not Path(source).exists()


def read_audio(source: str) -> Audio:
    """Decode all samples.

    Args:
        source: The second column of `wav.scp`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is empty, truncated, no audio, has samples that are not finite, or the command failed.
    """
    stream = open_source(source)
    try:
        with stream, soundfile.SoundFile(stream) as file:
            header = AudioHeader(file.samplerate, file.channels, file.format)
            samples = file.read(dtype="float32", always_2d=True)
            promised = file.frames
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{source} is truncated or no audio ({error}); replace it, or remove its line.") from error
    if len(samples) == 0:
        raise ValueError(f"{source} holds no samples; replace it, or remove its line.")
    if len(samples) < promised:
        raise ValueError(f"{source} is truncated: {len(samples)} of {promised} samples; replace it.")
    if not np.isfinite(samples).all():
        raise ValueError(f"{source} holds samples that are not finite numbers; replace it, or remove its line.")
    return Audio(header, samples.mean(axis=1) if header.num_channels > 1 else samples[:, 0])


def open_source(source: str) -> BinaryIO:
    """The encoded audio that a `wav.scp` names; the caller closes it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is a truncated WAV or archive, or the command failed.
    """
    if is_command(source):
        return io.BytesIO(_run_command(source))
    if is_archive_entry(source):
        return io.BytesIO(_read_archive_entry(source))
    return open_file(source)


def open_file(source: str) -> BinaryIO:
    """An audio file, whatever its name looks like; the caller closes it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is a truncated WAV.
    """
    if not Path(source).is_file():
        raise FileNotFoundError(f"{source} is missing; restore the file, or remove its line.")
    stream = Path(source).open("rb")  # noqa: SIM115  # the caller closes it
    try:
        _check_wav_is_whole(source, stream)
    except ValueError:
        stream.close()
        raise
    return stream


def _run_command(source: str) -> bytes:
    """What a `wav.scp` pipe writes. Kaldi's convention: who writes the data folder chooses the commands."""
    done = subprocess.run(source[:-1], shell=True, capture_output=True, check=False)  # noqa: S602
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(f"`{source}` ended with status {done.returncode}: {' '.join(last)}; try it in a shell.")
    return done.stdout


def _read_archive_entry(source: str) -> bytes:
    """The encoded audio at `archive:offset`, as kaldiio's `write_function="soundfile"` stores it."""
    match = ARCHIVE_ENTRY.fullmatch(source)
    assert match is not None, source
    path, offset = Path(match["path"]), int(match["offset"])
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing (named as {source}); repeat the stage that wrote it.")
    with path.open("rb") as archive:
        archive.seek(offset)
        if archive.read(len(ARCHIVED_AUDIO)) != ARCHIVED_AUDIO:
            raise ValueError(f"{source} holds no encoded audio; repeat the stage that wrote it.")
        width = int.from_bytes(archive.read(1), "little")
        size = int.from_bytes(archive.read(width), "little")
        data = archive.read(size)
    if len(data) < size:
        raise ValueError(f"{source} is truncated: {len(data)} of {size} bytes; repeat the stage that wrote it.")
    return data


def _check_wav_is_whole(source: str, stream: BinaryIO) -> None:
    """libsndfile reads a truncated WAV without a word, so its data chunk is measured here. Rewinds the stream."""
    head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        size = Path(source).stat().st_size
        while len(chunk := stream.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                held = size - stream.tell()
                if length not in STREAMED_WAV_SIZES and length > held:
                    raise ValueError(f"{source} is truncated: {held} of {length} bytes of samples; replace it.")
                break
            stream.seek(length + length % 2, io.SEEK_CUR)
    stream.seek(0)
