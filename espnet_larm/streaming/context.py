"""What a frame of a streaming encoder sees: its whole chunk, some chunks before it, and nothing later.

Source: chunks drawn anew at each training step, Zhang et al., "Unified Streaming and Non-streaming Two-pass
End-to-end Model for Speech Recognition", arXiv:2012.05481, section 3.2; several chunk sizes for one model, Noroozi et
al., arXiv:2312.17279. Departure: the chunks to the left are drawn, too.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, NamedTuple

import torch
from typeguard import typechecked

from espnet_larm.draws import Draws
from espnet_larm.options import Option, check_conf, check_parameters

logger = logging.getLogger(__name__)

FULL, ALL = "full", "all"
WHERE = "encoder_conf: streaming"
MOST_FRAMES = 100_000
DEFAULT_CHUNKS: tuple[int | str, ...] = (FULL, 8, 16, 32)
DEFAULT_LEFT: tuple[int | str, ...] = (4, 16)
# Apart from what else a training draws with the same seed.
SALT = 1 << 40


class Context(NamedTuple):
    """What a frame sees.

    Attributes:
        left_chunks: Chunks before its own, of which it attends to every frame; None for all of them. A convolution
            reads as far back as its kernel does, whatever this is.
        chunk_frames: Encoder frames a chunk, each of which sees all others of it; None for the whole utterance.
    """

    left_chunks: int | None = None
    chunk_frames: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether every frame sees the whole utterance."""
        return self.chunk_frames is None

    @property
    def left_frames(self) -> int:
        """Frames before its chunk that a frame attends to, where they are bounded."""
        assert self.left_chunks is not None and self.chunk_frames is not None
        return self.left_chunks * self.chunk_frames

    def check(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            ValueError: With what is allowed.
        """
        for name, value, least, word in (
            ("chunk_frames", self.chunk_frames, 1, FULL),
            ("left_chunks", self.left_chunks, 0, ALL),
        ):
            if value is not None and not (_is_whole(value) and least <= value <= MOST_FRAMES):
                raise ValueError(f"{name} is {value!r}; allowed: {least} to {MOST_FRAMES}, or none for {word}.")

    def check_bounded(self) -> None:
        """Refuse a context that no stream can have.

        Raises:
            ValueError: It needs the whole utterance, or keeps all that came before.
        """
        self.check()
        if self.chunk_frames is None or self.left_chunks is None:
            raise ValueError(
                f"a stream needs a chunk and a left context that end: chunk_frames is {self.chunk_frames or FULL}, "
                f"left_chunks {ALL if self.left_chunks is None else self.left_chunks}; give both as numbers."
            )


# ESPnet hands no context from its programs to the encoder.
_CONTEXT: ContextVar[Context | None] = ContextVar("context outside training", default=None)


class Contexts(Draws):
    """Contexts of a training: what its steps draw from, and what is read outside training.

    Args:
        chunk_frames: The meaning and range of this and the other option stand at the parameters; docs/options.md lists
            them.

    Raises:
        ValueError: A list is empty, or has something else than numbers of its range and its word; or a weight of
            consistency has nothing to compare.
    """

    @typechecked
    def __init__(
        self,
        chunk_frames: Annotated[
            list[Any] | None,
            Option(
                "encoder frames a chunk, of which each training step draws one; `full` is the whole utterance, as "
                "without streaming, and is what validation and decoding read unless they are told otherwise (without "
                "it, the longest chunk)",
                unset="[full, 8, 16, 32]",
                note="a list of full and 1 to 100000",
            ),
        ] = None,
        left_chunks: Annotated[
            list[Any] | None,
            Option(
                "chunks before its own that a frame attends to, of which each training step draws one; `all` trains, "
                "but no stream can keep it",
                unset="[4, 16]",
                note="a list of all and 0 to 100000",
            ),
        ] = None,
        consistency_weight: Annotated[
            float,
            Option(
                "weight, beside the CTC loss, of a loss that draws the CTC posteriors in chunks to those of the whole "
                "utterance, at each checkpoint loop (docs/howto/streaming.md). A step in chunks then encodes twice, "
                "once without gradient: a third to a half more time; 0.2 is a start",
                least=0.0,
                note="0 is off",
            ),
        ] = 0.0,
    ) -> None:
        check_parameters(Contexts.__init__, {"consistency_weight": consistency_weight}, WHERE)
        super().__init__(SALT)
        self.chunk_frames = _read(f"{WHERE}: chunk_frames", chunk_frames, DEFAULT_CHUNKS, FULL, 1)
        self.left_chunks = _read(f"{WHERE}: left_chunks", left_chunks, DEFAULT_LEFT, ALL, 0)
        self.consistency_weight = consistency_weight
        if consistency_weight > 0 and len({each is None for each in self.chunk_frames}) < 2:
            raise ValueError(
                f"{WHERE}: consistency_weight is {consistency_weight}, but chunk_frames is "
                f"{[each or FULL for each in self.chunk_frames]}: {FULL} teaches chunks, so both must be trained. Add "
                "what is missing, or leave the weight out."
            )

    @classmethod
    def of(cls, section: dict[str, Any] | None) -> "Contexts | None":
        """What the section `streaming` of a YAML says; None without it.

        Raises:
            ValueError: It has an unknown name, or a value of another type or range.
        """
        if section is None:
            return None
        check_conf(cls.__init__, section, f"{WHERE}: ")
        return cls(**section)

    def draw(self) -> Context:
        """The context of this training step; counts the draw."""
        return self._drawn_by(self.next_generator())

    def at(self, seed: int, number: int) -> Context:
        """The context of a training with a seed, after `number` others."""
        return self._drawn_by(self.generator_at(seed, number))

    def _drawn_by(self, generator: torch.Generator) -> Context:
        left, chunk = (
            each[int(torch.randint(len(each), (), generator=generator))]
            for each in (self.left_chunks, self.chunk_frames)
        )
        return Context(left, chunk)

    @property
    def widest(self) -> Context:
        """The context that sees most of those that are trained."""
        widest = [max(each, key=lambda size: (size is None, size)) for each in (self.left_chunks, self.chunk_frames)]
        return Context(*widest)

    def check(self, context: Context) -> None:
        """Refuse a context that means nothing; say so when it was not trained.

        Raises:
            ValueError: With what is allowed.
        """
        context.check()
        is_known = context.chunk_frames in self.chunk_frames and context.left_chunks in self.left_chunks
        if not is_known and not context.is_full:
            logger.warning(
                "chunk_frames %s with left_chunks %s was not trained; trained: %s with %s.",
                context.chunk_frames,
                ALL if context.left_chunks is None else context.left_chunks,
                [FULL if each is None else each for each in self.chunk_frames],
                [ALL if each is None else each for each in self.left_chunks],
            )


def current_context(contexts: Contexts | None) -> Context:
    """The context of an encoder outside training: that of `in_context`, or the widest that was trained."""
    return _CONTEXT.get() or (Context() if contexts is None else contexts.widest)


@contextmanager
def in_context(context: Context) -> Iterator[None]:
    """While it is entered, encoders here have this context in calls of this thread outside training.

    ESPnet's programs and a recogniser then give what a stream would, also with models that were trained without chunks.

    Args:
        context: What a frame sees.

    Raises:
        ValueError: The context means nothing.
    """
    context.check()
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def attended_in_chunks(num_frames: int, context: Context, device: torch.device) -> torch.Tensor:
    """A mask (T, T) of the frames that each frame attends to, True where row t attends to column s.

    Args:
        num_frames: T.
        context: With chunks.
        device: Where the mask shall be.
    """
    assert context.chunk_frames is not None
    chunks = torch.arange(num_frames, device=device) // context.chunk_frames
    behind = chunks.unsqueeze(1) - chunks.unsqueeze(0)  # (T, T)
    attended = behind >= 0
    return attended if context.left_chunks is None else attended & (behind <= context.left_chunks)


def _read(
    name: str, given: Sequence[int | str] | None, default: Sequence[int | str], word: str, least: int
) -> tuple[int | None, ...]:
    """Sizes as numbers, None for the word."""
    sizes = default if given is None else given
    numbers = [each for each in sizes if each != word]
    if not sizes or not all(_is_whole(each) and least <= int(each) <= MOST_FRAMES for each in numbers):
        raise ValueError(f"{name} is {list(sizes)}; allowed: a list of {word} and {least} to {MOST_FRAMES}.")
    return tuple(None if isinstance(each, str) else each for each in sizes)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
