"""The curve of fixed loops, the two oracles, and the curves of all rules.

Shapes: U utterances, C checkpoint loops.
"""

from typing import NamedTuple

import numpy as np

from espnet_larm.calibrate.loop_rules import Row, rows_of
from espnet_larm.calibrate.loop_traces import Integers, Traces
from espnet_larm.scoring.bootstrap import Grouping

EQUAL, FEWEST = "equals the deepest", "fewest errors"


class Point(NamedTuple):
    """Mean loops and word error rate in percent."""

    mean_loops: float
    wer_percent: float


class Curves(NamedTuple):
    """What a set shows.

    Attributes:
        fixed: All utterances run the same loops, from the fewest to the most.
        oracles: By oracle.
        chosen: By oracle the number of utterances by loop.
        rules: Rows of each rule, from the fewest loops to the most.
    """

    fixed: list[Point]
    oracles: dict[str, Point]
    chosen: dict[str, dict[int, int]]
    rules: dict[str, list[Row]]


def curves_of(traces: Traces, grouping: Grouping) -> Curves:
    """The curves of a set.

    Args:
        traces: What it does at every checkpoint loop.
        grouping: Groups of its utterances, for intervals.
    """
    places = {EQUAL: equal_places(traces), FEWEST: traces.errors.argmin(axis=1)}
    return Curves(
        fixed_of(traces),
        {name: point_of(traces, each) for name, each in places.items()},
        {
            name: {loop: int((each == at).sum()) for at, loop in enumerate(traces.loops)}
            for name, each in places.items()
        },
        {name: rows_of(traces, name, grouping) for name in traces.numbers},
    )


def fixed_of(traces: Traces) -> list[Point]:
    """A point for each number of loops that all utterances run."""
    return [Point(float(loop), traces.wer_percent(traces.errors[:, at])) for at, loop in enumerate(traces.loops)]


def equal_places(traces: Traces) -> Integers:
    """Index of the shallowest loop at which each utterance has the hypothesis of the deepest one (U,)."""
    return np.array([texts.index(texts[-1]) for texts in traces.texts], dtype=np.int64)


def point_of(traces: Traces, places: Integers) -> Point:
    """What utterances have that leave at these loops (U,)."""
    errors = traces.errors[np.arange(len(places)), places]
    return Point(float(np.array(traces.loops)[places].mean()), traces.wer_percent(errors))


def loops_at_loss(points: list[Point], wer_percent: float) -> float | None:
    """The fewest mean loops of a curve with at most this error rate; None if no point has it."""
    return min((point.mean_loops for point in points if point.wer_percent <= wer_percent + 1e-9), default=None)
