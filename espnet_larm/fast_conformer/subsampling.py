"""FastConformer's subsampling: strided convolutions over time and frequency, depthwise-separable behind the first.

Source: Rekesh et al., "Fast Conformer with Linearly Scalable Attention for Efficient Speech Recognition",
arXiv:2305.05084, section 3; causal padding from Noroozi et al., arXiv:2312.17279. Departure: what lies behind an
utterance's length is zero in every layer, so that padding changes nothing.
Shapes: B utterances, T frames, F features, C channels, D model size.
"""

import torch
from torch.nn import functional

from espnet_larm.streaming.past import Past
from espnet_larm.streaming.stream import Chunk
from espnet_larm.upstream import TooShortUttError

KERNEL, STRIDE = 3, 2
FACTORS = (2, 4, 8, 16)
# More frames than any stream has.
ENDLESS = 2**62


class Stage(torch.nn.Module):
    """One strided convolution and, but in the first stage, the pointwise one behind it."""

    def __init__(self, in_channels: int, channels: int, padding: tuple[int, int]) -> None:
        super().__init__()
        self.depthwise_conv = torch.nn.Conv2d(in_channels, channels, KERNEL, STRIDE, groups=in_channels)
        self.pointwise_conv = torch.nn.Conv2d(channels, channels, 1) if in_channels > 1 else None
        self.padding = padding

    def forward(self, maps: torch.Tensor, past: Past | None = None) -> torch.Tensor:
        """(B, C, T, F) to (B, C, T', F'); of a stream, one frame of the past stands before the chunk's."""
        maps = functional.pad(maps, self.padding)
        if past is None:
            maps = functional.pad(maps, (0, 0, *self.padding))
        else:
            maps = past.extend(maps, KERNEL - STRIDE, dim=2)
        maps = self.depthwise_conv(maps)
        return maps if self.pointwise_conv is None else self.pointwise_conv(maps)


class FastConformerSubsampling(torch.nn.Module):
    """Stages, each of which halves frames and features, and a projection to the model size.

    Args:
        input_size: F of the features.
        output_size: D.
        factor: Input frames an output frame, one of FACTORS.
        channels: C.
        causal: Output frame t sees input frames up to `factor` t alone: there is no look-ahead.
    """

    min_length = 1

    def __init__(self, input_size: int, output_size: int, factor: int, channels: int, causal: bool) -> None:
        super().__init__()
        self.factor = factor
        # Input frame at which the first output frame is centred; its kernels reach as far to both sides.
        self.centre = 1.0 - factor if causal else 0.0
        # Before and behind: the last frame of a causal kernel is the present one, and one more completes a pair.
        self.padding = (KERNEL - 1, STRIDE - 1) if causal else (KERNEL // 2, KERNEL // 2)
        self.stages = torch.nn.ModuleList(
            Stage(channels if number else 1, channels, self.padding) for number in range(FACTORS.index(factor) + 1)
        )
        self.linear = torch.nn.Linear(channels * int(self.output_lens(torch.tensor(input_size))), output_size)

    @property
    def lead(self) -> int:
        """Zeros before a stream, so that its first frame has as many features as any other."""
        return self.factor - 1

    def output_lens(self, ilens: torch.Tensor) -> torch.Tensor:
        """Frames (B,) after it, for (B,) frames before."""
        for _ in self.stages:
            ilens = self._halved(ilens)
        return ilens

    def forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Subsample a padded batch.

        Args:
            xs_pad: Features (B, T, F).
            ilens: Valid frames (B,) of xs_pad.

        Returns:
            Frames (B, T', D) and their valid lengths (B,).

        Raises:
            TooShortUttError: An utterance has no frame.
        """
        shortest, longest = torch.stack(ilens.aminmax()).tolist()
        if shortest < 1:
            raise TooShortUttError("an utterance has no frame; drop it or pad it", shortest, 1)
        begins = torch.zeros_like(ilens)
        maps = _between(xs_pad[:, :longest].unsqueeze(1), begins, ilens)
        for stage in self.stages:
            ilens = self._halved(ilens)
            maps = functional.relu(_between(stage(maps), begins, ilens))
        return self._project(maps), ilens

    def stream(self, chunk: Chunk) -> torch.Tensor:
        """Subsample a chunk of each of R streams, causally: (R, T, F) to (R, T', D).

        A stream begins with `lead` zeros, so that each of its frames has `factor` features.
        """
        # The number of the first frame here in its stream, and of all up to its end; zeros complete the last ones.
        begins = self.factor * chunk.starts - self.lead
        lens = torch.where(chunk.is_last, begins + chunk.ilens, ENDLESS)
        maps = functional.pad(chunk.xs_pad, (0, 0, 0, -chunk.xs_pad.size(1) % self.factor)).unsqueeze(1)
        for stage in self.stages:
            lens = torch.where(chunk.is_last, self._halved(lens), ENDLESS)
            begins = torch.div(begins + 1, STRIDE, rounding_mode="floor")
            maps = functional.relu(_between(stage(maps, chunk.past), -begins, lens - begins))
        return self._project(maps)

    def _halved(self, lens: torch.Tensor) -> torch.Tensor:
        """Frames (B,) after a stage, for (B,) before it; the same of features."""
        return torch.div(lens + sum(self.padding) - KERNEL, STRIDE, rounding_mode="floor") + 1

    def _project(self, maps: torch.Tensor) -> torch.Tensor:
        return self.linear(maps.transpose(1, 2).flatten(2))


def _between(maps: torch.Tensor, begins: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(B, C, T, F) with zeros at frames before `begins` (B,), and from `ends` (B,) on."""
    steps = torch.arange(maps.size(2), device=maps.device)
    outside = (steps < begins.unsqueeze(1)) | (steps >= ends.unsqueeze(1))
    return maps.masked_fill(outside[:, None, :, None], 0.0)
