"""Edit-distance alignments between references and hypotheses, by jiwer.

A unit is what errors are counted in: a word, a character (the space is one, as in ESPnet) or a token.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jiwer
import numpy as np

SPACE = "<space>"


class Alignment(NamedTuple):
    """Alignment of one utterance.

    Attributes:
        pairs: (reference unit, hypothesis unit) in order; None on one side is an insertion or a deletion.
    """

    pairs: tuple[tuple[str | None, str | None], ...]

    @property
    def counts(self) -> "Counts":
        """Counts that the pairs add up to."""
        return Counts(
            correct=sum(ref == hyp for ref, hyp in self.pairs),
            substitutions=sum(ref is not None and hyp is not None and ref != hyp for ref, hyp in self.pairs),
            deletions=sum(hyp is None for _, hyp in self.pairs),
            insertions=sum(ref is None for ref, _ in self.pairs),
            sentences=1,
            wrong_sentences=int(any(ref != hyp for ref, hyp in self.pairs)),
        )


class Counts(NamedTuple):
    """Numbers of units and sentences, which add up over utterances."""

    correct: int
    substitutions: int
    deletions: int
    insertions: int
    sentences: int
    wrong_sentences: int

    @property
    def units(self) -> int:
        """Number of units in the references."""
        return self.correct + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Number of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def error_percent(self) -> float:
        """Errors per 100 reference units; NaN if there are none."""
        return 100 * self.errors / self.units if self.units else float("nan")

    @property
    def sentence_error_percent(self) -> float:
        """Sentences with an error, per 100."""
        return 100 * self.wrong_sentences / self.sentences if self.sentences else float("nan")


def add_counts(counts: Sequence[Counts]) -> Counts:
    """Add up the counts of utterances."""
    if not counts:
        return Counts(0, 0, 0, 0, 0, 0)
    return Counts(*np.array(counts, dtype=np.int64).sum(axis=0).tolist())


def split_words(text: str) -> list[str]:
    """Split a text at white space."""
    return text.split()


def split_characters(text: str) -> list[str]:
    """Split a text into characters, the space as SPACE; repeated spaces count once."""
    return [SPACE if character == " " else character for character in " ".join(text.split())]


def align(references: Sequence[str], hypotheses: Sequence[str], split: Callable[[str], list[str]]) -> list[Alignment]:
    """Align each reference with its hypothesis, with the fewest errors.

    Args:
        references: Texts; "" gives insertions only.
        hypotheses: Texts, one for each reference; "" gives deletions only.
        split: Function from a text to its units.
    """
    ref_units, hyp_units = [split(text) for text in references], [split(text) for text in hypotheses]
    if not ref_units:
        return []
    # jiwer splits by the transform that it is given: the units are split already.
    output = jiwer.process_words(ref_units, hyp_units, reference_transform=_identity, hypothesis_transform=_identity)
    return [
        Alignment(tuple(pair for chunk in chunks for pair in _pairs_of(chunk, ref, hyp)))
        for chunks, ref, hyp in zip(output.alignments, ref_units, hyp_units, strict=True)
    ]


def _identity(units: list[list[str]]) -> list[list[str]]:
    return units


def _pairs_of(chunk: jiwer.AlignmentChunk, ref: list[str], hyp: list[str]) -> list[tuple[str | None, str | None]]:
    refs: list[str | None] = [*ref[chunk.ref_start_idx : chunk.ref_end_idx]]
    hyps: list[str | None] = [*hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]]
    length = max(len(refs), len(hyps))
    return list(zip(refs + [None] * (length - len(refs)), hyps + [None] * (length - len(hyps)), strict=True))
