"""Words of a hypothesis with their times, and CTM, the format that keeps them.

Frame j of an encoder that subsamples by f is centred at feature frame f j + c, where c is f - 1 after unpadded
convolutions of stride, and a feature frame of a centred STFT at its hop: its interval is half a step to both sides.
CTC marks a token by a peak of a frame or two, so that a word's times are those of its peaks: its true end is later by
about the length of its last sound.
Where a front end merges frames, an encoder frame spans what they span: their edges are stretched accordingly.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

SPACE = "<space>"
# What sentencepiece and byte-level BPE put before a word.
WORD_STARTS = ("\u2581", "\u0120")


class Word(NamedTuple):
    """A word, or a token of a model whose tokens do not tell words.

    Attributes:
        text: The word as people write it.
        start_s: Its start in seconds.
        end_s: Its end in seconds.
        confidence: Geometric mean of its tokens' probabilities, 0 to 1; not calibrated.
        token_ids: Its ids in the token list.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float
    token_ids: tuple[int, ...]

    @property
    def middle_s(self) -> float:
        """Its middle in seconds."""
        return (self.start_s + self.end_s) / 2

    def later(self, seconds: float) -> "Word":
        """The same word where time began earlier."""
        return self._replace(start_s=self.start_s + seconds, end_s=self.end_s + seconds)


class FrameTimes(NamedTuple):
    """Encoder frames to seconds.

    Attributes:
        hop_s: Between feature frames, before any are merged.
        factor: Feature frames an encoder frame, after they are merged.
        edges: Where each merged frame begins among those before, and their number; None if none are merged.
        centre: c, the feature frame at which the first encoder frame is centred; None for f - 1.
        offset_s: Middle of the first feature frame.
    """

    hop_s: float
    factor: int
    edges: tuple[int, ...] | None = None
    centre: float | None = None
    offset_s: float = 0.0

    def start_s(self, frame: int) -> float:
        """Where the interval of a frame starts; that of frame + 1 is where it ends."""
        centre = self.factor - 1 if self.centre is None else self.centre
        place = self.factor * frame + centre - self.factor / 2
        if self.edges is not None:
            # A frame's number is its middle; it begins half a frame before.
            place = float(np.interp(place + 0.5, range(len(self.edges)), self.edges)) - 0.5
        return max(0.0, self.offset_s + self.hop_s * place)

    def edge_s(self, edge: int) -> float:
        """Where the interval of a feature frame starts, before any are merged."""
        return max(0.0, self.offset_s + self.hop_s * (edge - 0.5))


def has_words(token_list: Sequence[str]) -> bool:
    """Whether tokens tell where words begin."""
    return SPACE in token_list or any(token.startswith(WORD_STARTS) for token in token_list)


def group_tokens(tokens: Sequence[str], *, words: bool) -> Iterator[range]:
    """Indices of each word's tokens; spaces belong to none.

    Args:
        tokens: Tokens of a hypothesis.
        words: The answer of `has_words`; if False, each token is a word.
    """
    start = 0
    for index, token in enumerate(tokens):
        is_space = token == SPACE
        if (is_space or not words or token.startswith(WORD_STARTS)) and start < index:
            yield range(start, index)
            start = index
        if is_space:
            start = index + 1
    if start < len(tokens):
        yield range(start, len(tokens))


def format_ctm(key: str, words: Sequence[Word]) -> str:
    """Lines `utterance channel start duration word confidence`; "" without words."""
    return "".join(
        f"{key} 1 {word.start_s:.2f} {word.end_s - word.start_s:.2f} {word.text} {word.confidence:.3f}\n"
        for word in words
    )


def make_words(
    tokens: Sequence[str],
    token_ids: Sequence[int],
    spans: Sequence[tuple[int, int, float]],
    times: FrameTimes,
    tokens_to_text: Callable[[list[str]], str],
    *,
    words: bool,
) -> tuple[Word, ...]:
    """Make the words of one hypothesis.

    Args:
        tokens: Tokens of the hypothesis.
        token_ids: Their ids.
        spans: First frame, frame after the last, and mean log-probability of each token.
        times: Frames to seconds.
        tokens_to_text: Joins tokens to a text.
        words: The answer of `has_words`.
    """
    made = []
    for group in group_tokens(tokens, words=words):
        text = tokens_to_text([tokens[index] for index in group]).strip()
        if not text:
            continue
        mean = sum(spans[index][2] for index in group) / len(group)
        start_s, end_s = times.start_s(spans[group[0]][0]), times.start_s(spans[group[-1]][1])
        made.append(Word(text, start_s, end_s, math.exp(mean), tuple(token_ids[index] for index in group)))
    return tuple(made)
