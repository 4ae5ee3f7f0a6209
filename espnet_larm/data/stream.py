"""Audio read block by block, so that an hour takes no more memory than a minute.

Shapes: N samples. Samples are float32 in [-1, 1], the mean over the channels.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soxr

from espnet_larm.data.audio import UNKNOWN_FRAMES, mono_blocks, open_audio
from espnet_larm.data.source import open_file, open_source, part_of

QUALITY = "HQ"


class Extent(NamedTuple):
    """How long audio is.

    Attributes:
        num_samples: Number of its samples.
        rate_hz: Its sample rate.
    """

    num_samples: int
    rate_hz: int


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
    """Count the samples of what a `wav.scp` names, as `read_extent` does."""
    return read_extent(source).num_samples


def read_extent(source: str) -> Extent:
    """Number of samples and rate of what a `wav.scp` names, from its header alone if that says it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no audio, or the command failed.
    """
    with open_source(source) as stream, open_audio(source, stream) as file:
        if file.frames == UNKNOWN_FRAMES:
            return Extent(sum(map(len, mono_blocks(source, file))), file.samplerate)
        part = part_of(source)
        end_s = min(part.end_s, file.frames / file.samplerate)
        count = round(end_s * file.samplerate) - round(part.start_s * file.samplerate)
        return Extent(max(0, count), file.samplerate)


def _read(source: str, stream: BinaryIO, sample_rate_hz: int, *, resample: bool) -> Iterator[np.ndarray]:
    with open_audio(source, stream) as file:
        if file.samplerate != sample_rate_hz and not resample:
            raise ValueError(
                f"{source} has {file.samplerate} Hz, the model was trained on {sample_rate_hz} Hz; "
                "convert it (stage 3 of the recipes does)."
            )
        blocks = mono_blocks(source, file)
        yield from blocks if file.samplerate == sample_rate_hz else resampled(blocks, file.samplerate, sample_rate_hz)


def resampled(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Yield blocks (N,) at another rate, as one signal, whatever the lengths of the blocks."""
    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=QUALITY)
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
