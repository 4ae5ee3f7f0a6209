"""Audio of any length: cut, recognised piece by piece, joined. Memory is that of a few pieces.

Times of words are needed only where pieces overlap, but are asked of all pieces, so that one rule joins them.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from espnet_larm.recognize.audio import Preprocess
from espnet_larm.recognize.batch import Heads, decode_batch
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.long.cutting import BATCH_SECONDS, Cutting, Piece, batches, cut
from espnet_larm.recognize.long.joining import join
from espnet_larm.recognize.machine import keep_memory_flat
from espnet_larm.recognize.output.results import NO_NUMBERS, Cost, Decoded, Hypothesis, Transcript, skipped_transcript
from espnet_larm.recognize.output.words import SPACE, Word, has_words
from espnet_larm.recognize.plan import Plan

logger = logging.getLogger(__name__)


def transcribe_blocks(heads: Heads, preprocess: Preprocess | None, blocks: Iterable[np.ndarray], plan: Plan) -> Decoded:
    """Recognise a stream of audio.

    Audio of one piece gives what `recognize` gives (test_short_file_gives_what_its_samples_give).

    Args:
        heads: The model.
        preprocess: Its preprocessor; None for none.
        blocks: Samples (N,) each at the model's rate, of any length.
        plan: How to decode.

    Returns:
        One transcript, whose scores are sums over pieces, and what it cost.

    Raises:
        ValueError: What `blocks` raises.
    """
    joined = _Joined(heads, plan)
    pieces = cut(blocks, heads.sample_rate_hz, cutting_of(plan.config))
    for batch in batches(pieces, BATCH_SECONDS * heads.sample_rate_hz):
        is_whole = batch[0].is_whole
        waveforms = [_preprocessed(preprocess, piece) for piece in batch]
        transcripts, cost = decode_batch(heads, waveforms, plan if is_whole else plan.with_words())
        joined.cost = joined.cost.plus(cost)
        if is_whole:
            joined.only = transcripts[0]
        else:
            keep_memory_flat()
        for piece, transcript in zip(batch, transcripts, strict=True):
            joined.add(piece, transcript)
    return Decoded([joined.transcript()], joined.cost)


def cutting_of(config: DecodeConfig) -> Cutting:
    """The lengths of pieces that the options ask for."""
    return Cutting(config.long_seconds, config.longest_piece, config.shortest_piece, config.overlap)


def _preprocessed(preprocess: Preprocess | None, piece: Piece) -> np.ndarray:
    if preprocess is None:
        return piece.samples
    return preprocess("piece", {"speech": piece.samples})["speech"]


class _Joined:
    """Words of the pieces so far, by read-out."""

    def __init__(self, heads: Heads, plan: Plan) -> None:
        self.heads, self.plan = heads, plan
        self.only: Transcript | None = None
        self.words: dict[int, list[Word]] = {}
        self.scores: dict[int, float] = {}
        self.guards: dict[int, tuple[str, ...]] = {}
        self.cost = Cost()
        self.num_pieces = 0
        self.num_samples, self.sample_loops = 0, 0.0
        self.skipped: list[str] = []

    def add(self, piece: Piece, transcript: Transcript) -> None:
        self.num_pieces += 1
        if transcript.skipped:
            self.skipped.append(transcript.skipped)
        if transcript.loops is not None:
            self.num_samples += len(piece.samples)
            self.sample_loops += len(piece.samples) * transcript.loops
        rate = self.heads.sample_rate_hz
        start_s, overlap_s = piece.start / rate, piece.overlap / rate
        for number, hypothesis in transcript.hypotheses.items():
            following = [word.later(start_s) for word in hypothesis.words]
            words = self.words.setdefault(number, [])
            # Only the last words can lie in the overlap: an hour's need not be looked through at each piece.
            tail = sum(1 for _ in itertools.takewhile(lambda word: word.end_s > start_s, reversed(words)))
            kept = len(words) - tail
            words[kept:] = join(words[kept:], following, start_s, start_s + overlap_s)
            self.scores[number] = self.scores.get(number, 0.0) + hypothesis.score
            self.guards[number] = tuple(dict.fromkeys((*self.guards.get(number, ()), *hypothesis.guards)))

    def transcript(self) -> Transcript:
        if self.only is not None:
            return self.only
        if NO_NUMBERS in self.skipped:
            return skipped_transcript(self.plan.numbers, NO_NUMBERS)
        if len(self.skipped) == self.num_pieces:
            reason = f"all {self.num_pieces} pieces are left out, the first since {self.skipped[0]}"
            return skipped_transcript(self.plan.numbers, f"{reason} (--longest_piece, --shortest_piece)")
        if self.skipped:
            logger.warning("%d of %d pieces are left out: %s", len(self.skipped), self.num_pieces, self.skipped[0])
        loops = self.sample_loops / self.num_samples if self.num_samples else None
        return Transcript({number: self._hypothesis(number) for number in self.words}, loops=loops)

    def _hypothesis(self, number: int) -> Hypothesis:
        token_list, words = self.heads.ctc.token_list, self.words[number]
        token_ids = _ids_of(token_list, words)
        tokens = [token_list[token_id] for token_id in token_ids]
        timed = tuple(words) if self.plan.config.with_words else ()
        text = text_of_words(self.heads, self.plan, words)
        return Hypothesis(text, tokens, token_ids, self.scores[number], timed, self.guards[number])


def text_of_words(heads: Heads, plan: Plan, words: Sequence[Word]) -> str:
    """The text of words that the CTC head has aligned."""
    token_list = heads.ctc.token_list
    if plan.llm is not None and has_words(token_list):
        # The CTC head may lack characters of an LM's hypothesis.
        return " ".join(word.text for word in words)
    return heads.ctc.tokens_to_text([token_list[token_id] for token_id in _ids_of(token_list, words)])


def _ids_of(token_list: Sequence[str], words: Sequence[Word]) -> list[int]:
    space = token_list.index(SPACE) if SPACE in token_list else None
    return list(_with_spaces([word.token_ids for word in words], space))


def _with_spaces(words: Sequence[Sequence[int]], space: int | None) -> Iterator[int]:
    for index, token_ids in enumerate(words):
        if index and space is not None:
            yield space
        yield from token_ids
