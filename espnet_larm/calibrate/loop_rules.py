"""Thresholds of the rules by which utterances leave a looped encoder: words that each loses, loops that it saves.

What a threshold would do is counted from a set's traces, not decoded.
Shapes: U utterances, C checkpoint loops.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet_larm.calibrate.loop_traces import Integers, Traces
from espnet_larm.recognize.leaving.rules import RULES
from espnet_larm.scoring.bootstrap import NUM_RESAMPLES, Grouping, Interval, draw_groups, interval

MOST_THRESHOLDS = 60
# No error among n words leaves up to 3 / n of them possible, at 95 %.
RULE_OF_THREE = 3.0


class Row(NamedTuple):
    """What one rule does with one threshold.

    Attributes:
        rule: Name of the rule.
        floor: The first loop at which it lets an utterance leave.
        threshold: The threshold.
        mean_loops: Mean loops of an utterance.
        wer_percent: Word error rate.
        points: Its difference from the deepest loop's.
        interval: 95 % interval of that, on the same resamples.
    """

    rule: str
    floor: int
    threshold: float
    mean_loops: float
    wer_percent: float
    points: float
    interval: Interval


def places_left(traces: Traces, rule: str, threshold: float) -> Integers:
    """Index of the loop at which each utterance leaves (U,)."""
    leaves = RULES[rule].says_leave(torch.from_numpy(traces.numbers[rule]), threshold).numpy()
    leaves[:, -1] = True
    return leaves.argmax(axis=1)


def rows_of(traces: Traces, rule: str, grouping: Grouping) -> list[Row]:
    """A row for each threshold that lets utterances leave at other loops, from the fewest loops to the most.

    Args:
        traces: What the set does.
        rule: Name of the rule.
        grouping: Groups of the utterances, for intervals.
    """
    found: dict[float, Row] = {}
    for row in rows_at(traces, rule, thresholds_of(traces, rule), grouping):
        found.setdefault(row.mean_loops, row)
    return sorted(found.values(), key=lambda row: row.mean_loops)


def rows_at(traces: Traces, rule: str, thresholds: Sequence[float], grouping: Grouping) -> list[Row]:
    """What a rule does with each of some thresholds."""
    loops, utterances = np.array(traces.loops), np.arange(len(traces.keys))
    places = [places_left(traces, rule, threshold) for threshold in thresholds]
    errors = [traces.errors[utterances, each] for each in places]
    bounds = _intervals_of_loss(traces, errors, grouping)
    last = traces.wer_percent(traces.errors[:, -1])
    rates = [traces.wer_percent(each) for each in errors]
    floor = traces.loops[RULES[rule].num_compared - 1]
    return [
        Row(rule, floor, threshold, float(loops[left].mean()), rate, rate - last, bound)
        for threshold, left, rate, bound in zip(thresholds, places, rates, bounds, strict=True)
    ]


def _intervals_of_loss(traces: Traces, errors: Sequence[Integers], grouping: Grouping) -> list[Interval]:
    """Intervals of the points that errors (U,) lie above the deepest loop's, all on the same resamples."""
    if not errors:
        return []
    lost = [np.bincount(grouping.group_of, 100.0 * (each - traces.errors[:, -1])) for each in errors]
    words = np.bincount(grouping.group_of, traces.words.astype(float))
    # Drawn once for all: drawing takes longer than all else.
    drawn = [draws.astype(float) for draws in draw_groups(grouping.num_groups, NUM_RESAMPLES)]
    with np.errstate(invalid="ignore"):
        points = np.concatenate([draws @ np.stack(lost, axis=1) / (draws @ words)[:, None] for draws in drawn])
    return [interval(each) for each in points.T]


def thresholds_of(traces: Traces, rule: str) -> list[float]:
    """Thresholds between the numbers that were measured before the last loop, and one beyond them all."""
    if (only := RULES[rule].threshold) is not None:
        return [only]
    values = traces.numbers[rule][:, :-1]
    values = np.unique(values[np.isfinite(values)])
    if not len(values):
        return []
    # Between two numbers: a batch rounds otherwise than its utterances alone.
    between = (values[:-1] + values[1:]) / 2
    beyond = values[0] - abs(values[0]) / 100 if RULES[rule].leaves_above else values[-1] * 1.01
    chosen = np.linspace(0, len(between) - 1, min(MOST_THRESHOLDS, len(between))).round().astype(int)
    return [*between[np.unique(chosen)].tolist(), float(beyond)]


def best_within_loss(rows: Sequence[Row], max_wer_loss: float) -> Row | None:
    """The row with the fewest loops that is shown to lose at most so many points of WER; None if there is none."""
    return next((row for row in rows if is_shown(row, max_wer_loss)), None)


def is_shown(row: Row, max_wer_loss: float) -> bool:
    """Whether neither the loss nor the upper end of its interval is above a bound."""
    return max(row.points, row.interval.high) <= max_wer_loss


def _best_at_mean(rows: Sequence[Row], mean_loops: float) -> Row | None:
    """The row with the most loops up to a mean; None if there is none."""
    return max((row for row in rows if row.mean_loops <= mean_loops), key=lambda row: row.mean_loops, default=None)


def choose(
    traces: Traces, by_rule: Mapping[str, Sequence[Row]], max_wer_loss: float | None, mean_loops: float
) -> tuple[list[Row], Row]:
    """The best row of each rule, and the best of all.

    Args:
        traces: What the set does.
        by_rule: Rows of each rule, from the fewest loops to the most.
        max_wer_loss: Points of WER that may be lost, in the fewest loops; None looks at `mean_loops` alone.
        mean_loops: The most loops on average, with the fewest errors.

    Raises:
        ValueError: No row does; with what is needed or allowed.
    """
    deepest = traces.loops[-1]
    every = [row for rows in by_rule.values() for row in rows]
    if max_wer_loss is None:
        found = [_best_at_mean(rows, mean_loops) for rows in by_rule.values()]
        best = [row for row in found if row is not None]
        if not best:
            least = min(row.mean_loops for row in every)
            raise ValueError(f"mean_loops is {mean_loops:g}; allowed: {least:.2f} to {deepest}.")
        return best, min(best, key=lambda row: (row.wer_percent, row.mean_loops))
    found = [best_within_loss(rows, max_wer_loss) for rows in by_rule.values()]
    best = [row for row in found if row is not None and row.mean_loops < deepest]
    if not best:
        raise ValueError(_why_none_is_shown(every, int(traces.words.sum()), max_wer_loss, deepest))
    return best, min(best, key=lambda row: (row.mean_loops, row.wer_percent))


def check_size(num_words: int, max_wer_loss: float) -> None:
    """Refuse a set in which so small a loss could be there without a single error to show it.

    Raises:
        ValueError: With the number of words that would do.
    """
    needed = math.ceil(100 * RULE_OF_THREE / max_wer_loss)
    if num_words < needed:
        raise ValueError(
            f"the set has {num_words} words, too few to show a loss of at most {max_wer_loss:g} points of WER; about "
            f"{needed} would do, or name a mean number of loops (--mean_loops)."
        )


def _why_none_is_shown(rows: Sequence[Row], num_words: int, max_wer_loss: float, num_loops: int) -> str:
    """Why no row is shown to lose so little, with the number of words that would show it."""
    hopeful = [row for row in rows if row.points < max_wer_loss and row.mean_loops < num_loops]
    if not hopeful:
        return (
            f"no rule saves loops at a loss of at most {max_wer_loss:g} points of WER; allow a larger one, or train "
            "with a smaller checkpoint_period."
        )
    # An interval narrows with the root of the number of words.
    factors = [((row.interval.high - row.points) / (max_wer_loss - row.points)) ** 2 for row in hopeful]
    return (
        f"the set has {num_words} words, too few to show a loss of at most {max_wer_loss:g} points of WER for any "
        f"threshold; about {math.ceil(num_words * min(factors))} would do, or name a mean number of loops "
        "(--mean_loops)."
    )


def format_rows(traces: Traces, rows: Sequence[Row], chosen: Row) -> list[str]:
    """A table in Markdown: every number of loops that all utterances run, then the rules."""
    lines = [
        "| loops | floor | threshold | mean loops | WER % | points | 95 % interval | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    last = traces.wer_percent(traces.errors[:, -1])
    for index, loop in enumerate(traces.loops):
        rate = traces.wer_percent(traces.errors[:, index])
        lines.append(f"| fixed | {loop} | | {loop:.2f} | {rate:.2f} | {rate - last:+.2f} | | |")
    for row in rows:
        bounds = f"{row.interval.low:+.2f} to {row.interval.high:+.2f}"
        lines.append(
            f"| {row.rule} | {row.floor} | {row.threshold:.4g} | {row.mean_loops:.2f} | {row.wer_percent:.2f} "
            f"| {row.points:+.2f} | {bounds} | {'chosen' if row is chosen else ''} |"
        )
    return lines


def facts_of(traces: Traces, rows: Sequence[Row]) -> dict[str, Any]:
    """What the calibration's file keeps of the set and of the rules."""
    return {
        "utterances": len(traces.keys),
        "words": int(traces.words.sum()),
        "fixed": {str(loop): traces.wer_percent(traces.errors[:, i]) for i, loop in enumerate(traces.loops)},
        "rows": [{**row._asdict(), "interval": list(row.interval)} for row in rows],
    }
