"""Decodes the utterances of a table in batches by length, writes them in their order, and counts what it cost."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from espnet_larm.origin import describe_machine
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import ORDINARY, Batching
from espnet_larm.recognize.llm_search import GUARDS
from espnet_larm.recognize.machine import peak_memory_bytes
from espnet_larm.recognize.model.features import batches_by_length
from espnet_larm.recognize.output.finished import NOTHING_FINISHED, Done, FinishedBatches
from espnet_larm.recognize.output.results import NO_NUMBERS, Cost, Transcript, skipped_transcript
from espnet_larm.recognize.plan import Plan
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.experiment import mean_loops, name_of

logger = logging.getLogger(__name__)

# Utterances whose hypotheses are held until they can be written in order; batches are chosen among them.
WINDOW_SIZE = 2000
SECONDS_BETWEEN_REPORTS = 10.0


class Writer(Protocol):
    """What takes transcripts, `HypothesisWriter` for example."""

    def write(self, key: str, transcript: Transcript) -> None:
        """Take one."""
        ...


class Tally:
    """Counts and seconds of a run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.num_utts = self.num_samples = 0
        self.cost = Cost(read_outs=dict.fromkeys(plan.numbers, 0.0))
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.cut: list[str] = []
        self.guarded: dict[str, list[str]] = {}
        self.few: list[str] = []
        self.loops_used: Counter[str] = Counter()
        self.start = self.reported = time.perf_counter()

    def add(self, done: Done) -> None:
        """Count utterances that were recognised together; log what was remarkable about them."""
        self.num_utts += len(done.transcripts)
        self.num_samples += done.num_samples
        self.cost = self.cost.plus(done.cost)
        for key, transcript in done.transcripts.items():
            self._note(key, transcript, done.is_cut)

    def _note(self, key: str, transcript: Transcript, is_cut: bool) -> None:
        if is_cut:
            self.cut.append(key)
        if transcript.skipped == NO_NUMBERS:
            logger.error("%s: %s", key, transcript.skipped)
            self.failed[key] = transcript.skipped
        elif transcript.skipped:
            logger.warning("%s: %s; its hypothesis is empty", key, transcript.skipped)
            self.skipped[key] = transcript.skipped
        # Joined from pieces, an utterance has one hypothesis whatever is asked for.
        elif not is_cut and 1 + len(transcript.others) < self.plan.config.nbest:
            self.few.append(key)
        if transcript.loops is not None:
            self.loops_used[f"{transcript.loops:g}"] += 1
        for guard in transcript.best.guards:
            logger.warning("%s: the LM's hypothesis met a guard: %s", key, guard)
            self.guarded.setdefault(guard, []).append(key)

    def report(self, total: int) -> None:
        """Log now and then how far the run is."""
        now = time.perf_counter()
        if now - self.reported >= SECONDS_BETWEEN_REPORTS:
            self.reported = now
            logger.info("%d of %d utterances in %.0f s", self.num_utts, total, now - self.start)

    def stats(self, recognizer: Recognizer) -> dict[str, Any]:
        """The content of `stats.json`."""
        cost, config = self.cost, self.plan.config
        search = {"beam_size": config.beam_size, "nbest": config.nbest, "beam_type": config.beam_type or ORDINARY}
        if self.plan.llm is not None and self.plan.llm.edit_passes:
            search["edit_passes"] = self.plan.llm.edit_passes
        return {
            "num_utts": self.num_utts,
            "audio_seconds": self.num_samples / recognizer.sample_rate_hz,
            "unit": unit_of(recognizer),
            "loops": {name_of(number): {"seconds": seconds} for number, seconds in cost.read_outs.items()},
            **self._stats_of_leaving(),
            "feature_seconds": cost.features,
            "word_seconds": cost.words,
            "wall_seconds": time.perf_counter() - self.start,
            "peak_memory_bytes": peak_memory_bytes(recognizer.device),
            "skipped": self.skipped,
            "failed": self.failed,
            "cut": self.cut,
            "search": search,
            "few_hypotheses": self.few,
            "num_halved_batches": cost.num_halved,
            **self._stats_of_pooling(recognizer),
            **self._stats_of_llm(recognizer),
            "machine": describe_machine(recognizer.device),
        }

    def _stats_of_leaving(self) -> dict[str, Any]:
        """The rule, and how many utterances used how many loops; nothing where all run the same."""
        leaving = self.plan.leaving
        if leaving is None:
            return {}
        used = dict(sorted(self.loops_used.items(), key=lambda each: float(each[0])))
        return {
            "leaving": {"rule": leaving.name, "threshold": leaving.threshold, "floor": leaving.floor},
            "loops_used": used,
            "mean_loops": mean_loops(used),
        }

    def _stats_of_pooling(self, recognizer: Recognizer) -> dict[str, Any]:
        """Frames before and after a front end merged some; nothing if it merges none."""
        if not hasattr(recognizer.model.frontend, "pool"):
            return {}
        return {"frames": {"before": self.cost.num_frames, "left": self.cost.num_frames_left}}

    def _stats_of_llm(self, recognizer: Recognizer) -> dict[str, Any]:
        """Calls, prompt and guards of the LM that decoded, or what scored CTC's hypotheses; nothing if none did."""
        plan = self.plan.llm
        if plan is None:
            scorers = (self.plan.words, self.plan.rescorer)
            return {name: value for scorer in scorers if scorer for name, value in scorer.stats().items()}
        decoder = recognizer.model.decoder
        prompt = decoder.prompt if plan.prompt is None else plan.prompt
        pooling = decoder.pooling if plan.pooling is None else plan.pooling
        return {
            "decoder_calls": self.cost.effort.num_calls,
            **self.cost.effort.stats(),
            "drafting": plan.drafting.stats(),
            "pooling": pooling.options,
            "ctc_weight": plan.ctc_weight,
            "ngram_file": None if plan.ngram is None else plan.ngram.name,
            "ngram_weight": 0.0 if plan.ngram is None else plan.ngram.weight,
            "prompt": {name: decoder.tokenizer.decode(tokens) for name, tokens in prompt._asdict().items()},
            "guarded": {guard: self.guarded.get(guard, []) for guard in GUARDS},
        }


def unit_of(recognizer: Recognizer) -> str:
    """The name of a read-out: loop or layer."""
    return "loop" if recognizer.has_loops else "layer"


def decode_table(
    recognizer: Recognizer,
    table: AudioTable,
    keys: Sequence[str],
    plan: Plan,
    batching: Batching,
    writer: Writer,
    finished: FinishedBatches = NOTHING_FINISHED,
) -> dict[str, Any]:
    """Decode and write.

    An utterance that is longer than `long_seconds` is streamed, cut and joined, and named in the log. One that is too
    short gets an empty hypothesis and is counted as skipped. One whose audio cannot be read gets none and is counted
    as failed; both are named in the log. The others are decoded.

    Args:
        recognizer: The model.
        table: The audio.
        keys: Utterances of it, in the order in which they are written.
        plan: How to decode.
        batching: How to make batches.
        writer: What takes the transcripts.
        finished: Batches that an earlier run has finished, which are not decoded again; this one's are added.

    Returns:
        The content of `stats.json`.
    """
    tally = Tally(plan)
    for start in range(0, len(keys), WINDOW_SIZE):
        window = keys[start : start + WINDOW_SIZE]
        transcripts: dict[str, Transcript] = {}
        for done in _decode_window(recognizer, table, window, tally, batching, finished):
            tally.add(done)
            transcripts.update(done.transcripts)
            tally.report(len(keys))
        for key in window:
            if key not in tally.failed:
                writer.write(key, transcripts[key])
    return tally.stats(recognizer)


def _log_start(lengths: Sequence[int]) -> None:
    """Log that utterances begin, as `calculate_rtf.py` of ESPnet's recipes reads it.

    Args:
        lengths: Number of samples of each utterance.
    """
    for length in lengths:
        logger.info("speech length: %d", length)


def _log_end(lengths: Sequence[int], transcripts: Sequence[Transcript]) -> None:
    """Log the hypotheses of utterances that began together.

    The first has the time of all: the recipes' program adds up the seconds between both lines of each.

    Args:
        lengths: Number of samples of each utterance; `_log_start` was called with the first.
        transcripts: A transcript for each.
    """
    for index, transcript in enumerate(transcripts):
        _log_start(lengths[index : index + 1] if index else ())
        logger.info("best hypo: %s", transcript.text)


def _decode_window(
    recognizer: Recognizer,
    table: AudioTable,
    window: Sequence[str],
    tally: Tally,
    batching: Batching,
    finished: FinishedBatches,
) -> Iterator[Done]:
    """What was decoded before, then what is decoded now: batches, and long utterances each for itself."""
    most_samples = tally.plan.config.long_seconds * recognizer.sample_rate_hz
    batches = _batches(recognizer, table, [key for key in window if table.length(key) <= most_samples], batching)
    long = [[key] for key in window if table.length(key) > most_samples]
    known = {tuple(batch): done for batch in batches + long if (done := finished.find(batch)) is not None}
    yield from known.values()
    for loaded in table.load_ahead([batch for batch in batches if tuple(batch) not in known], batching.num_workers):
        for key, reason in loaded.failed.items():
            logger.error("%s: %s", key, reason)
        tally.failed.update(loaded.failed)
        done = _decode_batch(recognizer, loaded.waveforms, tally.plan)
        # A batch with unreadable audio is decoded again: the audio may have been mended.
        if not loaded.failed:
            finished.add(done)
        yield done
    for (key,) in long:
        if (key,) not in known and (cut := _decode_long(recognizer, table, key, tally)) is not None:
            finished.add(cut)
            yield cut


def _batches(recognizer: Recognizer, table: AudioTable, keys: Sequence[str], batching: Batching) -> list[list[str]]:
    lengths = [table.length(key) for key in keys]
    most_samples = batching.batch_seconds * recognizer.sample_rate_hz
    return [
        [keys[index] for index in batch] for batch in batches_by_length(lengths, most_samples, batching.most_utterances)
    ]


def _decode_batch(recognizer: Recognizer, waveforms: dict[str, Any], plan: Plan) -> Done:
    lengths = [len(waveform) for waveform in waveforms.values()]
    _log_start(lengths[:1])
    transcripts, cost = recognizer.decode(list(waveforms.values()), plan)
    _log_end(lengths, transcripts)
    return Done(dict(zip(waveforms, transcripts, strict=True)), sum(lengths), cost)


def _decode_long(recognizer: Recognizer, table: AudioTable, key: str, tally: Tally) -> Done | None:
    """The transcript of a long utterance; None if it cannot be read."""
    minutes = table.length(key) / recognizer.sample_rate_hz / 60
    logger.info("%s has %.1f minutes: it is cut at silences, recognised in pieces, and joined", key, minutes)
    num_samples = [table.length(key)]
    _log_start(num_samples)
    try:
        (transcript,), cost = recognizer.decode_blocks(table.stream(key), tally.plan)
    except (OSError, ValueError) as error:
        logger.error("%s: %s", key, error)
        _log_end(num_samples, [skipped_transcript([0], str(error))])
        tally.failed[key] = str(error)
        return None
    _log_end(num_samples, [transcript])
    return Done({key: transcript}, table.length(key), cost, is_cut=True)
