"""Decodes the utterances of a table in batches by length, writes them in their order, and counts what it cost."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from espnet_larm.origin import describe_machine
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.batching import batches_by_length
from espnet_larm.recognize.llm_search import GUARDS
from espnet_larm.recognize.long.cutting import Cutting
from espnet_larm.recognize.long.transcribe import transcribe_blocks
from espnet_larm.recognize.machine import peak_memory_bytes
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.recognize.transcripts import GREEDY, Cost, Search, Transcript, skipped_transcript

logger = logging.getLogger(__name__)

# Utterances whose texts are held until they can be written in order; batches are chosen among them.
WINDOW_SIZE = 2000
SECONDS_BETWEEN_REPORTS = 10.0


class Settings(NamedTuple):
    """How to decode.

    Attributes:
        batch_seconds: Padded audio in a batch, above 0.
        batch_size: Utterances in a batch, 1 or more; None for no bound.
        num_loops: The last loop; None for the model's own.
        search: Of the CTC head or the LM.
        num_workers: 0 reads audio in turn; otherwise a thread reads ahead.
        with_words: Find times of words.
        cutting: What is long audio, and how it is cut.
    """

    batch_seconds: float = 60.0
    batch_size: int | None = None
    num_loops: int | None = None
    num_workers: int = 1
    search: Search = GREEDY
    with_words: bool = False
    cutting: Cutting = Cutting()


class Writer(Protocol):
    """What takes transcripts, `HypothesisWriter` for example."""

    def write(self, key: str, transcript: Transcript) -> None:
        """Take one."""
        ...


class Tally:
    """Counts and seconds of a run."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.num_utts = 0
        self.num_samples = 0
        self.feature_seconds = self.word_seconds = 0.0
        self.seconds = dict.fromkeys(numbers, 0.0)
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.cut: list[str] = []
        self.guarded: dict[str, list[str]] = {}
        self.few: list[str] = []
        self.start = self.reported = time.perf_counter()

    def add(self, num_utts: int, num_samples: int, cost: Cost) -> None:
        """Count utterances that were recognised together."""
        self.num_utts += num_utts
        self.num_samples += num_samples
        self.feature_seconds += cost.features
        self.word_seconds += cost.words
        for number, seconds in cost.read_outs.items():
            self.seconds[number] += seconds

    def note(self, key: str, transcript: Transcript, nbest: int) -> None:
        """Note and say what guards an LM's text met, and note a list of hypotheses that is shorter than asked for."""
        if 1 + len(transcript.others) < nbest and not transcript.skipped:
            self.few.append(key)
        for guard in transcript.best.guards:
            logger.warning("%s: the LM's text met a guard: %s", key, guard)
            self.guarded.setdefault(guard, []).append(key)

    def report(self, total: int) -> None:
        """Say now and then how far the run is."""
        now = time.perf_counter()
        if now - self.reported >= SECONDS_BETWEEN_REPORTS:
            self.reported = now
            logger.info("%d of %d utterances in %.0f s", self.num_utts, total, now - self.start)

    def stats(self, recognizer: Recognizer, search: Search) -> dict[str, Any]:
        """What `stats.json` holds."""
        return {
            "num_utts": self.num_utts,
            "audio_seconds": self.num_samples / recognizer.sample_rate_hz,
            "unit": unit_of(recognizer),
            "loops": {str(number): {"seconds": seconds} for number, seconds in self.seconds.items()},
            "feature_seconds": self.feature_seconds,
            "word_seconds": self.word_seconds,
            "wall_seconds": time.perf_counter() - self.start,
            "peak_memory_bytes": peak_memory_bytes(recognizer.device),
            "skipped": self.skipped,
            "failed": self.failed,
            "cut": self.cut,
            "search": search._asdict(),
            "few_hypotheses": self.few,
            "num_halved_batches": recognizer.num_halved,
            **self._stats_of_pooling(recognizer),
            **self._stats_of_llm(recognizer),
            "machine": describe_machine(recognizer.device),
        }

    def _stats_of_pooling(self, recognizer: Recognizer) -> dict[str, Any]:
        """Frames before and after a front end merged some; nothing if it merges none."""
        if not hasattr(recognizer.model.frontend, "pool"):
            return {}
        return {"frames": {"before": recognizer.num_frames, "left": recognizer.num_frames_left}}

    def _stats_of_llm(self, recognizer: Recognizer) -> dict[str, Any]:
        """Calls, prompt and guards of the LM that decoded, nothing if none did."""
        if recognizer.llm_searcher is None:
            return {}
        decoder, searcher = recognizer.model.decoder, recognizer.llm_searcher
        return {
            "decoder_calls": searcher.effort.num_calls,
            **searcher.effort.stats(),
            "drafting": searcher.drafting._asdict(),
            "pooling": decoder.pooling.options,
            "ctc_weight": searcher.ctc_weight,
            "ngram_file": None if searcher.fused is None else searcher.fused.name,
            "ngram_weight": 0.0 if searcher.fused is None else searcher.fused.weight,
            "prompt": {name: decoder.tokenizer.decode(tokens) for name, tokens in decoder.prompt._asdict().items()},
            "guarded": {guard: self.guarded.get(guard, []) for guard in GUARDS},
        }


def unit_of(recognizer: Recognizer) -> str:
    """What read-outs are called."""
    return "loop" if recognizer.has_loops else "layer"


def decode_table(
    recognizer: Recognizer, table: AudioTable, keys: Sequence[str], settings: Settings, writer: Writer
) -> dict[str, Any]:
    """Decode and write.

    An utterance that is longer than `settings.cutting.whole_s` is streamed, cut and joined, and named in the log.
    One that is too short gets an empty hypothesis and is counted as skipped. One whose audio cannot be read
    gets none and is counted as failed; both are named in the log. The others are decoded.

    Returns:
        The content of `stats.json`.
    """
    tally = Tally(recognizer.read_out_numbers(settings.num_loops))
    for start in range(0, len(keys), WINDOW_SIZE):
        window = keys[start : start + WINDOW_SIZE]
        transcripts: dict[str, Transcript] = {}
        most_samples = settings.cutting.whole_s * recognizer.sample_rate_hz
        short = [key for key in window if table.length(key) <= most_samples]
        for loaded in table.load_ahead(_batches(recognizer, table, short, settings), settings.num_workers):
            for key, reason in loaded.failed.items():
                logger.error("%s: %s", key, reason)
            tally.failed.update(loaded.failed)
            transcripts.update(_decode_batch(recognizer, loaded.waveforms, settings, tally))
            tally.report(len(keys))
        for key in window:
            if table.length(key) > most_samples:
                transcripts.update(_decode_long(recognizer, table, key, settings, tally))
                tally.report(len(keys))
        for key in window:
            if key in transcripts:
                writer.write(key, transcripts[key])
    return tally.stats(recognizer, settings.search)


def log_start(lengths: Sequence[int]) -> None:
    """Say that utterances begin, as `calculate_rtf.py` of ESPnet's recipes reads it.

    Args:
        lengths: Samples of each.
    """
    for length in lengths:
        logger.info("speech length: %d", length)


def log_end(lengths: Sequence[int], transcripts: Sequence[Transcript]) -> None:
    """Say what was recognised in utterances that began together.

    The first has the time of all: the recipes' program adds up the seconds between both lines of each.

    Args:
        lengths: Samples of each; `log_start` was called with the first.
        transcripts: As many.
    """
    for index, transcript in enumerate(transcripts):
        log_start(lengths[index : index + 1] if index else ())
        logger.info("best hypo: %s", transcript.text)


def _batches(recognizer: Recognizer, table: AudioTable, keys: Sequence[str], settings: Settings) -> list[list[str]]:
    lengths = [table.length(key) for key in keys]
    most_samples = settings.batch_seconds * recognizer.sample_rate_hz
    return [[keys[index] for index in batch] for batch in batches_by_length(lengths, most_samples, settings.batch_size)]


def _decode_batch(
    recognizer: Recognizer, waveforms: dict[str, Any], settings: Settings, tally: Tally
) -> Iterator[tuple[str, Transcript]]:
    lengths = [len(waveform) for waveform in waveforms.values()]
    log_start(lengths[:1])
    transcripts, cost = recognizer.decode(
        list(waveforms.values()), settings.num_loops, settings.search, settings.with_words
    )
    log_end(lengths, transcripts)
    tally.add(len(waveforms), sum(lengths), cost)
    for key, transcript in zip(waveforms, transcripts, strict=True):
        if transcript.skipped:
            logger.warning("%s: %s; its hypothesis is empty", key, transcript.skipped)
            tally.skipped[key] = transcript.skipped
        tally.note(key, transcript, settings.search.nbest)
        yield key, transcript


def _decode_long(
    recognizer: Recognizer, table: AudioTable, key: str, settings: Settings, tally: Tally
) -> dict[str, Transcript]:
    """The transcript of a long utterance; none if it cannot be read."""
    minutes = table.length(key) / recognizer.sample_rate_hz / 60
    logger.info("%s has %.1f minutes: it is cut at silences, recognised in pieces, and joined", key, minutes)
    tally.cut.append(key)
    num_samples = [table.length(key)]
    log_start(num_samples)
    try:
        found = transcribe_blocks(
            recognizer, table.stream(key), settings.num_loops, settings.search, settings.with_words, settings.cutting
        )
    except (OSError, ValueError) as error:
        logger.error("%s: %s", key, error)
        log_end(num_samples, [skipped_transcript([0], str(error))])
        tally.failed[key] = str(error)
        return {}
    log_end(num_samples, found[:1])
    tally.add(1, table.length(key), found[1])
    # Joined from pieces, it has one hypothesis whatever is asked for.
    tally.note(key, found[0], 1)
    return {key: found[0]}
