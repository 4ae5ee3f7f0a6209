"""Draws word error rates against loops, and against the compute that they cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.files.atomic import write_beside
from espnet_larm.scoring.experiment import AUTO_NUMBER, ReadOutResult, SetResult
from espnet_larm.scoring.tables import real_time_factor

SECONDS_A_MINUTE = 60
BAR_DISTANCE_LOOPS = 0.12


class Point(NamedTuple):
    """A scored read-out.

    Attributes:
        number: Number of the loop or layer, the mean where each utterance has its own; None if it is not known.
        cost: Seconds of compute a minute of speech; None if it was not measured.
        rate: Word error rate in percent.
        below: From the rate down to the interval's end.
        above: From the rate up to the interval's end.
    """

    number: float | None
    cost: float | None
    rate: float
    below: float
    above: float


def draw_wer(results: Sequence[SetResult], path: Path, trained_loops: int | None = None) -> bool:
    """Draw two panels: WER with its interval by loop, and by seconds of compute a minute of speech.

    Args:
        results: Sets, a curve each; a read-out whose number is not known is a level line in the left panel.
        path: PNG to write.
        trained_loops: Loops of the training, marked in the left panel.

    Returns:
        Whether there was anything to draw.
    """
    points_of = [(result, points) for result in results if (points := _points(result))]
    if not points_of:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    one_tag = len({result.tag for result, _ in points_of}) == 1
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for index, (result, points) in enumerate(points_of):
        label = result.name if one_tag else f"{result.tag}\n{result.name}"
        # Points stand side by side, or the bars of several sets would hide each other.
        aside = (index - (len(points_of) - 1) / 2) * BAR_DISTANCE_LOOPS
        _draw_by_loop(left, points, aside, label, f"C{index}")
        _draw_by_cost(right, points, f"C{index}")
    if trained_loops is not None:
        left.axvline(trained_loops, color="0.6", linestyle=":", label="loops in training")
    left.set_xticks(sorted({point.number for _, points in points_of for point in points if point.number is not None}))
    left.set(xlabel="loops", ylabel="word error rate, % (95 % interval)", ylim=(0, None))
    right.set(xlabel="compute, seconds a minute of speech (loops at the points)", xlim=(0, None))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    with write_beside(path) as part:
        figure.savefig(part, dpi=120, format="png")
    plt.close(figure)
    return True


def _points(result: SetResult) -> list[Point]:
    return [point for read_out in result.read_outs if (point := _point(result, read_out)) is not None]


def _point(result: SetResult, read_out: ReadOutResult) -> Point | None:
    scores = read_out.scores.get("wer", {})
    rate = scores.get("error_percent")
    if rate is None:
        return None
    low, high = scores["interval_percent"]
    factor = real_time_factor(result, read_out)
    cost = None if factor is None else factor * SECONDS_A_MINUTE
    number = result.mean_loops if read_out.number == AUTO_NUMBER else read_out.number
    return Point(number, cost, rate, max(0.0, rate - low), max(0.0, high - rate))


def _draw_by_loop(axes: Any, points: Sequence[Point], aside: float, label: str, color: str) -> None:
    numbered = [(point.number + aside, point) for point in points if point.number is not None]
    if numbered:
        xs, known = zip(*numbered, strict=True)
        _draw_bars(axes, xs, known, color, label)
    for point in points:
        if point.number is None:
            axes.axhline(point.rate, color=color, linestyle="--", label=f"{label}, last read-out")
            axes.axhspan(point.rate - point.below, point.rate + point.above, color=color, alpha=0.1, linewidth=0)


def _draw_by_cost(axes: Any, points: Sequence[Point], color: str) -> None:
    timed = [(point.cost, point) for point in points if point.cost is not None]
    if not timed:
        return
    xs, known = zip(*timed, strict=True)
    _draw_bars(axes, xs, known, color)
    for x, point in timed:
        name = "last" if point.number is None else f"{point.number:.3g}"
        axes.annotate(name, (x, point.rate), (5, 5), textcoords="offset points", color="0.3")


def _draw_bars(axes: Any, xs: Sequence[float], points: Sequence[Point], color: str, label: str | None = None) -> None:
    bars = [[point.below for point in points], [point.above for point in points]]
    style = {"marker": "o", "markersize": 5, "capsize": 3, "elinewidth": 1}
    axes.errorbar(xs, [point.rate for point in points], bars, label=label, color=color, **style)
