"""Where speech is, so that silence, noise and music are not given to a recogniser, which would write words for them.

Silero's detector comes in a wheel with its weights (MIT) and runs on torch. An energy rule does not tell a tune from a
voice, and the blanks of CTC say nothing about Whisper. It is asked of each piece of cut audio.
Shapes: N samples, T chunks of 32 ms.
"""

import functools
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch

DETECTOR_HZ = 16000
CHUNK_SAMPLES = 512
SPEECH_PROBABILITY = 0.5
# Speech is widened by this, for what is soft at its ends. More is worse for models of short utterances: with 1 s of
# silence around AN4's, a small model got 27 % of the words wrong with 0.2, 35 % with 0.5, and 69 % with all of it.
MARGIN_S = 0.2
# Pauses up to this stay inside a stretch: the recogniser sees sentences whole.
PAUSE_S = 2.0
# A voice that says one letter lasts longer.
SHORTEST_S = 0.06

# Finds speech in waveforms of a rate.
Finder = Callable[[Sequence[np.ndarray], int], list[list["Stretch"]]]


class Stretch(NamedTuple):
    """A part with speech: its first sample, and the one behind its last."""

    start: int
    end: int


def find_speech(samples: np.ndarray, sample_rate_hz: int) -> list[Stretch]:
    """Stretches with speech, in order and apart from each other.

    Args:
        samples: (N,) in [-1, 1].
        sample_rate_hz: Their rate.
    """
    return find_speech_in([samples], sample_rate_hz)[0]


def find_speech_in(waveforms: Sequence[np.ndarray], sample_rate_hz: int) -> list[list[Stretch]]:
    """Stretches with speech of several waveforms (N,), found together; what `find_speech` finds in each.

    A chunk costs nearly the same for one waveform and for several.
    """
    is_other = sample_rate_hz != DETECTOR_HZ
    at_rate = [soxr.resample(each, sample_rate_hz, DETECTOR_HZ) if is_other else each for each in waveforms]
    rows = zip(waveforms, _probabilities(at_rate), strict=True)
    return [_stretches(probabilities, sample_rate_hz, len(samples)) for samples, probabilities in rows]


def _stretches(probabilities: np.ndarray, sample_rate_hz: int, num_samples: int) -> list[Stretch]:
    """Stretches with speech, from the probability of each chunk (T,)."""
    chunk_s = CHUNK_SAMPLES / DETECTOR_HZ
    runs = _runs(probabilities >= SPEECH_PROBABILITY, round(PAUSE_S / chunk_s), round(SHORTEST_S / chunk_s))
    seconds = [(begin * chunk_s - MARGIN_S, end * chunk_s + MARGIN_S) for begin, end in runs]
    return [
        Stretch(max(0, int(start_s * sample_rate_hz)), min(num_samples, int(end_s * sample_rate_hz)))
        for start_s, end_s in seconds
    ]


def _runs(is_speech: np.ndarray, pause: int, shortest: int) -> list[Sequence[int]]:
    """Begin and end of the runs of True (T,), those with short pauses between them as one, without lone chunks."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_speech.astype(np.int8), [0]]))).reshape(-1, 2).tolist()
    runs: list[Sequence[int]] = []
    for begin, end in (edge for edge in edges if edge[1] - edge[0] >= shortest):
        if runs and begin - runs[-1][1] <= pause:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((begin, end))
    return runs


# The model keeps a state from chunk to chunk.
_in_use = threading.Lock()


@torch.no_grad()
def _probabilities(waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The probability of speech of each waveform's chunks (T,); the last chunk is filled with zeros."""
    nums_chunks = [max(1, math.ceil(len(samples) / CHUNK_SAMPLES)) for samples in waveforms]
    padded = torch.zeros(len(waveforms), max(nums_chunks) * CHUNK_SAMPLES)
    for row, samples in zip(padded, waveforms, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    with _in_use:
        chunks: torch.Tensor = _detector().audio_forward(padded, DETECTOR_HZ)
    # Chunks are read from left to right: zeros behind a waveform change none of its own.
    return [row[:num_chunks].numpy() for row, num_chunks in zip(chunks, nums_chunks, strict=True)]


@functools.cache
def _detector() -> Any:
    from silero_vad import load_silero_vad

    with warnings.catch_warnings():
        # torch deprecates the form that the weights come in.
        warnings.simplefilter("ignore", FutureWarning)
        return load_silero_vad()
