"""A picture of sound for the page: log mel levels as bytes.

Shapes: N samples, T columns, F bands.
"""

import base64
from typing import Any, NamedTuple

import numpy as np
import torch

NUM_BANDS = 64
WINDOW_S = 0.025
SHORTEST_HOP_S = 0.01
# A column takes 64 bytes; longer audio has fewer of them a second.
MOST_COLUMNS = 12_000
# What is softer by this than the loudest is not seen.
RANGE_DB = 70.0


class Spectrogram(NamedTuple):
    """Levels of sound.

    Attributes:
        hop_s: Seconds between columns; the first is centred at 0.
        levels: (T, F), low bands first, 0 for what is `RANGE_DB` or more below the loudest and 255 for that.
    """

    hop_s: float
    levels: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """The same as JSON: the bytes of one column after the other, in base64."""
        num_columns, num_bands = self.levels.shape
        data = base64.b64encode(self.levels.tobytes()).decode()
        return {"hop_s": self.hop_s, "num_columns": num_columns, "num_bands": num_bands, "levels": data}


def spectrogram_of(samples: np.ndarray, sample_rate_hz: int) -> Spectrogram:
    """Compute the spectrogram of a recording.

    Args:
        samples: (N,) in [-1, 1], at least one.
        sample_rate_hz: Their rate.
    """
    from torchaudio.transforms import MelSpectrogram

    hop = max(round(SHORTEST_HOP_S * sample_rate_hz), len(samples) // MOST_COLUMNS + 1)
    window = round(WINDOW_S * sample_rate_hz)
    mel = MelSpectrogram(
        sample_rate_hz, n_fft=1024, win_length=window, hop_length=hop, n_mels=NUM_BANDS, pad_mode="constant"
    )
    energies = mel(torch.from_numpy(samples).float())  # (F, T)
    loudest = energies.max().clamp(min=1e-10)
    levels_db = 10 * (energies / loudest).clamp(min=10 ** (-RANGE_DB / 10)).log10()
    levels = ((levels_db / RANGE_DB + 1) * 255).round().to(torch.uint8)
    return Spectrogram(hop / sample_rate_hz, levels.T.contiguous().numpy())
