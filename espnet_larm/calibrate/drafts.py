"""Thresholds on the probabilities of draft heads: how many words each loses, and how many calls it saves."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import HEADS, NONE, THRESHOLD, VERIFIED, Batching, DecodeConfig
from espnet_larm.recognize.decoding import decode_table
from espnet_larm.recognize.output.results import Transcript
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.alignment import add_counts, align, split_words

logger = logging.getLogger(__name__)

NUM_WARM = 8


class Row(NamedTuple):
    """One way to decode the development set.

    Attributes:
        options: Options of `DecodeConfig`.
        wer_percent: Word error rate.
        calls: Calls of the LM, prefills included, one for a whole batch.
        row_calls: Calls if each utterance were decoded alone.
        tokens_per_row_call: Tokens that a call yields an utterance, ends included.
        real_time_factor: Seconds of compute a second of audio, features and encoder included.
    """

    options: dict[str, Any]
    wer_percent: float
    calls: int
    row_calls: int
    tokens_per_row_call: float
    real_time_factor: float

    @property
    def name(self) -> str:
        """The row's name."""
        if self.options["drafts"] == NONE:
            return "a token a call"
        return f"tau {self.options['draft_tau']}" if self.options["accept"] == THRESHOLD else VERIFIED


class _Texts:
    """Takes transcripts as `HypothesisWriter` does."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def write(self, key: str, transcript: Transcript) -> None:
        self.found[key] = transcript.text


def calibrate(
    recognizer: Recognizer,
    table: AudioTable,
    texts: Mapping[str, str],
    taus: Sequence[float],
    heads: Mapping[str, Any],
    batching: Batching = Batching(),  # noqa: B008  # immutable
) -> Iterator[Row]:
    """Decode a development set without drafts, with all drafts verified, and with each threshold.

    Args:
        recognizer: The model, which has draft heads.
        table: Its audio.
        texts: References by utterance; others are left out.
        taus: Thresholds, in the order in which they are tried.
        heads: Options of `DecodeConfig` for drafts of heads.
        batching: How to read and batch.

    Raises:
        ValueError: The model has no draft heads, an option is out of its range, or an utterance has no text.
    """
    keys = table.keys(None)
    if lacking := [key for key in keys if key not in texts]:
        raise ValueError(f"{len(lacking)} utterances have no text, the first of them {lacking[0]}.")
    heads = {"drafts": HEADS, **heads}
    ways: list[dict[str, Any]] = [{"drafts": NONE}, {**heads, "accept": VERIFIED}]
    ways += [{**heads, "accept": THRESHOLD, "draft_tau": tau} for tau in taus]
    # All are checked before the first is decoded.
    plans = [recognizer.plan(DecodeConfig(**options)) for options in ways]
    # What is done once, such as laying out weights, is in no row.
    decode_table(recognizer, table, keys[:NUM_WARM], plans[0], batching, _Texts())
    for options, plan in zip(ways, plans, strict=True):
        writer = _Texts()
        stats = decode_table(recognizer, table, keys, plan, batching, writer)
        yield _row(options, stats, [texts[key] for key in keys], [writer.found.get(key, "") for key in keys])


def _row(options: dict[str, Any], stats: dict[str, Any], references: list[str], found: list[str]) -> Row:
    if stats["failed"]:
        raise ValueError(f"{len(stats['failed'])} utterances cannot be read; see above.")
    counts = add_counts([one.counts for one in align(references, found, split_words)])
    (seconds,) = (each["seconds"] for each in stats["loops"].values())
    return Row(
        options,
        counts.error_percent,
        stats["decoder_calls"],
        stats["row_calls"],
        stats.get("tokens_per_row_call", 1.0),
        seconds / stats["audio_seconds"],
    )


def choose(rows: Sequence[Row], target_wer_loss: float) -> Row:
    """The row with the fewest calls whose WER is at most `target_wer_loss` points above that of the first.

    Of equals the better one, then the earlier: a threshold that saves nothing beside verifying is not chosen.
    """
    allowed = [row for row in rows if row.wer_percent <= rows[0].wer_percent + target_wer_loss]
    return min(allowed, key=lambda row: (row.row_calls, row.wer_percent))


def format_rows(rows: Sequence[Row], chosen: Row | None = None) -> Iterator[str]:
    """A table in Markdown."""
    yield "| decoding | WER % | points | calls, batched | calls, one by one | tokens a call | real-time factor | |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        points = row.wer_percent - rows[0].wer_percent
        yield (
            f"| {row.name} | {row.wer_percent:.2f} | {points:+.2f} | {row.calls} | {row.row_calls} "
            f"| {row.tokens_per_row_call:.2f} | {row.real_time_factor:.4f} | {'chosen' if row is chosen else ''} |"
        )
