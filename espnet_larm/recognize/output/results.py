"""What a recogniser gives: hypotheses, transcripts, and what they cost."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from espnet_larm.recognize.output.effort import Effort
from espnet_larm.recognize.output.words import Word


class Hypothesis(NamedTuple):
    """The result of a search at one read-out.

    Attributes:
        text: The hypothesis for people.
        tokens: Its tokens, from the token list.
        token_ids: Their ids.
        score: Log-probability. By CTC, that of the best path, and with a beam that of all alignments in the beam; by an
            LM, that of the hypothesis and its end; with ctc_weight or ngram_weight, the weighted sum.
        words: Words with their times, if they were asked for.
        guards: Guards that the LM's hypothesis met (`llm_search.GUARDS`).
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    words: tuple[Word, ...] = ()
    guards: tuple[str, ...] = ()


EMPTY = Hypothesis("", [], [], 0.0)
# Why an utterance counts as failed.
NO_NUMBERS = "the model's scores are no finite numbers; with a half type, take --dtype float32"


class Transcript(NamedTuple):
    """The hypotheses of one utterance.

    Attributes:
        hypotheses: The best hypothesis by loop or layer, ascending; the last is the result. With `num_loops: auto` the
            only one, by AUTO_NUMBER, which is 0.
        skipped: Why the utterance could not be encoded, its hypotheses being empty; "" if it was.
        others: The second best and further hypotheses of the last read-out.
        edges: Where each frame that the encoder read begins among those of the front end, and their number; None if
            none were merged, and for audio that was cut.
        loops: With `num_loops: auto` the loop at which the utterance left, the mean of its pieces if it was cut; None
            otherwise, and for one that could not be encoded.
    """

    hypotheses: dict[int, Hypothesis]
    skipped: str = ""
    others: tuple[Hypothesis, ...] = ()
    edges: tuple[int, ...] | None = None
    loops: float | None = None

    @property
    def best(self) -> Hypothesis:
        """The hypothesis of the last loop or layer."""
        return self.hypotheses[max(self.hypotheses)]

    @property
    def text(self) -> str:
        """The text of the best hypothesis."""
        return self.best.text


class Cost(NamedTuple):
    """What decoding took. Costs of several batches are added by `plus`.

    Attributes:
        features: Seconds of front end and normalisation.
        read_outs: Seconds by loop or layer: features, encoder up to it, and its own search; so what a run costs that
            stops there. Reading audio is not in it.
        words: Seconds of the alignments of all read-outs, if times of words were asked for; in no other figure.
        effort: Calls and tokens of an LM's searches.
        num_frames: Feature frames before any were merged.
        num_frames_left: Feature frames that the encoder was given.
        num_halved: Batches that did not fit into memory and were decoded in halves.
    """

    features: float = 0.0
    read_outs: Mapping[int, float] = {}
    words: float = 0.0
    effort: Effort = Effort()
    num_frames: int = 0
    num_frames_left: int = 0
    num_halved: int = 0

    def plus(self, other: "Cost") -> "Cost":
        """The cost of both."""
        numbers = {**self.read_outs, **other.read_outs}
        return Cost(
            self.features + other.features,
            {number: self.read_outs.get(number, 0.0) + other.read_outs.get(number, 0.0) for number in numbers},
            self.words + other.words,
            self.effort.plus(other.effort),
            self.num_frames + other.num_frames,
            self.num_frames_left + other.num_frames_left,
            self.num_halved + other.num_halved,
        )


class Decoded(NamedTuple):
    """Transcripts of utterances that were decoded together, in their order, and their cost."""

    transcripts: list[Transcript]
    cost: Cost


def skipped_transcript(numbers: Sequence[int], reason: str) -> Transcript:
    """The transcript of an utterance that could not be encoded: empty at all read-outs."""
    return Transcript(dict.fromkeys(numbers, EMPTY), reason)
