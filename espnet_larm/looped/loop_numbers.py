"""The numbers of loops that a looped encoder can run, and the one that it runs outside training."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

logger = logging.getLogger(__name__)

# ESPnet hands no number of loops from its programs to the encoder.
_NUM_LOOPS: ContextVar[int | None] = ContextVar("number of loops outside training", default=None)


class LoopNumbers:
    """A looped encoder's dial.

    Attributes:
        num_loops: The number that is trained.
        checkpoint_period: Loops from one read-out to the next.
        share_blocks: Whether all loops run the same stack.
    """

    num_loops: int
    checkpoint_period: int
    share_blocks: bool

    @property
    def num_checkpoints(self) -> int:
        """Checkpoint loops in training."""
        return len(self.allowed_loops(self.num_loops))

    def allowed_loops(self, limit: int) -> list[int]:
        """Loops up to `limit` that can be read out: every m-th, and the last that was trained."""
        return [loop for loop in range(1, limit + 1) if self._is_checkpoint(loop)]

    def check_loops(self, num_loops: int) -> None:
        """Refuse a number of loops that cannot be read out; say so when it is beyond training.

        Raises:
            ValueError: With the allowed numbers.
        """
        most = self.num_loops + 2 * self.checkpoint_period if self._can_extrapolate else self.num_loops
        if num_loops < 1 or not self._is_checkpoint(num_loops):
            more = ", ... (more than trained: extrapolation)" if self._can_extrapolate else ""
            raise ValueError(
                f"num_loops is {num_loops}; allowed: {', '.join(map(str, self.allowed_loops(most)))}{more}."
            )
        if num_loops > self.num_loops and not self._can_extrapolate:
            why = "has no loop to repeat" if self.num_loops == 1 else "has blocks of its own for each loop"
            raise ValueError(f"num_loops is {num_loops}, but a model trained with {self.num_loops} {why}.")
        if num_loops > self.num_loops:
            logger.warning("%d loops are an extrapolation: the model was trained with %d.", num_loops, self.num_loops)

    @contextmanager
    def looped(self, num_loops: int) -> Iterator[None]:
        """While it is entered, calls of this thread outside training run so many loops: for ESPnet's own programs.

        Args:
            num_loops: The last loop.

        Raises:
            ValueError: It cannot be read out.
        """
        self.check_loops(num_loops)
        token = _NUM_LOOPS.set(num_loops)
        try:
            yield
        finally:
            _NUM_LOOPS.reset(token)

    @property
    def current_loops(self) -> int:
        """The number outside training: that of `looped`, or the trained one."""
        return _NUM_LOOPS.get() or self.num_loops

    def _is_checkpoint(self, loop: int) -> bool:
        return loop % self.checkpoint_period == 0 or loop == self.num_loops

    @property
    def _can_extrapolate(self) -> bool:
        return self.share_blocks and self.num_loops > 1
