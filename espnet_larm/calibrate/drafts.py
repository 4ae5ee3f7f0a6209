"""Which threshold on what draft heads are sure of loses how many words, and saves how many calls."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.decoding import Settings, decode_table
from espnet_larm.recognize.drafting import HEADS, NONE, THRESHOLD, VERIFIED
from espnet_larm.recognize.effort import Effort
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.recognize.transcripts import Transcript
from espnet_larm.scoring.alignment import add_counts, align, split_words

logger = logging.getLogger(__name__)

NUM_WARM = 8


class Row(NamedTuple):
    """One way to decode the development set.

    Attributes:
        options: Of `drafting.resolve`.
        wer_percent: Word error rate.
        calls: Of the LM, prefills included, one for a whole batch.
        row_calls: As many as the calls would be an utterance at a time.
        tokens_per_row_call: Tokens that a call yields an utterance, ends included.
        real_time_factor: Seconds of compute, features and encoder included, a second of audio.
    """

    options: dict[str, Any]
    wer_percent: float
    calls: int
    row_calls: int
    tokens_per_row_call: float
    real_time_factor: float

    @property
    def name(self) -> str:
        """What the row is called."""
        if self.options["drafts"] == NONE:
            return "a token a call"
        return f"tau {self.options['tau']}" if self.options["accept"] == THRESHOLD else VERIFIED


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
    tokens_per_call: int | None = None,
    tau_of: str | None = None,
    settings: Settings = Settings(),  # noqa: B008  # immutable
) -> Iterator[Row]:
    """Decode a development set without drafts, with all drafts verified, and with each threshold.

    Args:
        recognizer: Of a model with draft heads.
        table: Audio.
        texts: What was said, by utterance; others are left out.
        taus: Thresholds, in the order in which they are tried.
        tokens_per_call: As in `drafting.resolve`.
        tau_of: Likewise.
        settings: How to decode.

    Raises:
        ValueError: The model has no draft heads, an option is out of its range, or an utterance has no text.
    """
    keys = table.keys(None)
    if lacking := [key for key in keys if key not in texts]:
        raise ValueError(f"{len(lacking)} utterances have no text, the first of them {lacking[0]}.")
    shared: dict[str, Any] = {"drafts": HEADS, "tokens_per_call": tokens_per_call, "tau_of": tau_of}
    heads = {name: value for name, value in shared.items() if value is not None}
    ways: list[dict[str, Any]] = [{"drafts": NONE}, {**heads, "accept": VERIFIED}]
    ways += [{**heads, "accept": THRESHOLD, "tau": tau} for tau in taus]
    for options in ways:
        # All are checked before the first is decoded.
        recognizer.set_drafting(**options)
    # What is done once, such as laying out weights, is in no row.
    decode_table(recognizer, table, keys[:NUM_WARM], settings, _Texts())
    for options in ways:
        yield _measure(recognizer, table, keys, texts, options, settings)


def _measure(
    recognizer: Recognizer,
    table: AudioTable,
    keys: Sequence[str],
    texts: Mapping[str, str],
    options: dict[str, Any],
    settings: Settings,
) -> Row:
    assert recognizer.llm_searcher is not None
    recognizer.set_drafting(**options)
    recognizer.llm_searcher.effort = Effort()
    writer = _Texts()
    stats = decode_table(recognizer, table, keys, settings, writer)
    if stats["failed"]:
        raise ValueError(f"{len(stats['failed'])} utterances cannot be read; see above.")
    aligned = align([texts[key] for key in keys], [writer.found[key] for key in keys], split_words)
    counts = add_counts([one.counts for one in aligned])
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
