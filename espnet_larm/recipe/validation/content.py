"""What is wrong with decoded audio.

Shapes: N samples, float32 in [-1, 1].
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from espnet_larm.data.audio import AudioHeader
from espnet_larm.recipe.validation.report import Finding

MAX_PEAK = 2.0  # lossy codecs pass 1 by a little; samples that were never scaled, by far
QUIET_PEAK = 0.001  # -60 dB
CLIPPED_LEVEL, MAX_CLIPPED_SHARE = 0.999, 0.01
MAX_OFFSET = 0.1
# Fast speakers reach 25; a CTC model at 25 frames a second can write no more than that.
MAX_CHARACTERS_PER_S = 50.0
MIN_CHARACTERS_PER_S, MIN_S_FOR_LITTLE_TEXT = 0.5, 10.0


class Bounds(NamedTuple):
    """What audio should be.

    Attributes:
        sample_rate: In Hz.
        min_s: Shortest duration, in seconds.
        max_s: Longest duration, in seconds.
    """

    sample_rate: int = 16000
    min_s: float = 0.1
    max_s: float = 20.0


def check_header(key: str, header: AudioHeader, bounds: Bounds) -> Iterator[Finding]:
    """Rate and channels; stage 3 converts what differs."""
    if header.sample_rate != bounds.sample_rate:
        yield Finding("wrong-rate", f"{key}: {header.sample_rate} Hz, wanted are {bounds.sample_rate} Hz")
    if header.num_channels != 1:
        yield Finding("several-channels", f"{key}: {header.num_channels} channels, wanted is 1")


def check_samples(key: str, header: AudioHeader, samples: np.ndarray) -> Iterator[Finding]:
    """Levels: silence, overload, and what stands between them.

    Args:
        key: Id of the utterance, named in the findings.
        header: Of the source.
        samples: (N,), the mean over the channels, N at least 1, all finite.
    """
    low, high = float(samples.min()), float(samples.max())
    peak = max(-low, high)
    if peak == 0.0:
        if header.num_channels > 1:
            yield Finding("silent-mix", f"{key}: its {header.num_channels} channels add up to silence")
        else:
            yield Finding("silence", f"{key}: all {len(samples)} samples are 0")
    elif low == high:
        yield Finding("constant-audio", f"{key}: all {len(samples)} samples are {low:g}")
    elif peak > MAX_PEAK:
        yield Finding("beyond-full-scale", f"{key}: samples reach {peak:g}, full scale is 1")
    elif peak < QUIET_PEAK:
        yield Finding("quiet", f"{key}: samples reach {peak:.2g} of full scale, below {QUIET_PEAK:g}")
    else:
        yield from _check_levels(key, samples, peak)


def check_duration(key: str, duration_s: float, bounds: Bounds) -> Iterator[Finding]:
    """What stage 4 leaves out of training."""
    if duration_s < bounds.min_s:
        yield Finding("too-short", f"{key}: {duration_s:.3f} s, below {bounds.min_s:g}")
    elif duration_s > bounds.max_s:
        yield Finding("too-long", f"{key}: {duration_s:.2f} s, above {bounds.max_s:g}")


def check_pace(key: str, text: str, duration_s: float) -> Iterator[Finding]:
    """Whether somebody can have said this text in this time."""
    if len(text) > MAX_CHARACTERS_PER_S * duration_s:
        yield Finding("too-much-text", f"{key}: {len(text)} characters in {duration_s:.2f} s of audio")
    elif text and len(text) < MIN_CHARACTERS_PER_S * duration_s and duration_s > MIN_S_FOR_LITTLE_TEXT:
        yield Finding("too-little-text", f"{key}: {len(text)} characters in {duration_s:.2f} s of audio")


def _check_levels(key: str, samples: np.ndarray, peak: float) -> Iterator[Finding]:
    if peak >= CLIPPED_LEVEL:
        share = float(np.mean(np.abs(samples) >= CLIPPED_LEVEL))
        if share > MAX_CLIPPED_SHARE:
            yield Finding("clipped", f"{key}: {100 * share:.0f} % of the samples are at full scale")
    if abs(mean := float(samples.mean())) > MAX_OFFSET:
        yield Finding("offset", f"{key}: the mean of the samples is {mean:+.2f}, it should be 0")
