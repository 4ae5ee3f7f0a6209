"""A picture of sound for the page: log mel levels as bytes, in memory that hardly grows with the length of the sound.

Shapes: N samples, T columns, F bands.
"""

import base64
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

NUM_BANDS = 64
NUM_POINTS = 1024
WINDOW_S = 0.025
HOP_S = 0.01
# A column takes 64 bytes. Of longer audio a picture has fewer columns a second.
MOST_COLUMNS = 12_000
# Levels while the loudest is not known yet: steps of half a decibel below what a tone of full scale has.
STEPS_PER_DB = 2
MOST_DB = 45.0
# What is softer by this than the loudest is not seen.
RANGE_DB = 70.0


class Spectrogram(NamedTuple):
    """Levels of sound.

    Attributes:
        seconds: Length of the sound.
        hop_s: Seconds between columns; the first is centred at 0.
        levels: (T, F), low bands first, 0 for what is `RANGE_DB` or more below the loudest and 255 for that.
    """

    seconds: float
    hop_s: float
    levels: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """The same as JSON: the bytes of one column after the other, in base64."""
        num_columns, num_bands = self.levels.shape
        data = base64.b64encode(self.levels.tobytes()).decode()
        return {
            "seconds": self.seconds,
            "hop_s": self.hop_s,
            "num_columns": num_columns,
            "num_bands": num_bands,
            "levels": data,
        }


def spectrogram_of(blocks: Iterable[np.ndarray], sample_rate_hz: int) -> Spectrogram:
    """Compute the spectrogram of a recording.

    Args:
        blocks: Samples (N,) each in [-1, 1]; their lengths do not matter.
        sample_rate_hz: Their rate.

    Raises:
        ValueError: What `blocks` raises.
    """
    num_samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal num_samples
        for block in blocks:
            num_samples += len(block)
            yield block

    hop = round(HOP_S * sample_rate_hz)
    columns = np.concatenate(list(_columns(counted(), sample_rate_hz, hop)))
    together = -(-len(columns) // MOST_COLUMNS)
    padded = np.pad(columns, ((0, -len(columns) % together), (0, 0)))
    # Of columns that become one, the loudest levels are seen.
    levels = padded.reshape(-1, together, NUM_BANDS).max(axis=1).astype(np.float32)
    steps = RANGE_DB * STEPS_PER_DB
    seen = np.clip(1 + (levels - levels.max()) / steps, 0, 1) if levels.any() else levels
    return Spectrogram(num_samples / sample_rate_hz, together * hop / sample_rate_hz, (255 * seen).astype(np.uint8))


def _columns(blocks: Iterable[np.ndarray], sample_rate_hz: int, hop: int) -> Iterator[np.ndarray]:
    """Levels (T, F) in steps, of the samples as they come; a column is centred at each hop."""
    from torchaudio.functional import melscale_fbanks

    bands = melscale_fbanks(NUM_POINTS // 2 + 1, 0.0, sample_rate_hz / 2, NUM_BANDS, sample_rate_hz)
    size = round(WINDOW_S * sample_rate_hz)
    side = (NUM_POINTS - size) // 2
    window = torch.nn.functional.pad(torch.hann_window(size), (side, NUM_POINTS - size - side))
    edge = np.zeros(NUM_POINTS // 2, np.float32)
    rest = edge
    for block in itertools.chain(blocks, [edge]):
        rest = np.concatenate([rest, block])
        if len(rest) < NUM_POINTS:
            continue
        frames = torch.from_numpy(rest).unfold(0, NUM_POINTS, hop) * window
        levels_db = 10 * (torch.fft.rfft(frames).abs().square() @ bands).clamp(min=1e-20).log10()
        steps = 255 + STEPS_PER_DB * (levels_db - MOST_DB)
        yield steps.clamp(0, 255).round().to(torch.uint8).numpy()
        rest = rest[len(frames) * hop :]
