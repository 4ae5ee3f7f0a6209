"""Thresholds on the probabilities of draft heads: how many words each loses, and how many calls it saves.

Rows, table and choice are those of `accept: relaxed`, too (relaxed.py).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from espnet_larm.calibrate.development import keys_with_text
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import HEADS, NONE, RELAXED, THRESHOLD, VERIFIED, Batching, DecodeConfig
from espnet_larm.recognize.decoding import decode_table
from espnet_larm.recognize.output.effort import BY_CTC, BY_DECODING, BY_LLM
from espnet_larm.recognize.output.results import Transcript
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.alignment import Counts, add_counts, align, split_words

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
        accepted_by: Number of utterances by who took their hypothesis; empty but for `accept: relaxed`.
    """

    options: dict[str, Any]
    wer_percent: float
    calls: int
    row_calls: int
    tokens_per_row_call: float
    real_time_factor: float
    accepted_by: Mapping[str, int] = {}

    @property
    def name(self) -> str:
        """The row's name."""
        if self.options.get("accept") == RELAXED:
            return f"entropy {self.options['relaxed_entropy']:.4g}, tau {self.options['relaxed_tau']:g}"
        if self.options["drafts"] == NONE:
            return "a token a call"
        return f"tau {self.options['draft_tau']}" if self.options["accept"] == THRESHOLD else VERIFIED


class Texts:
    """Takes transcripts as `HypothesisWriter` does."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def write(self, key: str, transcript: Transcript) -> None:
        """Take one."""
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
    keys = keys_with_text(table, texts)
    heads = {"drafts": HEADS, **heads}
    ways: list[dict[str, Any]] = [{"drafts": NONE}, {**heads, "accept": VERIFIED}]
    ways += [{**heads, "accept": THRESHOLD, "draft_tau": tau} for tau in taus]
    # All are checked before the first is decoded.
    plans = [recognizer.plan(DecodeConfig(**options)) for options in ways]
    # What is done once, such as laying out weights, is in no row.
    decode_table(recognizer, table, keys[:NUM_WARM], plans[0], batching, Texts())
    for options, plan in zip(ways, plans, strict=True):
        writer = Texts()
        stats = decode_table(recognizer, table, keys, plan, batching, writer)
        yield _row(options, stats, [texts[key] for key in keys], [writer.found.get(key, "") for key in keys])


def count_errors(stats: Mapping[str, Any], references: list[str], found: list[str]) -> Counts:
    """Word errors of a decoding.

    Args:
        stats: What `decode_table` gave.
        references: Text of each utterance.
        found: Its hypothesis.

    Raises:
        ValueError: Audio could not be read.
    """
    if stats["failed"]:
        raise ValueError(f"{len(stats['failed'])} utterances cannot be read; see above.")
    return add_counts([one.counts for one in align(references, found, split_words)])


def _row(options: dict[str, Any], stats: dict[str, Any], references: list[str], found: list[str]) -> Row:
    counts = count_errors(stats, references, found)
    (seconds,) = (each["seconds"] for each in stats["loops"].values())
    return Row(
        options,
        counts.error_percent,
        stats["decoder_calls"],
        stats["row_calls"],
        stats.get("tokens_per_row_call", 1.0),
        seconds / stats["audio_seconds"],
        stats.get("accepted_by", {}),
    )


def choose(rows: Sequence[Row], target_wer_loss: float, may_be_first: bool = True) -> Row:
    """The row with the fewest calls whose WER is at most `target_wer_loss` points above that of the first.

    Of equals the better one, then the earlier: a threshold that saves nothing beside verifying is not chosen.

    Args:
        rows: The rows, the first a token a call.
        target_wer_loss: Points of WER; below 0 they must be gained.
        may_be_first: Whether the first row may be chosen.

    Raises:
        ValueError: No row that may be chosen loses so little.
    """
    candidates = rows if may_be_first else rows[1:]
    allowed = [row for row in candidates if row.wer_percent <= rows[0].wer_percent + target_wer_loss]
    if not allowed:
        best = min(candidates, key=lambda row: row.wer_percent)
        raise ValueError(
            f"target_wer_loss is {target_wer_loss:g}, but no thresholds lose so little; the best are {best.name}, at "
            f"{best.wer_percent - rows[0].wer_percent:+.2f} points."
        )
    return min(allowed, key=lambda row: (row.row_calls, row.wer_percent))


def format_rows(rows: Sequence[Row], chosen: Row | None = None) -> Iterator[str]:
    """A table in Markdown; with `accept: relaxed`, it says who took which part of the utterances."""
    has_ways = any(row.accepted_by for row in rows)
    ways = " by CTC / the LM / decoding, % |" if has_ways else ""
    yield (
        f"| decoding | WER % | points | calls, batched | calls, one by one | tokens a call | real-time factor |{ways} |"
    )
    yield f"|---|---|---|---|---|---|---|---|{'---|' if has_ways else ''}"
    for row in rows:
        points = row.wer_percent - rows[0].wer_percent
        yield (
            f"| {row.name} | {row.wer_percent:.2f} | {points:+.2f} | {row.calls} | {row.row_calls} "
            f"| {f'{row.tokens_per_row_call:.2f}' if row.row_calls else '-'} | {row.real_time_factor:.4f} "
            f"|{_ways_of(row) if has_ways else ''} {'chosen' if row is chosen else ''} |"
        )


def _ways_of(row: Row) -> str:
    """A cell: percentages of the utterances by who took their hypothesis."""
    total = sum(row.accepted_by.values())
    if not total:
        return " |"
    shares = (100 * row.accepted_by.get(way, 0) / total for way in (BY_CTC, BY_LLM, BY_DECODING))
    return f" {' / '.join(f'{share:.0f}' for share in shares)} |"
