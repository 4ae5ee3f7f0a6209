"""What a streaming encoder's modules keep of the frames before a chunk, and of the loop before.

Shapes: B streams or utterances, T frames.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch


class Place(NamedTuple):
    """Where a module that keeps frames stands in an encoder.

    Attributes:
        part: The part of the encoder.
        number: Its module, in the order in which they ask.
        loop: The loop; 0 where there is none.
    """

    part: str
    number: int
    loop: int


class Fresh(NamedTuple):
    """What a module has at hand of a chunk.

    Attributes:
        frames: (B, ..., T, ...).
        num_kept: How many frames before those of a chunk it needs.
        dim: The dimension of time.
    """

    frames: torch.Tensor
    num_kept: int
    dim: int


class Past:
    """Frames before a chunk, handed to the modules that ask; what they keep for the next one.

    It lives as long as a chunk: `kept` goes into the state that the call returns. Streams whose chunk has left before
    the last loop stand in the deeper loops with their frames of the loop at which they left, for later chunks.

    Args:
        before: What was kept of the chunks before, by place; empty at the start of all streams. Streams begin with
            zeros, which is what a convolution is padded with and a mask that attends to nothing.

    Attributes:
        kept: What the modules that have asked keep, each (B, ...).
    """

    def __init__(self, before: Mapping[Place, torch.Tensor]) -> None:
        self._before = before
        self.kept: dict[Place, torch.Tensor] = {}
        self._fresh: dict[tuple[str, int], Fresh] = {}
        self._rows: torch.Tensor | None = None
        self._part, self._loop, self._number = "", 0, 0

    def enter(self, part: str, loop: int = 0) -> None:
        """Say whose modules ask from now on."""
        self._part, self._loop, self._number = part, loop, 0

    def only(self, rows: torch.Tensor) -> None:
        """From now on modules run these streams alone (R,), places in the batch."""
        self._rows = rows

    def extend(self, frames: torch.Tensor, num_kept: int, dim: int = 1) -> torch.Tensor:
        """Put the frames of the past before those of a chunk.

        Args:
            frames: The chunk's (R, ..., T, ...) of the streams that run, with time in `dim`.
            num_kept: Frames of the past P, the same at each call of a module.
            dim: The dimension of time.

        Returns:
            (R, ..., P + T, ...); its last P frames are the past of the next chunk.
        """
        place = Place(self._part, self._number, self._loop)
        self._number += 1
        if self._rows is not None:
            fresh = self._fresh.get(place[:2])
            # Nobody reads what stands here of streams that have left, but where the loop before had it.
            others = frames.new_zeros(self._num_streams, *frames.shape[1:]) if fresh is None else fresh.frames
            frames = others.index_copy(0, self._rows, frames)
        whole = self._keep(place, Fresh(frames, num_kept, dim))
        return whole if self._rows is None else whole[self._rows]

    def fill(self, part: str, loops: Iterable[int]) -> None:
        """Let a part keep something for these loops, too, if none of the streams has run them."""
        asked = [(number, fresh) for (name, number), fresh in self._fresh.items() if name == part]
        for place, fresh in [(Place(part, number, loop), fresh) for loop in loops for number, fresh in asked]:
            if place not in self.kept:
                self._keep(place, fresh)

    @property
    def _num_streams(self) -> int:
        return len(next(iter(self.kept.values())))

    def _keep(self, place: Place, fresh: Fresh) -> torch.Tensor:
        self._fresh[place.part, place.number] = fresh
        before = self._before.get(place)
        if before is None:
            shape = list(fresh.frames.shape)
            shape[fresh.dim] = fresh.num_kept
            before = fresh.frames.new_zeros(shape)
        whole = torch.cat([before, fresh.frames], fresh.dim)
        self.kept[place] = whole.narrow(fresh.dim, whole.size(fresh.dim) - fresh.num_kept, fresh.num_kept)
        return whole


class Held:
    """The same for whole utterances in chunks: frames that have left stand in deeper loops as they were when they left.

    Args:
        mask: Frames that have left (B, T).
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask
        self._before: dict[tuple[str, int], torch.Tensor] = {}
        self._part, self._number = "", 0

    def enter(self, part: str) -> None:
        """Say whose modules ask from now on."""
        self._part, self._number = part, 0

    def hold(self, frames: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """What a module reads: its frames, and where they have left, what it read of them at the loop before.

        Args:
            frames: Frames of this loop (B, ..., T, ...), with time in `dim`.
            dim: The dimension of time.
        """
        place = self._part, self._number
        self._number += 1
        before = self._before.get(place)
        if before is not None:
            shape = [1] * frames.dim()
            shape[0], shape[dim] = self.mask.shape
            frames = torch.where(self.mask.view(shape), before, frames)
        self._before[place] = frames
        return frames
