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
ARCHIVED_MATRIX = b"\0B"  # Kaldi's own binary objects
REPEAT = "repeat the stage that wrote it"
STREAMED_WAV_SIZES = (0, 0xFFFFFFFF)


# First bytes of files that are not decoded here, and what they hold; "" is an audio format, which must be damaged.
FOREIGN_CONTENT = (
    (re.compile(rb"\s*<(?:!doctype|html|\?xml|head)", re.IGNORECASE), "a web page"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer"),
    (re.compile(rb"\x1f\x8b|PK\x03\x04|BZh"), "packed with gzip, bzip2 or zip"),
    (re.compile(rb".{4}ftyp|\x30\x26\xb2\x75|\x1a\x45\xdf\xa3|#!AMR", re.DOTALL), "M4A, WMA, WebM or AMR"),
    (re.compile(rb"NIST_1A.*shorten", re.DOTALL), "SPHERE packed with shorten"),
    (re.compile(rb"fLaC|RIFF|RF64|OggS|NIST_1A|FORM|ID3|\.snd"), ""),
    (re.compile(rb"[\t\n\r -~]+\Z"), "text"),
)


class AudioError(ValueError):
    """Error for audio that cannot be used.

    Args:
        kind: Name of the problem in recipe/validation/report.py.
        what: Sentence without its stop, naming the source.
        remedy: What to do.
    """

    def __init__(self, kind: str, what: str, remedy: str = "replace it, or remove its line") -> None:
        super().__init__(f"{what}; {remedy}.")
        self.kind, self.what = kind, what


class MissingAudioError(AudioError, FileNotFoundError):
    """Error for a file or an archive that is not there."""


class AudioHeader(NamedTuple):
    """Header of an audio file.

    Attributes:
        sample_rate: Sampling rate in Hz.
        num_channels: Number of channels; 1 is mono.
        form: Format as soundfile names it: `FLAC`, `WAV`, ...
    """

    sample_rate: int
    num_channels: int
    form: str


class Audio(NamedTuple):
    """Decoded audio.

    Attributes:
        header: Header of the source.
        samples: Mean over the channels (N,).
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
        MissingAudioError: No such file.
        AudioError: It is empty, truncated, no audio, has samples that are not finite, or the command failed.
    """
    stream = open_source(source)
    try:
        with stream, soundfile.SoundFile(stream) as file:
            header = AudioHeader(file.samplerate, file.channels, file.format)
            samples = file.read(dtype="float32", always_2d=True)
            promised = file.frames
    except soundfile.LibsndfileError as error:
        raise AudioError("unreadable-audio", f"{source} {_describe_content(source, str(error))}") from error
    if len(samples) == 0:
        raise AudioError("empty-audio", f"{source} holds no samples")
    if len(samples) < promised:
        raise AudioError(
            "truncated-audio", f"{source} is truncated: {len(samples)} of {promised} samples", "replace it"
        )
    if not np.isfinite(samples).all():
        number = int(np.argmin(np.isfinite(samples).all(axis=1)))
        raise AudioError("bad-samples", f"{source} holds samples that are not finite numbers, sample {number} for one")
    return Audio(header, samples.mean(axis=1) if header.num_channels > 1 else samples[:, 0])


def _describe_content(source: str, error: str) -> str:
    """Say what cannot be decoded, by its first bytes."""
    damaged = f"is truncated or damaged ({error})"
    if is_command(source):
        return f"writes no audio ({error})"
    if is_archive_entry(source):
        return damaged
    with Path(source).open("rb") as file:
        head = file.read(1024)
    if not head:
        return "is truncated to 0 bytes"
    for pattern, content in FOREIGN_CONTENT:
        if pattern.match(head):
            return f"is no audio: it is {content}" if content else damaged
    return f"is no audio ({error})"


def open_source(source: str) -> BinaryIO:
    """Open the encoded audio that a `wav.scp` names; the caller closes it.

    Raises:
        MissingAudioError: No such file.
        AudioError: It is a truncated WAV or archive, or the command failed.
    """
    if is_command(source):
        return io.BytesIO(_run_command(source))
    if is_archive_entry(source):
        return io.BytesIO(_read_archive_entry(source))
    return open_file(source)


def open_file(source: str) -> BinaryIO:
    """Open an audio file, whatever its name looks like; the caller closes it.

    Raises:
        MissingAudioError: There is no such file.
        AudioError: It is a truncated WAV, or may not be read.
    """
    if not Path(source).is_file():
        raise MissingAudioError("missing-audio", f"{source} is missing", "restore the file, or remove its line")
    try:
        stream = Path(source).open("rb")  # noqa: SIM115  # the caller closes it
    except PermissionError as error:
        raise AudioError("unreadable-audio", f"you may not read {source}", "chmod u+r it") from error
    try:
        _check_wav_is_whole(source, stream)
    except AudioError:
        stream.close()
        raise
    return stream


def _run_command(source: str) -> bytes:
    """Run the command of a `wav.scp`; Kaldi lets whoever writes a data folder choose the commands."""
    done = subprocess.run(source[:-1], shell=True, capture_output=True, check=False)  # noqa: S602
    if done.returncode != 0:
        last = " ".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])
        raise AudioError(
            "unreadable-audio", f"`{source}` ended with status {done.returncode}: {last}", "try it in a shell"
        )
    return done.stdout


def _read_archive_entry(source: str) -> bytes:
    """Read the encoded audio at `archive:offset`, which ESPnet writes with `write_function="soundfile"`."""
    match = ARCHIVE_ENTRY.fullmatch(source)
    assert match is not None, source
    path, offset = Path(match["path"]), int(match["offset"])
    if not path.is_file():
        raise MissingAudioError("missing-audio", f"{path} is missing (named as {source})", REPEAT)
    with path.open("rb") as archive:
        archive.seek(offset)
        mark = archive.read(len(ARCHIVED_AUDIO))
        if mark[:2] == ARCHIVED_MATRIX:
            raise AudioError("unreadable-audio", f"{source} holds a matrix of features, no encoded audio", "name audio")
        if mark != ARCHIVED_AUDIO:
            raise AudioError("unreadable-audio", f"{source} holds no encoded audio", REPEAT)
        width = int.from_bytes(archive.read(1), "little")
        size = int.from_bytes(archive.read(width), "little")
        data = archive.read(size)
    if len(data) < size:
        raise AudioError("truncated-audio", f"{source} is truncated: {len(data)} of {size} bytes", REPEAT)
    return data


def _check_wav_is_whole(source: str, stream: BinaryIO) -> None:
    """Measure the data chunk of a WAV, since libsndfile reads a truncated one without an error; rewind the stream."""
    head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        size = Path(source).stat().st_size
        while len(chunk := stream.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                held = size - stream.tell()
                if length not in STREAMED_WAV_SIZES and length > held:
                    what = f"{source} is truncated: {held} of {length} bytes of samples"
                    raise AudioError("truncated-audio", what, "replace it")
                break
            stream.seek(length + length % 2, io.SEEK_CUR)
    stream.seek(0)
