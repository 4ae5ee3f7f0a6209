"""Audio as callers have it: a path, samples with their rate, or an array; all become blocks at the rate of a model.

Shapes: N samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espnet_larm.data.media import promised_seconds, stream_media
from espnet_larm.data.stream import resampled
from espnet_larm.errors import DataError

# Samples of integer types have this range.
FULL_SCALE = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}
# Floats may pass 1.0 a little where loud audio was resampled; numbers beyond this are in another unit.
MOST = 8.0
BLOCK_SECONDS = 5.0
ALLOWED = "allowed: a path, a pair (samples, sample rate), or samples with sample_rate="

Samples = np.ndarray
Audio = str | Path | Samples | tuple[Samples, int]


def open_blocks(audio: Audio, sample_rate: int | None, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Blocks (N,) of one recording, at the rate of a model.

    Args:
        audio: The recording.
        sample_rate: The rate of samples that come without one, in Hz.
        sample_rate_hz: The rate of the model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Samples have another shape than (N,), are not finite, or their rate is missing; or the file is
            damaged, or no audio.
        TypeError: It is no audio.
    """
    if isinstance(audio, str | Path):
        if sample_rate is not None:
            raise ValueError(f"sample_rate is {sample_rate}, but {audio} is a path: a file says its rate itself.")
        return stream_media(Path(audio), sample_rate_hz)
    if _is_pair(audio):
        samples, rate = audio
        if sample_rate is not None:
            raise ValueError(f"sample_rate is {sample_rate}, but the samples come with their rate, {rate}.")
    else:
        samples, rate = audio, sample_rate
    samples = _checked(samples)
    if rate is None:
        raise ValueError("sample_rate is missing; samples need their rate in Hz, sample_rate=16000 for example.")
    if not 1 <= rate <= 1_000_000:
        raise ValueError(f"sample_rate is {rate}; allowed: 1 to 1000000.")
    blocks = np.split(samples, range(int(BLOCK_SECONDS * rate), len(samples), max(1, int(BLOCK_SECONDS * rate))))
    return iter(blocks) if rate == sample_rate_hz else resampled(blocks, int(rate), sample_rate_hz)


def refuse_longer(
    audio: Audio, blocks: Iterable[np.ndarray], sample_rate_hz: int, most_s: float
) -> Iterator[np.ndarray]:
    """The same blocks (N,), up to a length.

    Args:
        audio: Where they come from. A file that says itself that it is longer is refused before it is read.
        blocks: What `open_blocks` gave.
        sample_rate_hz: Their rate.
        most_s: The longest recording that is allowed, in seconds.

    Raises:
        DataError: The recording is longer.
    """
    name = audio if isinstance(audio, str | Path) else "the recording"
    seconds = promised_seconds(Path(audio)) if isinstance(audio, str | Path) else 0.0
    if seconds > most_s:
        raise DataError(f"{name} lasts {seconds:.0f} s; allowed: up to {most_s:g} s.")
    num_samples = 0
    for block in blocks:
        num_samples += len(block)
        if num_samples > most_s * sample_rate_hz:
            raise DataError(f"{name} lasts longer than it says; allowed: up to {most_s:g} s.")
        yield block


def _is_pair(audio: Any) -> bool:
    is_rate = isinstance(audio, Sequence) and len(audio) == 2 and isinstance(audio[1], int | np.integer)
    return isinstance(audio, tuple) and is_rate


def _checked(samples: Any) -> np.ndarray:
    """Samples (N,) as floats in [-1, 1]."""
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu().numpy()
    if not isinstance(samples, np.ndarray):
        raise TypeError(f"audio is a {type(samples).__name__}; {ALLOWED}.")
    if samples.ndim != 1:
        raise ValueError(
            f"samples have the shape {samples.shape}; allowed: one dimension. Take a channel, or the mean over them."
        )
    if len(samples) == 0:
        raise ValueError("samples are empty; there is nothing to recognise.")
    if scale := FULL_SCALE.get(samples.dtype):
        return (samples / scale).astype(np.float32)
    if samples.dtype.kind != "f":
        raise TypeError(f"samples are of type {samples.dtype}; allowed: float32, float64, int16, int32.")
    if not np.isfinite(samples).all():
        raise ValueError("samples are not all finite numbers; replace NaN and infinity.")
    if (largest := np.abs(samples).max()) > MOST:
        raise ValueError(f"samples go up to {largest:g}; floats lie in [-1, 1]: divide 16-bit samples by 32768.")
    return samples.astype(np.float32)
