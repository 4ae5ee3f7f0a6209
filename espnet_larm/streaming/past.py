"""What a streaming encoder's modules keep of the frames before a chunk.

Shapes: B streams, T frames.
"""

from collections.abc import Sequence

import torch


class Past:
    """Frames before a chunk, handed to the modules in the order in which they ask; what they keep for the next one.

    A chunk runs the same modules in the same order each time, each loop included, so that the order names them. It
    lives as long as one call: `kept` goes into the state that the call returns.

    Args:
        before: What the call before kept, in the order of its modules; empty at the start of all streams. Streams
            begin with zeros, which is what a convolution is padded with and a mask that attends to nothing.

    Attributes:
        kept: What the modules that have asked keep, each (B, ...).
    """

    def __init__(self, before: Sequence[torch.Tensor] = ()) -> None:
        self._before = iter(before)
        self._is_first = not before
        self.kept: list[torch.Tensor] = []

    def extend(self, frames: torch.Tensor, num_kept: int, dim: int = 1) -> torch.Tensor:
        """Put the frames of the past before those of a chunk.

        Args:
            frames: The chunk's (B, ..., T, ...), with time in `dim`.
            num_kept: Frames of the past P, the same at each call of a module.
            dim: The dimension of time.

        Returns:
            (B, ..., P + T, ...); its last P frames are the past of the next chunk.
        """
        if self._is_first:
            shape = list(frames.shape)
            shape[dim] = num_kept
            before = frames.new_zeros(shape)
        else:
            before = next(self._before)
        whole = torch.cat([before, frames], dim)
        self.kept.append(whole.narrow(dim, whole.size(dim) - num_kept, num_kept))
        return whole
