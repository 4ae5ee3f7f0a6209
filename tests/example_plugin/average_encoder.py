"""A plugin of another package: `encoder: average` in a YAML."""

import torch

from espnet2.asr.encoder.abs_encoder import AbsEncoder


class AverageEncoder(AbsEncoder):
    """Mean of neighbouring frames.

    Args:
        input_size: Features F a frame; ESPnet sets it.
        factor: Frames in a mean, 1 or more; an incomplete last group is dropped.
    """

    def __init__(self, input_size: int, factor: int = 4) -> None:
        super().__init__()
        self.factor = factor
        self.size = input_size

    def output_size(self) -> int:
        return self.size

    def forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor, prev_states: None = None) -> tuple:
        num_groups = xs_pad.size(1) // self.factor
        groups = xs_pad[:, : num_groups * self.factor].unflatten(1, (num_groups, self.factor))
        return groups.mean(dim=2), ilens // self.factor, None
