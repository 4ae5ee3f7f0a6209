"""Draw the pictures of egs/an4 again from the tables of its RESULTS.md, so that both say the same.

    PYTHONPATH=tools python tools/pictures.py

It writes egs/an4/wer_by_loops.png and wer_by_seconds.png (the README's), baselines.png, adaptation_study.png and
similarity_profile.png.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from studies.pooling_oracle.oracle import Similarity
from studies.pooling_oracle.report import draw_profile
from studies.reports import new_figure, save_figure

FOLDER = Path(__file__).parents[1] / "egs/an4"
BLOCKS_OF_LOOP = 2
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
OURS, OTHERS = "C0", "0.35"
MIDDLE_PERCENT = 50
# Rows of the grid that the README's picture shows: how the table's title begins, its name there, blocks that run.
SHOWN = (
    ("unshared stack of the same depth", "unshared, 3.90 M, 12 blocks", 12),
    ("unshared stack of the same parameters", "its 2 blocks once, 0.74 M", 2),
    ("ESPnet's conformer", "ESPnet's conformer, 0.79 M (1 seed)", 3),
)
REFERENCE = "LARM, the main configuration"

Row = dict[str, str]


class Rate(NamedTuple):
    """A word error rate in percent, between the bounds of 95 % of the resamples."""

    percent: float
    low: float
    high: float

    @property
    def bars(self) -> list[list[float]]:
        """Lengths of an error bar; of few seeds the mean may lie outside."""
        return [[max(0.0, self.percent - self.low)], [max(0.0, self.high - self.percent)]]


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Columns and rows of each table of a page."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns, _, *rows = ([cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines())
        yield columns, rows


def table_with(text: str, *columns: str) -> list[list[str]]:
    """Rows of the first table whose first columns are these.

    Raises:
        ValueError: There is none.
    """
    for found, rows in tables(text):
        if tuple(found[: len(columns)]) == columns:
            return rows
    raise ValueError(f"no table begins with the columns {', '.join(columns)}")


def numbers(cell: str) -> list[float]:
    """Numbers of a cell, of seeds for example."""
    return [float(number) for number in NUMBER.findall(cell)]


def rate_of(cells: Sequence[str]) -> Rate:
    """The rate of three cells: percent, from, to."""
    return Rate(*(numbers(cell)[0] for cell in cells))


def draw_loops(text: str, path: Path) -> None:
    """Draw WER by loops of the main model, and beside it what the same schedule gives other stacks."""
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    rows = table_with(text, "loops", "WER %", "from", "to", "CER %")
    loops = [int(numbers(row[0])[0]) for row in rows]
    rates = [rate_of(row[1:4]) for row in rows]
    bars = [[bar[0] for bar in side] for side in zip(*(rate.bars for rate in rates), strict=True)]
    left.errorbar(loops, [rate.percent for rate in rates], bars, marker="o", capsize=3, elinewidth=1, color=OURS)
    for loop, rate, row in zip(loops, rates, rows, strict=True):
        changes = [numbers(cell)[0] for cell in row[6:9] if cell]
        change = "\n{:+.1f}\n({:+.1f} to {:+.1f})".format(*changes) if changes else ""
        left.text(loop, rate.low - 0.15, f"{rate.percent:.1f}{change}", fontsize=8, ha="center", va="top", color="0.3")
    left.axvline(6, color="0.6", linestyle=":", zorder=0)
    left.text(6.1, max(rate.high for rate in rates), "as trained", fontsize=9, va="top", color="0.4")
    left.set(xlabel="loops at inference", ylabel="word error rate, % (95 % interval)", xticks=loops, ylim=(7, None))
    left.set_title("One model of 0.79 M: the dial", fontsize=10)
    _draw_alike(right, table_with(text, "row", "parameters"))
    for axes in (left, right):
        _tidy(axes)
    save_figure(figure, path, dpi=120)


def _draw_alike(axes: Any, rows: Sequence[Sequence[str]]) -> None:
    """Rows of the grid by the number of blocks that run."""
    named = {row[0]: row for row in rows}
    ours = named[REFERENCE]
    depths = [BLOCKS_OF_LOOP * loop for loop in (2, 4, 6)]
    axes.plot(depths, [float(ours[2]), float(ours[3]), float(ours[4])], "-o", color=OURS)
    _draw_rate(axes, depths[-1], ours, OURS)
    axes.text(depths[1], float(ours[3]) - 1.5, "looped, 0.79 M, loops 2, 4, 6", color=OURS, ha="center", va="top")
    for begins, name, blocks in SHOWN:
        row = next(row for title, row in named.items() if title.startswith(begins))
        x = blocks
        if row[2]:
            # A little aside, or the bars of both would hide each other.
            x = blocks + 0.3
            axes.plot([depth + 0.3 for depth in depths], [float(cell) for cell in row[2:5]], "--o", color=OTHERS)
        _draw_rate(axes, x, row, OTHERS)
        low, high = float(row[5]), float(row[6])
        place, side = {
            2: ((blocks - 0.4, high + 0.8), "bottom"),
            3: ((blocks - 0.4, low - 3.4), "top"),
            12: ((depths[1] - 0.6, float(row[4]) + 3.2), "bottom"),
        }[blocks]
        axes.text(*place, name, color=OTHERS, va=side)
    axes.set(xlabel="blocks that run", xlim=(1, 13.5), ylim=(4, None), xticks=(2, 3, 4, 8, 12))
    axes.set_title("Trained alike, a short schedule; crosses: seeds", fontsize=10)


def _draw_rate(axes: Any, x: float, row: Sequence[str], color: str) -> None:
    rate = rate_of(row[4:7])
    axes.errorbar(x, rate.percent, rate.bars, marker="o", capsize=3, elinewidth=1, color=color)
    seeds = numbers(row[7])
    if len(seeds) > 1:
        axes.plot([x + 0.25] * len(seeds), seeds, "x", color=color, markersize=5)


def draw_baselines(text: str, path: Path) -> None:
    """Draw the points by which each row of the grid lies beside the reference, with the paired interval."""
    rows = [row for row in table_with(text, "row", "parameters") if row[8]]
    figure = new_figure(9, 1.2 + 0.42 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        rate = Rate(*(numbers(cell)[0] for cell in row[8:11]))
        sure = rate.low > 0 or rate.high < 0
        color = OURS if sure else "0.5"
        bars = rate.bars
        axes.errorbar(rate.percent, place, xerr=bars, marker="o", color=color, capsize=3)
        note = f"{row[4]} %" if len(numbers(row[7])) > 1 else f"{row[4]} %, 1 seed"
        where = {"textcoords": "offset points", "va": "center"}
        axes.annotate(note, (rate.high, place), (7, 0), fontsize=9, color="0.3", **where)
    reference = next(row for row in table_with(text, "row", "parameters") if not row[8])
    axes.axvline(0, color="0.3", linewidth=1)
    axes.text(0, -0.8, f" {REFERENCE}: {reference[4]} %", fontsize=9, va="center")
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -1.2)
    axes.set_xscale("symlog", linthresh=5, linscale=1.2)
    axes.set_xticks([-5, -2, 0, 2, 5, 20, 100], ["-5", "-2", "0", "+2", "+5", "+20", "+100"])
    axes.set_xlim(-7, 500)
    axes.minorticks_off()
    axes.set_xlabel(
        "points of WER beside the reference, 95 % of the same resamples\n(grey: they hold 0); at each bar the WER"
    )
    _tidy(axes)
    save_figure(figure, path)


def draw_adaptation(text: str, path: Path) -> None:
    """Draw error rate against nats lost a token of text, a point a way of adapting; bars from seed to seed."""
    rows = table_with(text, "row", "learns in the LM")
    figure = new_figure(9.5, 5)
    axes = figure.subplots()
    names, before = [], ""
    for row in rows:
        names.append(row[0].replace("the same", before).replace(" to the base on text", ""))
        before = row[0]
    crowd = sorted((numbers(row[4])[0], name) for row, name in zip(rows, names, strict=True) if _is_crowded(row))
    for row, name in zip(rows, names, strict=True):
        (nats, *of_nats), (wer, *of_wer) = numbers(row[8]), numbers(row[4])
        color = OURS if "KL" in name else OTHERS
        bars = {"xerr": _span(nats, of_nats), "yerr": _span(wer, of_wer)}
        axes.errorbar(nats, wer, marker="o", color=color, capsize=2, elinewidth=1, **bars)
        text = f"{name}, {row[1].partition(' (')[0]}"
        style = {"fontsize": 8, "color": color, "va": "center"}
        if _is_crowded(row):
            place = (0.9, 52.5 + 2.6 * crowd.index((wer, name)))
            axes.annotate(
                text, (nats, wer), place, arrowprops={"arrowstyle": "-", "color": "0.8", "relpos": (0, 0.5)}, **style
            )
        else:
            left = wer < MIDDLE_PERCENT
            shift = (-9, 6) if left else (-20, 18)
            axes.annotate(text, (nats, wer), shift, textcoords="offset points", ha="right" if left else "left", **style)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlim(-0.003, 16)
    axes.margins(y=0.1)
    axes.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    axes.set_xlabel("text lost: nats per token above the LM before (blue: with KL to the base on text)")
    axes.set_ylabel("WER of the development set, %")
    _tidy(axes)
    save_figure(figure, path)


def _is_crowded(row: Sequence[str]) -> bool:
    """Whether a way of adapting lies among many others, so that its name stands aside."""
    return 0.05 < numbers(row[8])[0] < 1 and numbers(row[4])[0] > MIDDLE_PERCENT


def _span(mean: float, values: Sequence[float]) -> list[list[float]]:
    return [[mean - min(values)], [max(values) - mean]] if values else [[0.0], [0.0]]


def draw_seconds(text: str, path: Path) -> None:
    """Draw WER against seconds of a set: fixed numbers of loops, utterances that leave by a rule, other encoders."""
    rows = table_with(text, "way", "mean loops", "WER %", "s (range)")
    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    fixed = sorted((row for row in rows if row[0].isdigit()), key=lambda row: int(row[0]))
    axes.plot(*zip(*map(_cost, fixed), strict=True), "-o", color=OURS, label="all utterances run these loops")
    for row in fixed:
        axes.annotate(row[0], _cost(row), (0, 7), textcoords="offset points", fontsize=8, color=OURS, ha="center")
    others = [row for row in rows if not row[1]]
    left = [row for row in rows if row not in fixed and row not in others]
    rules = dict.fromkeys(row[0].partition(":")[0] for row in left)
    for color, rule in zip(("C1", "C2", "C3", "C4", "C5"), rules, strict=False):
        points = [_cost(row) for row in left if row[0].partition(":")[0] == rule]
        axes.plot(*zip(*points, strict=True), "D", color=color, markersize=5, label=f"each leaves by {rule}")
    for row in others:
        axes.plot(*_cost(row), "s", color=OTHERS)
        axes.annotate(row[0], _cost(row), (7, 0), textcoords="offset points", fontsize=9, color=OTHERS, va="center")
    axes.set(xlabel="seconds for the test set on one core", ylabel="word error rate, %", xlim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes)
    save_figure(figure, path, dpi=120)


def _cost(row: Sequence[str]) -> tuple[float, float]:
    """Seconds and word error rate."""
    return numbers(row[3])[0], float(row[2])


def draw_cosines(text: str, path: Path) -> None:
    """Draw the profile of cosines as the study does."""
    rows = table_with(text, "layer", "within words")
    draw_profile([Similarity(int(row[0]), *map(float, row[1:])) for row in rows], path)


def _tidy(axes: Any) -> None:
    axes.grid(color="0.92", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> int:
    """Draw all of them."""
    text = (FOLDER / "RESULTS.md").read_text(encoding="utf-8")
    draw_loops(text, FOLDER / "wer_by_loops.png")
    draw_seconds(text, FOLDER / "wer_by_seconds.png")
    draw_baselines(text, FOLDER / "baselines.png")
    draw_adaptation(text, FOLDER / "adaptation_study.png")
    draw_cosines(text, FOLDER / "similarity_profile.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
