"""Who of a batch runs the next loop: utterances or chunks of streams leave it, or chunks of utterances are held in it.

Shapes: B utterances or streams, T frames, N chunks, D model size, V tokens. Masks are True where valid.
"""

from collections.abc import Callable

import torch

from espnet_larm.looped.blank_skipping import frames_to_feed
from espnet_larm.looped.blocks import Frames
from espnet_larm.streaming.past import Held
from espnet_larm.streaming.read_out import check_answer


class Running:
    """A batch between two loops.

    Args:
        describe: What blocks need to know of utterances, from lengths (B,) and T.
        hlens: Valid frames (B,).
        num_frames: T.
        chunk_frames: Frames of the chunks that leave, and are held; None where utterances leave.

    Attributes:
        frames: What blocks need to know.
        hlens: Valid frames of those that run.
        rows: Their places in the batch that was given; None for all, in order.
    """

    def __init__(
        self,
        describe: Callable[[torch.Tensor, int], Frames],
        hlens: torch.Tensor,
        num_frames: int,
        chunk_frames: int | None,
    ) -> None:
        self._describe, self._chunk_frames = describe, chunk_frames
        self.frames, self.hlens = describe(hlens, num_frames), hlens
        self.rows: torch.Tensor | None = None
        if chunk_frames is not None:
            self.frames = self.frames._replace(held=Held(torch.zeros_like(self.frames.mask)))

    @property
    def runs_streams(self) -> bool:
        """Whether these are chunks of streams, whose modules keep what later ones read."""
        return self.frames.past is not None

    def places(self, chosen: torch.Tensor) -> torch.Tensor:
        """Places of some of those that run (B,) in the batch that was given."""
        return chosen.nonzero().squeeze(1) if self.rows is None else self.rows[chosen]

    def hold(self, before: torch.Tensor | None, now: torch.Tensor) -> torch.Tensor:
        """(B, T, D) of a loop, with that of the loop before in chunks that have left."""
        if self.frames.held is None or before is None:
            return now
        return torch.where(self.frames.held.mask.unsqueeze(-1), before, now)

    def check(self, stays: torch.Tensor) -> None:
        """Refuse an answer that `keep` cannot take.

        Raises:
            TypeError: It is no mask.
            ValueError: It has another shape.
        """
        num_chunks = [] if self._chunk_frames is None else [-(-self.frames.mask.size(1) // self._chunk_frames)]
        check_answer(stays, len(self.hlens), *num_chunks)

    def keep(self, stays: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Let some leave.

        Args:
            stays: Utterances that go on (B,), or their chunks (B, N), True where one does.
            values: (B, T, D) each.

        Returns:
            The values of utterances that go on, cut to the longest of them; all where chunks are held.
        """
        if self.frames.held is not None:
            assert self._chunk_frames is not None
            left = ~stays.repeat_interleave(self._chunk_frames, dim=1)[:, : self.frames.mask.size(1)]
            self.frames.held.mask = self.frames.held.mask | left
            return values
        if stays.all():
            return values
        self.rows, self.hlens = self.places(stays), self.hlens[stays]
        if self.runs_streams:
            # Chunks keep their length, which what the modules keep has.
            self.frames = self.frames.only(stays, self.rows)
            return tuple(each[stays] for each in values)
        longest = int(self.hlens.max())
        self.frames = self._describe(self.hlens, longest)
        return tuple(each[stays, :longest] for each in values)

    def skip(self, posteriors: torch.Tensor, skip_blank: float) -> None:
        """Let frames skip feed-forward layers that these posteriors (B, T, V) say are blank, until the next answer."""
        self.frames = self.frames._replace(fed=frames_to_feed(posteriors, self.frames.mask, skip_blank))
