"""Audio of any length: cut, recognised piece by piece, joined. Memory is that of a few pieces.

Times of words are needed only where pieces overlap, but are asked of all pieces, so that one rule joins them.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from espnet_larm.recognize.long.cutting import Cutting, Piece, cut
from espnet_larm.recognize.long.joining import join
from espnet_larm.recognize.machine import keep_memory_flat
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.recognize.transcripts import GREEDY, Cost, Hypothesis, Search, Transcript
from espnet_larm.recognize.words import SPACE, Word, has_words

# Padded audio of the pieces that are recognised together.
BATCH_SECONDS = 60.0


def transcribe_blocks(
    recognizer: Recognizer,
    blocks: Iterable[np.ndarray],
    num_loops: int | None = None,
    search: Search = GREEDY,
    with_words: bool = False,
    cutting: Cutting = Cutting(),  # noqa: B008  # immutable
) -> tuple[Transcript, Cost]:
    """Recognise a stream of audio.

    Audio of one piece gives what `transcribe` gives (test_short_file_gives_what_its_samples_give).

    Args:
        recognizer: The model.
        blocks: Samples (N,) each at the model's rate, of any length.
        num_loops: The last loop, one that `check_loops` accepts; the model's own number by default.
        search: Greedy by default.
        with_words: Give words with their times.
        cutting: Lengths of pieces.

    Returns:
        The transcript, whose scores are sums over pieces, and what it cost.

    Raises:
        ValueError: The lengths of pieces are out of range, or what `blocks` raises.
    """
    cutting.check()
    joined = _Joined(recognizer)
    pieces = cut(blocks, recognizer.sample_rate_hz, cutting)
    for batch in _batches(pieces, BATCH_SECONDS * recognizer.sample_rate_hz):
        is_whole = not joined.num_pieces and len(batch) == 1
        waveforms = [_preprocessed(recognizer, piece) for piece in batch]
        transcripts, cost = recognizer.decode(waveforms, num_loops, search, with_words or not is_whole)
        joined.add_cost(cost)
        if not is_whole:
            keep_memory_flat()
        if is_whole:
            joined.only = transcripts[0]
        for piece, transcript in zip(batch, transcripts, strict=True):
            joined.add(piece, transcript)
    return joined.transcript(with_words), joined.cost


def _batches(pieces: Iterator[Piece], max_padded: float) -> Iterator[list[Piece]]:
    """Pieces in order, as many at once as their padded samples allow; one at least."""
    batch: list[Piece] = []
    longest = 0
    for piece in pieces:
        longest = max(longest, len(piece.samples))
        if batch and longest * (len(batch) + 1) > max_padded:
            yield batch
            batch, longest = [], len(piece.samples)
        batch.append(piece)
    if batch:
        yield batch


def _preprocessed(recognizer: Recognizer, piece: Piece) -> np.ndarray:
    if recognizer.preprocess is None:
        return piece.samples
    return recognizer.preprocess("piece", {"speech": piece.samples})["speech"]


class _Joined:
    """Words of the pieces so far, by read-out."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.num_pieces = 0
        self.only: Transcript | None = None
        self.words: dict[int, list[Word]] = {}
        self.scores: dict[int, float] = {}
        self.guards: dict[int, tuple[str, ...]] = {}
        self.cost = Cost(0.0, {})

    def add_cost(self, cost: Cost) -> None:
        before = self.cost
        read_outs = {number: before.read_outs.get(number, 0.0) + spent for number, spent in cost.read_outs.items()}
        self.cost = Cost(before.features + cost.features, read_outs, before.words + cost.words)

    def add(self, piece: Piece, transcript: Transcript) -> None:
        rate = self.recognizer.sample_rate_hz
        start_s, overlap_s = piece.start / rate, piece.overlap / rate
        self.num_pieces += 1
        for number, hypothesis in transcript.hypotheses.items():
            following = [word.later(start_s) for word in hypothesis.words]
            words = self.words.setdefault(number, [])
            # Only the last words can lie in the overlap: an hour's need not be looked through at each piece.
            tail = sum(1 for _ in itertools.takewhile(lambda word: word.end_s > start_s, reversed(words)))
            kept = len(words) - tail
            words[kept:] = join(words[kept:], following, start_s, start_s + overlap_s)
            self.scores[number] = self.scores.get(number, 0.0) + hypothesis.score
            self.guards[number] = tuple(dict.fromkeys((*self.guards.get(number, ()), *hypothesis.guards)))

    def transcript(self, with_words: bool) -> Transcript:
        if self.num_pieces == 1 and self.only is not None:
            return self.only
        return Transcript({number: self._hypothesis(number, with_words) for number in self.words})

    def _hypothesis(self, number: int, with_words: bool) -> Hypothesis:
        token_list, words = self.recognizer.ctc_token_list, self.words[number]
        space = token_list.index(SPACE) if SPACE in token_list else None
        token_ids = list(_with_spaces([word.token_ids for word in words], space))
        tokens = [token_list[token_id] for token_id in token_ids]
        text = self.recognizer.tokens_to_text(tokens)
        if self.recognizer.llm_searcher is not None and has_words(token_list):
            # The CTC head may lack characters of an LM's text.
            text = " ".join(word.text for word in words)
        timed = tuple(words) if with_words else ()
        return Hypothesis(text, tokens, token_ids, self.scores[number], timed, self.guards[number])


def _with_spaces(words: Sequence[Sequence[int]], space: int | None) -> Iterator[int]:
    for index, token_ids in enumerate(words):
        if index and space is not None:
            yield space
        yield from token_ids
