"""What a recogniser must be able to do to be listened with: ours, and those of transformers.

Shapes: N samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from espnet_larm.errors import OptionError
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.long.cutting import Cutting
from espnet_larm.recognize.output.words import Word

# Stands for the depth of a model without loops, and of utterances that each choose theirs.
WHOLE = 0


class Request(NamedTuple):
    """What is asked of a recogniser.

    Attributes:
        loops: Depths to give a text of, ascending; empty for the model's own.
        language: Code of the spoken language; None lets the model decide.
        needs_words: Whether times of words must be measured, not guessed.
        config: Options of decoding.
    """

    loops: tuple[int, ...] = ()
    language: str | None = None
    needs_words: bool = False
    config: DecodeConfig = DecodeConfig()


class Merged(NamedTuple):
    """Frames that a front end has merged, of one stretch of audio.

    Attributes:
        edges_s: Where each frame that the encoder read begins, and where the last ends, in seconds.
        num_frames: Frames before they were merged.
    """

    edges_s: tuple[float, ...]
    num_frames: int

    def later(self, seconds: float) -> "Merged":
        """The same where time began earlier."""
        return self._replace(edges_s=tuple(seconds + edge_s for edge_s in self.edges_s))


class Heard(NamedTuple):
    """What was recognised in audio that was given together. All but the seconds have an entry a waveform.

    Attributes:
        words: For each waveform, by loop, its words with times from its first sample on.
        seconds: By loop, seconds of computing.
        merged: For each waveform, its merged frames; None where there are none. Empty for models that merge none.
        used: For each waveform, the loops that it used where it chose them by itself (`num_loops: auto`), else None;
            empty for a model that cannot.
    """

    words: list[Mapping[int, tuple[Word, ...]]]
    seconds: Mapping[int, float]
    merged: Sequence[Merged | None] = ()
    used: Sequence[float | None] = ()

    def part(self, start: int, end: int, share: float) -> "Heard":
        """The entries of some of the waveforms, with a share of the seconds."""
        entries = {name: value[start:end] for name, value in self._asdict().items() if name != "seconds"}
        return Heard(**entries, seconds={loop: share * seconds for loop, seconds in self.seconds.items()})


class Job(NamedTuple):
    """A request that has been checked against the model.

    Attributes:
        loops: Depths that it gives texts of, ascending; the last is the result. `WHOLE` for a model without loops, or
            with `num_loops: auto`.
        cutting: How long audio is cut.
        hear: Recognises waveforms (N,) together.
        text_of: Joins words to a text.
    """

    loops: tuple[int, ...]
    cutting: Cutting
    hear: Callable[[Sequence[np.ndarray]], Heard]
    text_of: Callable[[Sequence[Word]], str]


class Engine(ABC):
    """A model that recognises pieces of speech. It holds nothing of a call.

    Attributes:
        sample_rate_hz: The rate of the audio that it takes.
        loops: Depths that can be asked for; empty for a model without loops.
        has_languages: Whether a request may name the spoken language.
    """

    sample_rate_hz: int
    loops: tuple[int, ...] = ()
    has_languages: bool = False

    @abstractmethod
    def prepare(self, request: Request) -> Job:
        """Check a request.

        Args:
            request: What is asked for.

        Raises:
            ValueError: The model cannot do it; with what it can do.
        """


def refuse_loops(request: Request, what: str) -> None:
    """Refuse a choice of loops for a model that has none.

    Raises:
        OptionError: Loops were asked for.
    """
    if request.loops:
        asked = ",".join(map(str, request.loops))
        raise OptionError(f"loops is {asked}, but {what} has no loops; leave the option out.")


def refuse_language(request: Request, what: str) -> None:
    """Refuse a choice of language for a model that has none.

    Raises:
        OptionError: A language was asked for.
    """
    if request.language is not None:
        raise OptionError(
            f"language is {request.language}, but {what} has no choice of languages; allowed: none, that is to leave "
            "the option out. A multilingual Whisper has one, openai/whisper-tiny for example."
        )


def refuse_options(request: Request, what: str, *allowed: str) -> None:
    """Refuse options of decoding that a model of transformers has no use for.

    Raises:
        OptionError: Such an option was given.
    """
    names = [name for name in DecodeConfig.__dataclass_fields__ if name not in allowed]
    for name, value in request.config.set_options(*names).items():
        words = f"allowed: {', '.join(allowed)}" if allowed else "leave it out"
        raise OptionError(f"{name} is {value}, an option of our own models, which {what} is not; {words}.")


def read_loops(word: str) -> tuple[int, ...]:
    """The loops that a user's word names, `2,4,6` for example, ascending.

    Raises:
        OptionError: It names none.
    """
    try:
        loops = tuple(sorted({int(each) for each in word.split(",")}))
    except ValueError:
        loops = (0,)
    if loops[0] < 1:
        raise OptionError(f"loops is {word}; allowed: whole numbers from 1 on, 2,4,6 for example.")
    return loops
