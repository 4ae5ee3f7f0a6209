"""Retentions drawn anew at each training step, so that one model serves many of them.

Source: sampled lengths of Guo et al., "FastLongSpeech", arXiv:2507.14815. Departures: a retention is drawn for a batch,
alike in all processes, so that these have about as much to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from espnet_larm.draws import Draws
from espnet_larm.pooling.in_llm import SpeechPooling

# Other draws have the salt 0.
SALT = 2_654_435_761
_DRAWN: ContextVar[SpeechPooling | None] = ContextVar("pooling that a training step has drawn", default=None)


class RetentionSampling(Draws):
    """Draws the retentions of each training step."""

    def __init__(self) -> None:
        super().__init__(SALT)

    @contextmanager
    def step(self, pooling: SpeechPooling) -> Iterator[None]:
        """While it is entered, `pooling_of_step` has retentions that are drawn for this training step."""
        token = _DRAWN.set(pooling.drawn(self.next_generator()))
        try:
            yield
        finally:
            _DRAWN.reset(token)


def pooling_of_step(pooling: SpeechPooling) -> SpeechPooling:
    """What this training step has drawn; outside of one, the pooling that is given."""
    drawn = _DRAWN.get()
    return pooling if drawn is None else drawn
