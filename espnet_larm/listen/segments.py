"""Words to segments: phrases that can be read as one subtitle, as words come in.

A phrase ends at a pause or at the end of a sentence, once it has lasted for a second, and before it would fill more
than two lines or last longer than seven seconds; the usual bounds of subtitles.
"""

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from espnet_larm.recognize.long.joining import join
from espnet_larm.recognize.output.words import Word

LINE_CHARACTERS, NUM_LINES = 42, 2
SHORTEST_S, LONGEST_S = 1.0, 7.0
PAUSE_S = 0.7
SENTENCE_ENDS = (".", "?", "!", "\u3002", "\uff1f", "\uff01")

TextOf = Callable[[Sequence[Word]], str]


class Segment(NamedTuple):
    """A phrase and where it lies in the audio.

    Attributes:
        start_s: Its start in seconds.
        end_s: Its end in seconds, for whoever reads it: a second later than its start at least.
        text: What is said.
        words: Its words with their times.
    """

    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...]


class Phrases:
    """Words of pieces of audio in, segments out as soon as no later piece can change them.

    Args:
        text_of: Joins words to a text.
        overlap_s: Most seconds that a later piece has in common with an earlier one.
    """

    def __init__(self, text_of: TextOf, overlap_s: float) -> None:
        self._text_of, self._overlap_s = text_of, overlap_s
        self._held: list[Word] = []

    def add(self, words: Sequence[Word], start_s: float, overlap_s: float, end_s: float) -> list[Segment]:
        """Take the words of the next piece.

        Args:
            words: They, in order, with times in the whole audio.
            start_s: Where the piece starts.
            overlap_s: What it has in common with the piece before.
            end_s: Where it ends.

        Returns:
            Segments that are complete.
        """
        self._held = join(self._held, words, start_s, start_s + overlap_s)
        groups = _split(self._held, self._text_of)
        final = [group for group in groups[:-1] if group[-1].end_s <= end_s - self._overlap_s]
        following = groups[len(final)][0].start_s if final else 0.0
        self._held = self._held[sum(map(len, final)) :]
        return self._segments(final, following)

    def finish(self) -> list[Segment]:
        """The segments of the words that are left, at the end of the audio."""
        groups, self._held = _split(self._held, self._text_of), []
        return self._segments(groups, float("inf"))

    def _segments(self, groups: Sequence[Sequence[Word]], following_s: float) -> list[Segment]:
        starts = [group[0].start_s for group in groups[1:]] + [following_s] * bool(groups)
        return [_segment(group, next_s, self._text_of) for group, next_s in zip(groups, starts, strict=True)]


def wrap(text: str) -> list[str]:
    """The lines of a subtitle, the first not much longer than the second, where the text fits into two."""
    lines = textwrap.wrap(text, LINE_CHARACTERS)
    if len(lines) != NUM_LINES:
        return lines
    # From the width of equal halves on, the narrowest that still gives two lines.
    widths = range((len(text) + 1) // 2, LINE_CHARACTERS)
    return next((even for width in widths if len(even := textwrap.wrap(text, width)) == NUM_LINES), lines)


def spread(text: str, start_s: float, end_s: float) -> tuple[Word, ...]:
    """Words of a text whose times are not known, each as long as it has letters."""
    texts = text.split()
    total = sum(len(word) + 1 for word in texts)
    words, before = [], 0
    for word in texts:
        span = (before, before := before + len(word) + 1)
        first_s, last_s = (start_s + (end_s - start_s) * place / total for place in span)
        # Words are compared by their tokens where pieces overlap.
        words.append(Word(word, first_s, last_s, float("nan"), tuple(map(ord, word))))
    return tuple(words)


def _split(words: Sequence[Word], text_of: TextOf) -> list[list[Word]]:
    groups: list[list[Word]] = []
    for word in words:
        if not groups or _ends_before(groups[-1], word, text_of):
            groups.append([])
        groups[-1].append(word)
    return groups


def _ends_before(group: Sequence[Word], word: Word, text_of: TextOf) -> bool:
    start_s = group[0].start_s
    if word.end_s - start_s > LONGEST_S or len(textwrap.wrap(text_of([*group, word]), LINE_CHARACTERS)) > NUM_LINES:
        return True
    has_ended = word.start_s - group[-1].end_s >= PAUSE_S or group[-1].text.endswith(SENTENCE_ENDS)
    return has_ended and word.start_s - start_s >= SHORTEST_S


def _segment(group: Sequence[Word], following_s: float, text_of: TextOf) -> Segment:
    start_s = group[0].start_s
    end_s = min(max(group[-1].end_s, start_s + SHORTEST_S), start_s + LONGEST_S, max(start_s, following_s))
    return Segment(start_s, end_s, text_of(group), tuple(group))
