"""Decodes audio, block by block or at once. Each way in comes through `open_audio` and `mono_blocks`.

Shapes: N samples. Samples are float32 in [-1, 1], the mean over the channels.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from espnet_larm.data.audio_error import AudioError
from espnet_larm.data.container import find_damage, find_rest
from espnet_larm.data.source import Part, is_archive_entry, is_command, open_source, part_of

BLOCK_SECONDS = 5.0
MAX_BLOCK = 1 << 20  # numbers in a block, whatever rate a damaged header names
UNKNOWN_FRAMES = (1 << 63) - 1  # in libsndfile: the header does not say
# Their decoders go to the very sample; those of other formats about there.
SEEKABLE_FORMS = frozenset(("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "FLAC"))
# Those of which it can be told whether they are whole.
FORMS = SEEKABLE_FORMS | {"CAF", "SVX", "VOC", "HTK", "OGG", "MP3"}
COUNTED_FORMS = ("FLAC", "MP3")  # libsndfile stops at the number of samples in their headers
FLAC_BYTES = 512  # in one read of FLAC's decoder, so that the bytes that it leaves unread are known
MAX_PAST_END_S = 0.5  # like Kaldi's extract-segments

# First bytes of files that are not decoded here, and what they hold; "" is an audio format, which must be damaged.
FOREIGN_CONTENT = (
    (re.compile(rb"\s*<(?:!doctype|html|\?xml|head)", re.IGNORECASE), "a web page"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer"),
    (re.compile(rb"\x1f\x8b|PK\x03\x04|BZh"), "packed with gzip, bzip2 or zip"),
    (re.compile(rb".{4}ftyp|\x30\x26\xb2\x75|\x1a\x45\xdf\xa3|#!AMR", re.DOTALL), "M4A, WMA, WebM or AMR"),
    (re.compile(rb"NIST_1A.*shorten", re.DOTALL), "SPHERE packed with shorten"),
    (re.compile(rb"fLaC|RIFF|RIFX|RF64|OggS|NIST_1A|FORM|ID3|\.snd|riff|caff"), ""),
    (re.compile(rb"[\t\n\r -~]+\Z"), "text"),
)


class AudioHeader(NamedTuple):
    """Header of an audio file.

    Attributes:
        sample_rate: Sampling rate in Hz.
        num_channels: Number of channels; 1 is mono.
        form: Format as soundfile names it: `FLAC`, `WAV`, ...; "" of unknown length, which other programs cannot read.
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


class Bytes:
    """Encoded audio for libsndfile, which seeks to where a damaged header says.

    Args:
        stream: The audio.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.tell = stream, stream.tell
        self.read = self._read_a_little if stream.read(4) == b"fLaC" else stream.read
        stream.seek(0)

    def __repr__(self) -> str:
        return "it"

    def _read_a_little(self, num_bytes: int) -> bytes:
        return self.stream.read(min(num_bytes, FLAC_BYTES))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, or to the end where no file can have it, so that reading ends."""
        try:
            return self.stream.seek(offset, whence)
        except (OSError, OverflowError, ValueError):
            return self.stream.seek(0, io.SEEK_END)


class Decoder(soundfile.SoundFile):
    """Reads from the first sample to the last, without soundfile's seeking, which FLAC of unknown length refuses.

    Args:
        stream: The audio.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(Bytes(stream))
        self.stream = stream

    def seekable(self) -> bool:
        """Whether to seek after each block."""
        return False


def read_audio(source: str) -> Audio:
    """Decode all samples.

    Args:
        source: The second column of `wav.scp`, or a part of it.

    Raises:
        MissingAudioError: No such file.
        AudioError: It is empty, truncated, no audio, has samples that are not finite, or the command failed; or the
            part is not in the recording.
    """
    with _memory_told(source), open_source(source) as stream, open_audio(source, stream) as file:
        form = file.format if file.frames < UNKNOWN_FRAMES else ""
        header = AudioHeader(file.samplerate, file.channels, form)
        return Audio(header, np.concatenate(list(mono_blocks(source, file))))


@contextmanager
def _memory_told(source: str) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        what = f"{source} needs more memory than there is"
        raise AudioError("unreadable-audio", what, "cut it into pieces, or remove its line") from error


@contextmanager
def open_audio(source: str, stream: BinaryIO) -> Iterator[Decoder]:
    """Open encoded audio that is whole.

    Raises:
        AudioError: It is truncated, damaged or no audio, or of a format that does not say whether it is whole.
    """
    if damage := find_damage(stream):
        raise AudioError("truncated-audio", f"{source} {damage}", "replace it")
    try:
        file = Decoder(stream)
    except RuntimeError as error:
        raise _undecodable(source, stream, error) from error
    with file:
        if file.format not in FORMS:
            what = f"{source} is {file.format_info}, of which nobody can tell whether it is whole"
            raise AudioError("unreadable-audio", what, "convert it to WAV or FLAC")
        yield file


def mono_blocks(source: str, file: Decoder) -> Iterator[np.ndarray]:
    """Yield blocks (N,) of samples, of the part that `source` names, or of all.

    Raises:
        AudioError: The recording is empty, shorter than its header says, damaged, or has samples that are not finite;
            or the part is not in it.
    """
    part = part_of(source)
    start = round(part.start_s * file.samplerate)
    end = UNKNOWN_FRAMES if part.end_s == float("inf") else round(part.end_s * file.samplerate)
    if start >= end:
        what = f"{source} is shorter than a sample at {file.samplerate} Hz"
        raise AudioError("bad-segment", what, "correct its line in segments, or remove it")
    position = _go_to(start, file)
    # Not beyond the promise: libsndfile decodes what follows, and drops it.
    last = min(end, file.frames)
    while position < last and len(block := _read(source, file, (start if position < start else last) - position)):
        if position >= start:
            check_finite(source, block, position)
            yield block.mean(axis=1) if file.channels > 1 else block[:, 0]
        position += len(block)
    if position < end:
        _check_end(source, file, position)
        _check_part(source, part, start < position, position / file.samplerate)


def check_finite(name: str, samples: np.ndarray, first: int = 0) -> None:
    """Refuse samples that are not numbers.

    Args:
        name: What they are samples of, for the message.
        samples: Samples (N,) or (N, C).
        first: Number of the first of them.

    Raises:
        AudioError: One is NaN or infinite.
    """
    if not np.isfinite(samples).all():
        is_finite = np.isfinite(samples.reshape(len(samples), -1)).all(axis=1)
        number = first + int(np.argmin(is_finite))
        raise AudioError("bad-samples", f"{name} holds samples that are not finite numbers, sample {number} for one")


def past_end(source: str, header: AudioHeader, samples: np.ndarray) -> str:
    """Say that a part ended a little behind its recording and was cut there; "" if it did not."""
    part = part_of(source)
    late_s = part.end_s - part.start_s - len(samples) / header.sample_rate
    if not 1 / header.sample_rate < late_s < float("inf"):
        return ""
    return f"the segment ends {late_s:.3f} s behind the end of the recording, and was cut there"


def _go_to(start: int, file: Decoder) -> int:
    """Skip what can be skipped before `start`; return the place."""
    if not 0 < start < file.frames < UNKNOWN_FRAMES or file.format not in SEEKABLE_FORMS:
        return 0
    return int(file.seek(start))


def _read(source: str, file: Decoder, most: int) -> np.ndarray:
    """Read a block (N, C) of `most` samples at most; an empty one at the end."""
    try:
        most = min(most, int(BLOCK_SECONDS * file.samplerate), max(1, MAX_BLOCK // file.channels))
        block: np.ndarray = file.read(most, dtype="float32", always_2d=True)
    except RuntimeError as error:
        raise AudioError("unreadable-audio", f"{source} is truncated or damaged ({error})") from error
    return block


def _check_end(source: str, file: Decoder, num_samples: int) -> None:
    """Compare the number of samples that were read with the one that was promised."""
    if num_samples == 0:
        raise AudioError("empty-audio", f"{source} holds no samples")
    if num_samples < file.frames < UNKNOWN_FRAMES:
        what = f"{source} is truncated: {num_samples} of {file.frames} samples"
        raise AudioError("truncated-audio", what, "replace it")
    num_before = FLAC_BYTES if file.format == "FLAC" else 0
    if file.format in COUNTED_FORMS and (rest := find_rest(file.stream, file.stream.tell(), num_before)):
        raise AudioError("truncated-audio", f"{source} {rest}", "replace it, or convert it to WAV with ffmpeg")


def _check_part(source: str, part: Part, begins_inside: bool, duration_s: float) -> None:
    """Refuse a part that begins behind its recording, or ends too far behind it to be a matter of rounding."""
    if not begins_inside:
        what = f"{source} begins behind the end of the recording, which lasts {duration_s:.2f} s"
    elif MAX_PAST_END_S < part.end_s - duration_s < float("inf"):
        what = f"{source} ends {part.end_s - duration_s:.2f} s behind the end of the recording"
    else:
        return
    raise AudioError("bad-segment", what, "correct its line in segments, or the recording")


def _undecodable(source: str, stream: BinaryIO, error: Exception) -> AudioError:
    """Say what cannot be decoded, by its first bytes."""
    stream.seek(0)
    head = stream.read(1024)
    damaged = f"is truncated or damaged ({error})"
    content = next((content for pattern, content in FOREIGN_CONTENT if pattern.match(head)), None)
    if not head:
        what = "wrote nothing" if is_command(source) else "is empty"
        return AudioError("empty-audio", f"{source} {what}")
    if content == "" or is_archive_entry(source):
        what = damaged
    elif content is not None:
        what = f"is no audio: it is {content}"
    else:
        what = f"is no audio ({error})"
    return AudioError("unreadable-audio", f"{source} {what}")
