"""Audio of any container, in blocks: by libsndfile where it reads the file, else by FFmpeg.

libsndfile comes first, because its files are checked for being whole. The rest (M4A, WebM, the sound of videos, ...) is
decoded by PyAV, whose wheel holds FFmpeg, or where PyAV is missing by the program `ffmpeg`.
Shapes: N samples. Samples are float32 in [-1, 1], the mean over the channels.
"""

import contextlib
import importlib.util
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from espnet_larm.data.audio import UNKNOWN_FRAMES, check_finite
from espnet_larm.data.audio_error import AudioError
from espnet_larm.data.stream import resampled, stream_file

# What a folder is searched for.
SUFFIXES = frozenset((
    ".wav", ".flac", ".mp3", ".m4a", ".m4b", ".mp4", ".mov", ".mkv", ".webm", ".ogg", ".oga", ".opus", ".aac", ".wma",
    ".amr", ".3gp", ".aiff", ".aif", ".au", ".caf", ".sph", ".w64", ".avi", ".mka", ".mpg", ".ts",
))  # fmt: skip
# What libsndfile's reader says of content that FFmpeg cannot decode either.
NO_AUDIO = (
    "is no audio: it is a web page",
    "is no audio: it is a Git LFS",
    "is no audio: it is text",
    "packed with gzip",
)
# A container rounds how long its sound is; what is shorter by more has lost its end.
SHORTER_S = 1.0
BLOCK_BYTES = 1 << 18
# FFmpeg follows no names of other files and no addresses inside a file.
ONLY_FILES = {"protocol_whitelist": "file"}


def stream_media(path: Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Yield blocks (N,) of a file at the rate asked for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, truncated, damaged, or no audio. Some of it may have been yielded before.
        ImportError: Only FFmpeg may read it, and there is none.
    """
    blocks = stream_file(path, sample_rate_hz)
    try:
        first = next(blocks, None)
    except AudioError as error:
        if error.kind != "unreadable-audio" or any(words in error.what for words in NO_AUDIO):
            raise
        yield from _by_ffmpeg(path, sample_rate_hz)
        return
    if first is not None:
        yield from itertools.chain([first], blocks)


def promised_seconds(path: Path) -> float:
    """How long a file says that it lasts, without decoding it; 0 if it does not say it or is no audio."""
    # TypeError: a name ends in .raw, which libsndfile reads no header of.
    with contextlib.suppress(soundfile.LibsndfileError, TypeError):
        info = soundfile.info(path)
        return 0.0 if info.frames == UNKNOWN_FRAMES else float(info.duration)
    if importlib.util.find_spec("av") is None:
        return 0.0
    import av

    with contextlib.suppress(av.FFmpegError), av.open(str(path), options=ONLY_FILES) as container:
        return max((_promised_s(container, stream) for stream in container.streams.audio[:1]), default=0.0)
    return 0.0


def _by_ffmpeg(path: Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    if importlib.util.find_spec("av") is not None:
        return _by_pyav(path, sample_rate_hz)
    if shutil.which("ffmpeg") is not None:
        return _by_program(path, sample_rate_hz)
    raise ImportError(f"{path} needs FFmpeg, which is not here: pip install av, or install the program ffmpeg.")


def _by_pyav(path: Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    import av

    try:
        with av.open(str(path), options=ONLY_FILES) as container:
            if not container.streams.audio:
                raise AudioError(
                    "unreadable-audio", f"{path} holds no sound, only pictures or text", "name another file"
                )
            stream = container.streams.audio[0]
            rate = stream.rate
            blocks = _checked(path, _frames(container, stream), rate, _promised_s(container, stream))
            yield from blocks if rate == sample_rate_hz else resampled(blocks, rate, sample_rate_hz)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        said = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise AudioError("unreadable-audio", f"{path} is no audio, or damaged ({said})", "replace it") from error


def _frames(container: Any, stream: Any) -> Iterator[np.ndarray]:
    """Blocks (N,) of a stream. The resampler makes floats of what the codec gives, and keeps its rate."""
    import av

    resampler = av.AudioResampler(format="fltp", rate=stream.rate)
    for frame in itertools.chain(container.decode(stream), [None]):
        for converted in resampler.resample(frame):
            yield converted.to_ndarray().mean(axis=0, dtype=np.float32)


def _promised_s(container: Any, stream: Any) -> float:
    """How many seconds the sound lasts as its container says; 0 if it does not, or says it of pictures too."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration) / 1e6
    return 0.0


def _checked(path: Path, blocks: Iterator[np.ndarray], rate: int, promised_s: float) -> Iterator[np.ndarray]:
    """The same blocks, if they are finite numbers and as many as promised."""
    position = 0
    for block in blocks:
        check_finite(str(path), block, position)
        position += len(block)
        yield block
    if position == 0:
        raise AudioError("empty-audio", f"{path} holds no samples")
    if position / rate < promised_s - max(SHORTER_S, 0.01 * promised_s):
        what = f"{path} is truncated: {position / rate:.1f} of {promised_s:.1f} s"
        raise AudioError("truncated-audio", what, "replace it")


def _by_program(path: Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}", "-vn", "-f", "f32le", "-ac", "1"]
    return _checked(path, _output_of(path, [*command, "-ar", str(sample_rate_hz), "-"]), sample_rate_hz, 0.0)


def _output_of(path: Path, command: list[str]) -> Iterator[np.ndarray]:
    """Blocks (N,) of the floats that a command writes."""
    # A file, not a pipe, which would fill up while nobody reads it.
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        # read() of a buffered pipe waits for a whole block, but at the end.
        while block := process.stdout.read(BLOCK_BYTES):
            yield np.frombuffer(block[: len(block) // 4 * 4], dtype="<f4")
        if process.wait():
            errors.seek(0)
            said = " ".join(errors.read().decode(errors="replace").split())
            raise AudioError("unreadable-audio", f"{path} is no audio, or damaged ({said})", "replace it")
