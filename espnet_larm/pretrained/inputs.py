"""What speech encoders of transformers read, computed in torch on the waveform's device.

The feature extractors of transformers are numpy, and take one utterance after the other on the CPU; these equal them
(tests/pretrained/test_inputs.py).
Shapes: B utterances, N samples, M mel bands, T frames.
"""

from typing import NamedTuple

import torch

from espnet_larm.llm.hugging_face import mel_filter_bank

WHISPER_SECONDS = 30
# Of Parakeet's logarithm and of its division by standard deviations.
LOG_FLOOR, STD_FLOOR = 2**-24, 1e-5


class Mel(NamedTuple):
    """A bank of triangular filters, as librosa's slaney makes them.

    Attributes:
        num_bands: M.
        num_bins: Samples of a transform, a power of two or not.
        highest_hz: Upper edge of the last filter.
        rate_hz: Sample rate of the waveform.
    """

    num_bands: int
    num_bins: int
    highest_hz: float
    rate_hz: int

    def filters(self) -> torch.Tensor:
        """(M, bins // 2 + 1), float32."""
        bank = mel_filter_bank(
            num_frequency_bins=self.num_bins // 2 + 1,
            num_mel_filters=self.num_bands,
            min_frequency=0.0,
            max_frequency=self.highest_hz,
            sampling_rate=self.rate_hz,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(bank).float().T.contiguous()


class WhisperMel(torch.nn.Module):
    """Log mel spectrum of windows of 30 s: base 10, at most 8 below the window's loudest, shifted and scaled.

    Args:
        num_bands: M; 80, and 128 from large-v3 on.
        rate_hz: Sample rate of the waveform.
    """

    NUM_BINS, HOP = 400, 160

    def __init__(self, num_bands: int, rate_hz: int) -> None:
        super().__init__()
        mel = Mel(num_bands, self.NUM_BINS, 8000.0, rate_hz)
        self.register_buffer("filters", mel.filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.NUM_BINS), persistent=False)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, N) to (B, M, N // 160)."""
        spectrum = torch.stft(windows, self.NUM_BINS, self.HOP, window=self.get_buffer("window"), return_complex=True)
        power = (spectrum[..., :-1].abs() ** 2).contiguous()
        log = (self.get_buffer("filters") @ power).clamp(min=1e-10).log10()
        return (torch.maximum(log, log.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


class ParakeetMel(torch.nn.Module):
    """Natural logarithm of the mel spectrum after pre-emphasis, each band normalised over the valid frames.

    Args:
        num_bands: M.
        rate_hz: Sample rate of the waveform.
        num_bins: Samples of a transform.
        win_length: Samples of its window.
        hop: Samples between frames.
        preemphasis: How much of the sample before is taken off; None for nothing.
    """

    def __init__(
        self, num_bands: int, rate_hz: int, num_bins: int, win_length: int, hop: int, preemphasis: float | None
    ) -> None:
        super().__init__()
        self.num_bins, self.win_length, self.hop, self.preemphasis = num_bins, win_length, hop, preemphasis
        self.register_buffer("filters", Mel(num_bands, num_bins, rate_hz / 2, rate_hz).filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(win_length, periodic=False), persistent=False)

    def forward(self, waveforms: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N) and valid samples (B,) to (B, T, M) and valid frames (B,); zero behind them."""
        if self.preemphasis is not None:
            shifted = waveforms[:, 1:] - self.preemphasis * waveforms[:, :-1]
            waveforms = torch.cat([waveforms[:, :1], shifted], dim=1)
        spectrum = torch.stft(
            waveforms.masked_fill(~valid(lens, waveforms.size(1)), 0.0),
            self.num_bins,
            self.hop,
            self.win_length,
            self.get_buffer("window"),
            pad_mode="constant",
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).pow(2).sum(-1)
        frames = (self.get_buffer("filters") @ power + LOG_FLOOR).log().transpose(1, 2)
        num_frames = torch.div(lens, self.hop, rounding_mode="floor")
        return _normalised(frames, num_frames), num_frames


def _normalised(frames: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    mask, count = valid(lens, frames.size(1)).unsqueeze(-1), lens[:, None, None]
    mean = (frames * mask).sum(1, keepdim=True) / count
    variance = ((frames - mean) ** 2 * mask).sum(1, keepdim=True) / (count - 1)
    return (frames - mean) / (variance.sqrt() + STD_FLOOR) * mask


def unit_variance(waveforms: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """Waveforms (B, N) with zero mean and unit variance over the valid samples (B,); zero behind them."""
    mask, count = valid(lens, waveforms.size(1)), lens[:, None]
    mean = (waveforms * mask).sum(1, keepdim=True) / count
    variance = ((waveforms - mean) ** 2 * mask).sum(1, keepdim=True) / count
    return (waveforms - mean) / (variance + 1e-7).sqrt() * mask


def valid(lens: torch.Tensor, size: int) -> torch.Tensor:
    """A mask (B, size) that is True before the lengths (B,)."""
    return torch.arange(size, device=lens.device)[None, :] < lens[:, None]
