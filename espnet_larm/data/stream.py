"""Audio read block by block, so that an hour takes no more memory than a minute.

Shapes: N samples. Samples are float32 in [-1, 1], the mean over the channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from espnet_larm.data.audio import open_file, open_source

BLOCK_SECONDS = 5.0
QUALITY = "HQ"


def stream_source(source: str, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Yield blocks (N,) of what a `wav.scp` names: a file, an entry of an archive, or the output of a command.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, no audio, empty, not finite, of another rate, or the command failed. Some of it may
            have been yielded before.
    """
    with open_source(source) as stream:
        yield from _read(source, stream, sample_rate_hz, resample=False)


def stream_file(path: Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Yield blocks (N,) of a file of any format that libsndfile knows, at the rate asked for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, no audio, empty or not finite. Some of it may have been yielded before.
    """
    with open_file(str(path)) as stream:
        yield from _read(str(path), stream, sample_rate_hz, resample=True)


def count_samples(source: str) -> int:
    """Count the samples of what a `wav.scp` names, from its header alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no audio, or the command failed.
    """
    with open_source(source) as stream, _open_audio(source, stream) as file:
        return file.frames


@contextmanager
def _open_audio(source: str, stream: BinaryIO) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(stream) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{source} is truncated or no audio ({error}); replace it.") from error


def _read(source: str, stream: BinaryIO, sample_rate_hz: int, *, resample: bool) -> Iterator[np.ndarray]:
    with _open_audio(source, stream) as file:
        if file.samplerate != sample_rate_hz and not resample:
            raise ValueError(
                f"{source} has {file.samplerate} Hz, the model was trained on {sample_rate_hz} Hz; "
                "convert it (stage 3 of the recipes does)."
            )
        blocks = _mono_blocks(source, file)
        yield from blocks if file.samplerate == sample_rate_hz else _resampled(blocks, file.samplerate, sample_rate_hz)


def _mono_blocks(source: str, file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    num_samples = 0
    while len(block := file.read(int(BLOCK_SECONDS * file.samplerate), dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise ValueError(f"{source} holds samples that are not finite numbers; replace it.")
        num_samples += len(block)
        yield block.mean(axis=1) if file.channels > 1 else block[:, 0]
    if num_samples == 0:
        raise ValueError(f"{source} holds no samples; replace it.")
    if num_samples < file.frames:
        raise ValueError(f"{source} is truncated: {num_samples} of {file.frames} samples; replace it.")


def _resampled(blocks: Iterator[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=QUALITY)
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
