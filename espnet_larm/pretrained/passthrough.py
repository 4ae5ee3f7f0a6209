"""For front ends that are encoders themselves: nothing between their frames and the decoder's projector."""

from typing import Any

import torch
from typeguard import typechecked

from espnet2.asr.encoder.abs_encoder import AbsEncoder


class PassthroughEncoder(AbsEncoder):
    """Hands on the front end's frames as they are, and has no weight.

    Args:
        input_size: Features a frame, E; ESPnet sets it.

    Attributes:
        ignores_padding: An utterance has the same frames alone and in a batch.
    """

    ignores_padding = True

    @typechecked
    def __init__(self, input_size: int) -> None:
        super().__init__()
        self._size = input_size

    def output_size(self) -> int:
        """E."""
        return self._size

    def forward(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: Any = None,
        ctc: Any = None,  # noqa: ARG002  # ESPnet's interface
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Frames (B, T, E) and their valid numbers (B,), as they are.

        Args:
            xs_pad: (B, T, E).
            ilens: (B,).
            prev_states: Handed on.
            ctc: Not used.
        """
        return xs_pad[:, : int(ilens.max())], ilens, prev_states
