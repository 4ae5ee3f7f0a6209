"""The table of a grid in Markdown, and its picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from espnet_larm.scoring.bootstrap import NUM_RESAMPLES
from studies.grid.comparing import LAST, Comparison, RowResult
from studies.reports import new_figure, save_figure, table_of
from studies.seed_errors import row_interval

SECONDS_A_MINUTE = 60
INCHES_A_ROW = 0.42


def format_table(
    results: Sequence[RowResult], comparisons: Mapping[str, Comparison], parameters: Mapping[str, int]
) -> Iterator[str]:
    """Lines of the table in Markdown.

    Args:
        results: Rows; the streams of their seeds' draws are in this order.
        comparisons: Comparisons with the reference, by name of the row.
        parameters: Numbers of parameters by row.
    """
    names = earlier_read_outs(results)
    columns = (
        *("row", "parameters", *(name.replace("loop", "loop ") for name in names), "WER %", "from", "to"),
        *("WER % by seed", "beside the reference", "from", "to", "minutes"),
    )
    rows = []
    for stream, result in enumerate(results):
        means = [f"{result.read_outs[name].mean:.1f}" if name in result.read_outs else "" for name in names]
        bounds = row_interval(result.last, stream, NUM_RESAMPLES)
        minutes = sum(result.seconds) / len(result.seconds) / SECONDS_A_MINUTE
        rows.append(
            (
                *(result.row.title, f"{parameters[result.row.name] / 1e6:.2f} M", *means, f"{result.last.mean:.1f}"),
                *(f"{bound:.1f}" for bound in bounds),
                ", ".join(f"{rate:.1f}" for rate in result.last.by_seed),
                *_comparison(comparisons.get(result.row.name)),
                f"{minutes:.0f}",
            )
        )
    return table_of(columns, rows)


def earlier_read_outs(results: Sequence[RowResult]) -> list[str]:
    """Names of read-outs before the last that at least two rows have; one row's own would be a column of blanks."""
    found: dict[str, int] = {}
    for result in results:
        for name in [name for name in result.read_outs if name != LAST][:-1]:
            found[name] = found.get(name, 0) + 1
    return sorted((name for name, count in found.items() if count > 1), key=lambda name: (len(name), name))


def draw_grid(results: Sequence[RowResult], reference: str, path: Path) -> None:
    """Draw every row's mean with its interval, and each seed as a point.

    Args:
        results: Rows, top to bottom.
        reference: Name of the row whose mean is a line through all others.
        path: PNG to write.
    """
    figure = new_figure(9, 1.2 + INCHES_A_ROW * len(results))
    axes = figure.subplots()
    for stream, result in enumerate(results):
        low, high = row_interval(result.last, stream, NUM_RESAMPLES)
        mean = result.last.mean
        color = "C0" if result.row.name == reference else "0.35"
        # Of few seeds and groups, the mean may lie outside of the resamples' middle.
        bars = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        axes.errorbar(mean, stream, xerr=bars, marker="|", markersize=13, color=color, capsize=3)
        if len(result.last.seeds) > 1:
            axes.plot(result.last.by_seed, [stream] * len(result.last.seeds), "o", markersize=4, color=color, alpha=0.5)
        if result.row.name == reference:
            axes.axvline(mean, color="C0", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(results)), [result.row.title for result in results])
    axes.invert_yaxis()
    axes.set_xlabel("word error rate, % (mean over seeds with its 95 % interval; points: seeds)")
    axes.grid(axis="x", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _comparison(found: Comparison | None) -> list[str]:
    return ["", "", ""] if found is None else [f"{points:+.1f}" for points in (found.points, *found.interval)]
