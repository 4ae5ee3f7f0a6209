"""Subsampling whose output lengths are exact: convolutions over filter banks, or learned features side by side.

ESPnet's Conv2dSubsampling derives lengths by slicing masks, which disagrees with the convolution's own arithmetic.
Here every layer is an unpadded 3 x 3 convolution of stride 2: n frames give exactly (n - 1) // 2, and no output
below that length sees a frame beyond the input's, so that padding changes nothing (test_padding_changes_nothing).
Shapes: B utterances, T frames, F features, C channels, D model size.
"""

import torch

from espnet_larm.upstream import TooShortUttError

FACTORS = (2, 4, 8)
CONV, LINEAR = KINDS = ("conv", "linear")


class LinearSubsampling(torch.nn.Module):
    """Frames of learned features side by side, normalised, through a linear layer; zeros complete the last ones.

    Args:
        input_size: F of the features.
        output_size: D.
        factor: Input frames an output frame.
    """

    min_length = 1
    look_ahead = 0

    def __init__(self, input_size: int, output_size: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.norm = torch.nn.LayerNorm(input_size)
        self.out = torch.nn.Linear(factor * input_size, output_size)

    @property
    def centre(self) -> float:
        """Input frame in whose middle the first output frame lies, counted from 0."""
        return (self.factor - 1) / 2

    def output_lens(self, ilens: torch.Tensor) -> torch.Tensor:
        """Frames (B,) after it, for (B,) frames before."""
        return -torch.div(-ilens, self.factor, rounding_mode="floor")

    def input_lens(self, olens: torch.Tensor) -> torch.Tensor:
        """Fewest frames (B,) before it that give (B,) frames after."""
        return self.factor * (olens - 1) + 1

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
        xs_pad = self.norm(xs_pad[:, :longest])
        behind = torch.arange(longest, device=ilens.device) >= ilens.unsqueeze(1)
        xs_pad = xs_pad.masked_fill(behind.unsqueeze(-1), 0.0)
        xs_pad = torch.nn.functional.pad(xs_pad, (0, 0, 0, -longest % self.factor))
        return self.out(xs_pad.unflatten(1, (-1, self.factor)).flatten(2)), self.output_lens(ilens)


class ConvSubsampling(torch.nn.Module):
    """Two-dimensional convolutions over time and frequency, then a projection to the model size.

    Args:
        input_size: F of the features.
        output_size: D.
        factor: Input frames an output frame, one of FACTORS.
        channels: C; the cost of a second layer grows with its square.

    Raises:
        ValueError: Too few features are left.
    """

    def __init__(self, input_size: int, output_size: int, factor: int, channels: int) -> None:
        super().__init__()
        self.factor = factor
        self.num_layers = FACTORS.index(factor) + 1
        features = input_size
        layers: list[torch.nn.Module] = []
        for index in range(self.num_layers):
            layers += [torch.nn.Conv2d(channels if index else 1, channels, 3, stride=2), torch.nn.ReLU()]
            features = (features - 1) // 2
        if features < 1:
            raise ValueError(
                f"encoder_conf: subsampling_factor {factor} leaves nothing of {input_size} features; "
                "take a smaller one, or more mel bands."
            )
        self.conv = torch.nn.Sequential(*layers)
        self.out = torch.nn.Linear(channels * features, output_size)

    @property
    def centre(self) -> float:
        """Input frame in whose middle the first output frame lies, counted from 0."""
        return float(2**self.num_layers - 1)

    @property
    def look_ahead(self) -> int:
        """Input frames behind its own, `factor` a frame, that an output frame needs."""
        return self.factor - 1

    @property
    def min_length(self) -> int:
        """Fewest input frames that give one output frame."""
        return 2 ** (self.num_layers + 1) - 1

    def output_lens(self, ilens: torch.Tensor) -> torch.Tensor:
        """Frames (B,) after the convolutions, for (B,) frames before them."""
        for _ in range(self.num_layers):
            ilens = torch.div(ilens - 1, 2, rounding_mode="floor")
        return ilens

    def input_lens(self, olens: torch.Tensor) -> torch.Tensor:
        """Fewest frames (B,) before the convolutions that give (B,) frames after them."""
        for _ in range(self.num_layers):
            olens = 2 * olens + 1
        return olens

    def forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Subsample a padded batch.

        Args:
            xs_pad: Features (B, T, F).
            ilens: Valid frames (B,) of xs_pad.

        Returns:
            Frames (B, T', D) and their valid lengths (B,).

        Raises:
            TooShortUttError: An utterance has fewer than `min_length` frames.
        """
        # One synchronisation with a GPU for both.
        shortest, longest = torch.stack(ilens.aminmax()).tolist()
        xs_pad = xs_pad[:, :longest]
        if shortest < self.min_length:
            raise TooShortUttError(
                f"an utterance has {shortest} frames, fewer than the {self.min_length} that the subsampling needs; "
                "drop it (a recipe's --min_wav_duration does) or pad it",
                shortest,
                self.min_length,
            )
        maps = self.conv(xs_pad.unsqueeze(1))  # (B, C, T', F')
        frames = self.out(maps.transpose(1, 2).flatten(2))  # (B, T', D)
        assert frames.size(1) == int(self.output_lens(torch.tensor(longest)))
        return frames, self.output_lens(ilens)
