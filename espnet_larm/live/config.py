"""Options of live recognition, as one frozen object."""

import math
from dataclasses import dataclass

from espnet_larm.options import check_options, option

# Rates of samples that are resampled to the model's.
LEAST_HZ, MOST_HZ = 4000, 384_000


@dataclass(frozen=True)
class LiveConfig:
    """How a stream is recognised; `LiveRecognizer` checks it against a model.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An option is of another type.
    """

    chunk_frames: int | None = option(
        None,
        "encoder frames a chunk: text comes after each, so that fewer give it earlier, with more errors",
        least=1,
        most=100_000,
        unset="the shortest that was trained",
    )
    left_chunks: int | None = option(
        None,
        "chunks before its own that a frame attends to",
        least=0,
        most=100_000,
        unset="the most that was trained",
    )
    partial_loop: int | None = option(
        None,
        "checkpoint loop that partial texts are read at, before the deeper loops run; final ones are read at the last "
        "loop, of the same pass",
        least=1,
        most=1000,
        unset="the last",
    )
    endpoint_s: float = option(
        0.8,
        "seconds without a token after which what was said becomes final",
        above=0.0,
        note="inf never ends by silence",
        may_be_infinite=True,
    )
    max_utterance_s: float = option(
        30.0, "seconds of speech without such a pause after which all but the last word become final", least=1.0
    )
    hold_s: float = option(
        0.2,
        "the last word of a partial text is shown once so many seconds without a token have followed it, or another "
        "word; 0 shows it at once, and withdraws more",
        least=0.0,
    )

    def __post_init__(self) -> None:
        check_options(self)

    def frames_of(self, seconds: float, frame_s: float) -> float:
        """Encoder frames that last so long, 1 at least; infinity for ever."""
        return seconds if math.isinf(seconds) else max(1, math.ceil(seconds / frame_s))
