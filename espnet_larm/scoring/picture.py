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

    Each curve has its name at its end. Where one set is drawn, each loop has its change from the loop before, whose
    interval is of the same resamples: bars of the loops overlap also where the change is sure.

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
    if len(points_of) == 1:
        _write_changes(left, *points_of[0])
    if trained_loops is not None:
        left.axvline(trained_loops, color="0.6", linestyle=":")
        place = (trained_loops, 0.97)
        where = {"xycoords": left.get_xaxis_transform(), "textcoords": "offset points"}
        left.annotate("as trained", place, (-4, 0), color="0.4", fontsize=9, ha="right", va="top", **where)
    left.set_xticks(sorted({point.number for _, points in points_of for point in points if point.number is not None}))
    left.set(xlabel="loops", ylabel="word error rate, % (95 % interval)")
    right.set(xlabel="compute, seconds a minute of speech (loops at the points)")
    left.margins(x=0.25, y=0.2)
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
        _draw_bars(axes, xs, known, color)
        _name(axes, (xs[-1], known[-1].rate), label, color)
    for point in points:
        if point.number is None:
            axes.axhline(point.rate, color=color, linestyle="--")
            # At the left edge, wherever the axis begins.
            style = {"fontsize": 10, "va": "bottom", "transform": axes.get_yaxis_transform()}
            axes.text(0.02, point.rate, f"{label}, last read-out", color=color, **style)
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


def _draw_bars(axes: Any, xs: Sequence[float], points: Sequence[Point], color: str) -> None:
    bars = [[point.below for point in points], [point.above for point in points]]
    style = {"marker": "o", "markersize": 5, "capsize": 3, "elinewidth": 1}
    axes.errorbar(xs, [point.rate for point in points], bars, color=color, **style)


def _name(axes: Any, place: tuple[float, float], name: str, color: str) -> None:
    """Write a curve's name behind its end."""
    axes.text(*place, f"  {name}", color=color, fontsize=10, ha="left", va="center")


def _write_changes(axes: Any, result: SetResult, points: Sequence[Point]) -> None:
    """Write under each loop by how many points it differs from the loop before, with the paired interval."""
    rates = {f"loop{point.number}": point for point in points}
    for change in result.differences.get("wer", ()):
        point = rates.get(change["to"])
        if point is not None and None not in (change["points"], *change["interval_points"]):
            low, high = change["interval_points"]
            text = f"{change['points']:+.1f}\n({low:+.1f} to {high:+.1f})"
            place = (point.number, point.rate - point.below)
            axes.text(*place, text, color="0.3", fontsize=8, ha="center", va="top", linespacing=1.1)
