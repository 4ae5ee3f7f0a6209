"""What is asked of a recogniser, and what it gives."""

from collections.abc import Sequence
from typing import NamedTuple

from espnet_larm.recognize.words import Word

ORDINARY, PREFIX = "ordinary", "prefix"
BEAM_TYPES = (ORDINARY, PREFIX)


class Hypothesis(NamedTuple):
    """What was recognised at one read-out.

    Attributes:
        text: For people.
        tokens: Of the token list.
        token_ids: Their ids.
        score: By CTC, log-probability of the best path, with a beam of the text as far as the beam held its alignments;
            by an LM, of the text and its end; with ctc_weight or ngram_weight, of all, weighted.
        words: With their times, if they were asked for.
        guards: What an LM's text was held to and would not have kept by itself (`llm_searching.GUARDS`).
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    words: tuple[Word, ...] = ()
    guards: tuple[str, ...] = ()


EMPTY = Hypothesis("", [], [], 0.0)


class Search(NamedTuple):
    """How a head is searched.

    Attributes:
        beam_size: Hypotheses in the beam, of CTC a prefix beam; 1 is greedy search.
        nbest: Hypotheses that are kept of the last read-out, at most beam_size.
        beam_type: Of an LM's beam: ORDINARY, or PREFIX for hypotheses of different lengths.
    """

    beam_size: int = 1
    nbest: int = 1
    beam_type: str = ORDINARY

    @property
    def is_beam(self) -> bool:
        """Whether an LM is searched with a beam; a prefix beam of one is none of greedy search."""
        return self.beam_size > 1 or self.beam_type == PREFIX


GREEDY = Search()


class Transcript(NamedTuple):
    """What was recognised in one utterance.

    Attributes:
        hypotheses: By loop or layer, ascending; the last is the result.
        skipped: Why the utterance could not be encoded, its hypotheses being empty; "" if it was.
        others: The second best and further hypotheses of the last read-out.
    """

    hypotheses: dict[int, Hypothesis]
    skipped: str = ""
    others: tuple[Hypothesis, ...] = ()

    @property
    def best(self) -> Hypothesis:
        """The hypothesis of the last loop or layer."""
        return self.hypotheses[max(self.hypotheses)]

    @property
    def text(self) -> str:
        """Of the last loop or layer."""
        return self.best.text


class Cost(NamedTuple):
    """Seconds of compute; reading audio is not in it.

    Attributes:
        features: Front end and normalisation.
        read_outs: By loop or layer: features, encoder up to it, and its own search, greedy or by a beam, so what a
            run costs that stops there.
        words: Alignments of all read-outs, if times of words were asked for; in no other figure.
    """

    features: float
    read_outs: dict[int, float]
    words: float = 0.0


def skipped_transcript(numbers: Sequence[int], reason: str) -> Transcript:
    """Of an utterance that could not be encoded, empty at all read-outs."""
    return Transcript(dict.fromkeys(numbers, EMPTY), reason)
