"""Cuts a stream of audio into pieces that a model can take, at silences where there are any.

Each silence is a cut, in its middle: a model trained on utterances is at its best on utterances. Silent is what lies in
the lower half between the background and the speech of the seconds around, so that changing noise and distance matter
little. Where nothing is silent for too long, two pieces overlap, and what both gave is joined later (`joining.py`).
Shapes: N samples, T frames of 10 ms.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

FRAME_SECONDS = 0.01
SMOOTHED_FRAMES = 5
# Pauses between words are shorter mostly, and closures of consonants much shorter.
SILENCE_SECONDS = 0.4
# Seconds to each side that background and speech are measured in.
CONTEXT_SECONDS = 2.0
BACKGROUND_PERCENT, SPEECH_PERCENT = 5, 90
SILENT_PART = 0.5
LEAST_RANGE_DB = 10.0
FLOOR_DB = -100.0
CHUNK_SECONDS = 1.0
# Padded audio of the pieces that are recognised together.
BATCH_SECONDS = 60.0


class Cutting(NamedTuple):
    """How to cut, in seconds.

    Attributes:
        whole_s: Audio up to this is not cut; 40 leaves the utterances of usual corpora alone.
        longest_s: No piece of cut audio is longer.
        shortest_s: No piece is shorter, except the last. 1 for models trained on utterances of a few seconds; more
            gives a model that was trained on long ones more to go by.
        overlap_s: What two pieces have in common where there is no silence.
    """

    whole_s: float
    longest_s: float
    shortest_s: float
    overlap_s: float


class Piece(NamedTuple):
    """A part of the audio.

    Attributes:
        start: Its first sample's index in the whole.
        samples: (N,).
        overlap: Samples that it has in common with the piece before.
        is_whole: Whether it is all the audio.
    """

    start: int
    samples: np.ndarray
    overlap: int
    is_whole: bool = False


def cut(blocks: Iterable[np.ndarray], sample_rate_hz: int, cutting: Cutting) -> Iterator[Piece]:
    """Pieces in order. Together they hold every sample, those of overlaps twice; the blocks' lengths do not matter.

    Args:
        blocks: Samples (N,) each, of any length.
        sample_rate_hz: The rate of the samples.
        cutting: How to cut.
    """
    whole, longest, shortest, common = (int(seconds * sample_rate_hz) for seconds in cutting)
    context = int(CONTEXT_SECONDS * sample_rate_hz)
    chunks = _chunks(blocks, int(CHUNK_SECONDS * sample_rate_hz))
    rest, ended = _fill(np.zeros(0, dtype=np.float32), chunks, max(whole, longest + context))
    if ended and len(rest) <= whole:
        yield Piece(0, rest, 0, is_whole=True)
        return
    start = overlap = 0
    while True:
        silences = find_silences(rest, sample_rate_hz, ended=ended)
        # A piece must not end before the silence at its end is known for one.
        most = longest if ended else longest + context
        position = 0
        while True:
            middle = next((middle for middle in silences if middle - position >= overlap + shortest), None)
            if middle is not None and middle - position <= longest:
                yield Piece(start + position, rest[position:middle], overlap)
                position, overlap = middle, 0
            elif len(rest) - position > most:
                yield Piece(start + position, rest[position : position + longest], overlap)
                position, overlap = position + longest - common, common
            else:
                break
        if ended:
            yield Piece(start + position, rest[position:], overlap, is_whole=start + position == 0)
            return
        start += position
        # A copy, or the whole buffer would live as long as its rest.
        rest, ended = _fill(rest[position:].copy(), chunks, max(whole, longest + context))


def batches(pieces: Iterable[Piece], max_padded: float) -> Iterator[list[Piece]]:
    """Yield pieces in order, as many at once as their padded samples allow; one at least."""
    batch: list[Piece] = []
    longest = 0
    for piece in pieces:
        longest = max(longest, len(piece.samples))
        if batch and longest * (len(batch) + 1) > max_padded:
            yield batch
            batch, longest = [], len(piece.samples)
        batch.append(piece)
    if batch:
        yield batch


def find_silences(samples: np.ndarray, sample_rate_hz: int, *, ended: bool) -> list[int]:
    """Middles of the silences of at least SILENCE_SECONDS.

    Args:
        samples: (N,).
        sample_rate_hz: The rate of the samples.
        ended: Whether nothing follows; otherwise silences without their whole context are left for later.
    """
    step = int(FRAME_SECONDS * sample_rate_hz)
    silent = _silent_frames(_levels_db(samples, step))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent, [0]])))
    last = len(silent) - (0 if ended else round(CONTEXT_SECONDS / FRAME_SECONDS))
    return [
        int(begin + end) // 2 * step
        for begin, end in edges.reshape(-1, 2)
        if end - begin >= round(SILENCE_SECONDS / FRAME_SECONDS) and end <= last
    ]


def _levels_db(samples: np.ndarray, step: int) -> np.ndarray:
    """Power of each frame in decibels (T,), smoothed."""
    frames = samples[: len(samples) // step * step].reshape(-1, step)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    levels = 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))
    return _windows(levels, SMOOTHED_FRAMES).mean(axis=1)


def _silent_frames(levels: np.ndarray) -> np.ndarray:
    """1 where a frame is silent beside those around it, else 0 (T,)."""
    around = _windows(levels, 2 * round(CONTEXT_SECONDS / FRAME_SECONDS) + 1)
    background, speech = np.percentile(around, [BACKGROUND_PERCENT, SPEECH_PERCENT], axis=1)
    has_range = speech - background >= LEAST_RANGE_DB
    return (has_range & (levels <= background + SILENT_PART * (speech - background))).astype(np.int8)


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    """The values around each one (T, width), mirrored at the ends."""
    if len(values) == 0:
        return np.zeros((0, width))
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, width // 2, mode="symmetric"), width)


def _chunks(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in arrays of one size; the last may be shorter."""
    held: list[np.ndarray] = []
    num_held = 0
    for block in blocks:
        held.append(block)
        num_held += len(block)
        if num_held >= size:
            samples = np.concatenate(held)
            whole = num_held // size * size
            yield from np.split(samples[:whole], whole // size)
            held, num_held = [samples[whole:]], num_held - whole
    if num_held:
        yield np.concatenate(held)


def _fill(rest: np.ndarray, chunks: Iterator[np.ndarray], size: int) -> tuple[np.ndarray, bool]:
    """`rest` and more, until it is longer than `size`; and whether nothing is left."""
    taken, num_taken = [rest], len(rest)
    for chunk in chunks:
        taken.append(chunk)
        num_taken += len(chunk)
        if num_taken > size:
            return np.concatenate(taken), False
    return np.concatenate(taken), True
