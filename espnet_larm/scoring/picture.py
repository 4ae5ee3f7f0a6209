"""Draws word error rates against loops, and against the compute that they cost."""

from collections.abc import Sequence
from pathlib import Path

from espnet_larm.scoring.experiment import SetResult
from espnet_larm.scoring.tables import real_time_factor

SECONDS_A_MINUTE = 60
BAR_DISTANCE_LOOPS = 0.12


def draw_wer(results: Sequence[SetResult], path: Path, trained_loops: int | None = None) -> bool:
    """Two panels: WER with its interval by loop, and by seconds of compute a minute of speech.

    Args:
        results: A curve each; sets without loops are points.
        path: A PNG, its folder made if it is not there.
        trained_loops: Marked in the left panel.

    Returns:
        Whether there was anything to draw.
    """
    drawn = [result for result in results if any(_wer(read_out.scores) is not None for read_out in result.read_outs)]
    if not drawn:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    one_tag = len({result.tag for result in drawn}) == 1
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for index, result in enumerate(drawn):
        label = result.name if one_tag else f"{result.tag}\n{result.name}"
        loops, costs = _curves(result)
        # Side by side, or the bars of several sets hide each other.
        aside = (index - (len(drawn) - 1) / 2) * BAR_DISTANCE_LOOPS
        for axes, (xs, rates, bars), shift in ((left, loops, aside), (right, costs, 0.0)):
            shifted = [x + shift for x in xs]
            axes.errorbar(shifted, rates, bars, label=label, marker="o", markersize=5, capsize=3, elinewidth=1)
        for x, rate, read_out in zip(costs[0], costs[1], result.read_outs, strict=False):
            right.annotate(str(read_out.number), (x, rate), (5, 5), textcoords="offset points", color="0.3")
    if trained_loops is not None:
        left.axvline(trained_loops, color="0.6", linestyle=":", label="loops in training")
    numbers = sorted({read_out.number for result in drawn for read_out in result.read_outs})
    left.set_xticks(numbers)
    left.set(xlabel="loops", ylabel="word error rate, % (95 % interval)", ylim=(0, None))
    right.set(xlabel="compute, seconds a minute of speech (loops at the points)", xlim=(0, None))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


Curve = tuple[list[float], list[float], list[list[float]]]


def _curves(result: SetResult) -> tuple[Curve, Curve]:
    """(x, rate, [below, above]) by loop, and by cost where it was measured."""
    by_loop: Curve = ([], [], [[], []])
    by_cost: Curve = ([], [], [[], []])
    for read_out in result.read_outs:
        rate = _wer(read_out.scores)
        if rate is None:
            continue
        low, high = read_out.scores["wer"]["interval_percent"]
        factor = real_time_factor(result, read_out)
        for curve, x in ((by_loop, float(read_out.number)), (by_cost, factor and factor * SECONDS_A_MINUTE)):
            if x is not None:
                curve[0].append(x)
                curve[1].append(rate)
                curve[2][0].append(max(0.0, rate - low))
                curve[2][1].append(max(0.0, high - rate))
    return by_loop, by_cost


def _wer(scores: dict[str, dict[str, float]]) -> float | None:
    return scores.get("wer", {}).get("error_percent")
