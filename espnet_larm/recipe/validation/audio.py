"""Checks of audio: the second column of `wav.scp` without opening it, then decoded samples.

Shapes: N samples, float32 in [-1, 1].
"""

import functools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_larm.data.audio import AudioHeader, past_end
from espnet_larm.data.source import ARCHIVE_ENTRY, is_archive_entry, is_command, part_of
from espnet_larm.recipe.validation.report import Finding

MAX_PEAK = 2.0  # lossy codecs pass 1 by a little; samples that were never scaled, by far
CLIPPED_LEVEL, MAX_CLIPPED_FRACTION = 0.999, 0.01
# Fast speakers reach 25; a CTC model at 25 frames a second can write no more than that.
MAX_CHARACTERS_PER_S = 50.0


class Bounds(NamedTuple):
    """What audio should be.

    Attributes:
        sample_rate: Sampling rate in Hz.
        min_s: Shortest duration, in seconds.
        max_s: Longest duration, in seconds.
    """

    sample_rate: int = 16000
    min_s: float = 0.1
    max_s: float = 20.0


def check_source(key: str, source: str) -> Iterator[Finding]:
    """Find why a source cannot be read: a look at the name and at the disk.

    Args:
        key: Id of the utterance, named in the finding.
        source: Second column of `wav.scp`; an empty one is reported elsewhere.
    """
    source = part_of(source).recording
    if is_command(source):
        program = (source[:-1].split() or [""])[0]
        # Anything but a plain name or path is for the shell to understand.
        if not program or (re.fullmatch(r"[\w./+-]+", program) and not _is_known_program(program)):
            yield Finding("unknown-program", f"{key}: there is no program {program!r} on this machine")
    elif source:
        try:
            yield from _check_file(key, source)
        except OSError as error:
            yield Finding("missing-audio", f"{key}: {source} cannot be reached ({error.strerror})")


def check_samples(key: str, header: AudioHeader, samples: np.ndarray) -> Iterator[Finding]:
    """Find silence, overload and samples that were never scaled.

    Args:
        key: Id of the utterance, named in the findings.
        header: Header of the source.
        samples: Mean over the channels (N,); N is at least 1, all are finite.
    """
    low, high = float(samples.min()), float(samples.max())
    peak = max(-low, high)
    if low == high:
        of = f" (the sum of {header.num_channels} channels)" if header.num_channels > 1 else ""
        yield Finding("silence", f"{key}: all {len(samples)} samples are {low:g}{of}")
    elif peak > MAX_PEAK:
        yield Finding("bad-samples", f"{key}: samples reach {peak:g}, full scale is 1")
    elif peak >= CLIPPED_LEVEL:
        fraction = float(np.mean(np.abs(samples) >= CLIPPED_LEVEL))
        if fraction > MAX_CLIPPED_FRACTION:
            yield Finding("clipped", f"{key}: {100 * fraction:.0f} % of the samples are at full scale")


def check_segment(key: str, source: str, header: AudioHeader, samples: np.ndarray) -> Iterator[Finding]:
    """Find segments that end a little behind their recording."""
    if late := past_end(source, header, samples):
        yield Finding("segment-past-end", f"{key}: {late}")


def check_header(key: str, header: AudioHeader, bounds: Bounds) -> Iterator[Finding]:
    """Find another rate than the one wanted, and several channels."""
    if header.sample_rate != bounds.sample_rate:
        yield Finding("wrong-format", f"{key}: {header.sample_rate} Hz, wanted are {bounds.sample_rate} Hz")
    if header.num_channels != 1:
        yield Finding("wrong-format", f"{key}: {header.num_channels} channels, wanted is 1")


def check_duration(key: str, duration_s: float, bounds: Bounds) -> Iterator[Finding]:
    """Find durations that stage 4 leaves out of training."""
    if duration_s < bounds.min_s:
        yield Finding("odd-duration", f"{key}: {duration_s:.3f} s, below {bounds.min_s:g}")
    elif duration_s > bounds.max_s:
        yield Finding("odd-duration", f"{key}: {duration_s:.2f} s, above {bounds.max_s:g}")


def check_pace(key: str, text: str, duration_s: float) -> Iterator[Finding]:
    """Find more text than anybody says in that time."""
    if len(text) > MAX_CHARACTERS_PER_S * duration_s:
        yield Finding("too-much-text", f"{key}: {len(text)} characters in {duration_s:.2f} s of audio")


def _check_file(key: str, source: str) -> Iterator[Finding]:
    path, offset = Path(source), 0
    if is_archive_entry(source) and (match := ARCHIVE_ENTRY.fullmatch(source)):
        path, offset = Path(match["path"]), int(match["offset"])
    if not path.is_file():
        from_where = "" if path.is_absolute() else f" (paths count from {Path.cwd()})"
        what = "is no regular file" if path.exists() else f"is missing{from_where}"
        yield Finding("missing-audio", f"{key}: {path} {what}")
    elif path.stat().st_size <= offset:
        yield Finding("empty-audio", f"{key}: {path} has {path.stat().st_size} bytes, audio would begin at {offset}")


@functools.cache
def _is_known_program(name: str) -> bool:
    done = subprocess.run(["sh", "-c", f"command -v {shlex.quote(name)}"], capture_output=True, check=False)
    return done.returncode == 0
