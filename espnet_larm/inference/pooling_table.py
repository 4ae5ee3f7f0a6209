"""What pooling leaves, saves and costs: rows, their table in Markdown, and its picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.inference.pooling_sweep import Outcome
from espnet_larm.scoring.alignment import split_words
from espnet_larm.scoring.bootstrap import Grouping, Interval, interval
from espnet_larm.scoring.scores import Scores, number, score


class Reference(NamedTuple):
    """What is said in a folder.

    Attributes:
        texts: By utterance.
        grouping: Of them, in their order.
    """

    texts: Mapping[str, str]
    grouping: Grouping


class Row(NamedTuple):
    """The folder, read with one pooling.

    Attributes:
        name: Of the pooling's method.
        wanted: Retention that was asked for.
        tau: Of affinity pooling, None of others.
        retention: That was found.
        scores: Of the words.
        points: More than without pooling, of 100 words.
        points_interval: 95 % of it, on the same resamples.
        positions: Of all prompts, that the LM's last layer reads.
        flops_share: Of what reading the prompts takes without pooling.
    """

    name: str
    wanted: float
    tau: float | None
    retention: float
    scores: Scores
    points: float
    points_interval: Interval
    positions: int
    flops_share: float

    def as_json(self) -> dict[str, Any]:
        """Figures alone."""
        return {
            "method": self.name,
            "wanted_retention": self.wanted,
            "tau": self.tau,
            "retention": number(self.retention),
            "wer_percent": number(self.scores.total.error_percent),
            "interval_percent": [number(bound) for bound in self.scores.interval],
            "points": number(self.points),
            "points_interval": [number(bound) for bound in self.points_interval],
            "prompt_positions": self.positions,
            "flops_share": number(self.flops_share),
        }


class Rows:
    """Makes rows of outcomes, beside the first of them: that without pooling."""

    def __init__(self, reference: Reference, place: str, unpooled: Outcome) -> None:
        self.reference = reference
        self.place = place
        self.unpooled = unpooled
        self.base = self._score(unpooled)

    def _score(self, outcome: Outcome) -> Scores:
        return score(self.reference.texts, outcome.texts, split_words, self.reference.grouping)

    def first(self) -> Row:
        """Without pooling at the place."""
        return self.row("no pooling", 1.0, None, self.unpooled)

    def row(self, name: str, wanted: float, tau: float | None, outcome: Outcome) -> Row:
        """With what gave an outcome."""
        scores = self._score(outcome)
        points, points_interval = difference(self.base, scores)
        before, after = outcome.kept.get(self.place, (1, 1))
        return Row(
            name,
            wanted,
            tau,
            after / max(1, before),
            scores,
            points,
            points_interval,
            outcome.positions,
            outcome.flops / self.unpooled.flops,
        )


def difference(before: Scores, after: Scores) -> tuple[float, Interval]:
    """Points of WER from one to another, and 95 % of them on the same resamples."""
    return after.total.error_percent - before.total.error_percent, interval(after.rates - before.rates)


def show_interval(points: Interval, sign: str = "") -> str:
    """As a cell has it."""
    return f"[{points.low:{sign}.2f}, {points.high:{sign}.2f}]"


def format_rows(rows: Sequence[Row], chosen: Row | None = None) -> Iterator[str]:
    """A table in Markdown."""
    yield "| tau | retention | WER % | 95 % | points | 95 %, paired | prompt positions | prefill FLOPs % | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        tau = row.name if row.tau is None else f"{row.tau:g}"
        yield (
            f"| {tau} | {row.retention:.3f} | {row.scores.total.error_percent:.2f} "
            f"| {show_interval(row.scores.interval)} | {row.points:+.2f} | {show_interval(row.points_interval, '+')} "
            f"| {row.positions} | {100 * row.flops_share:.1f} | {'chosen' if row is chosen else ''} |"
        )


def draw(rows: Sequence[Row], path: Path, chosen: Row | None = None) -> None:
    """Three panels: retention, WER with its interval, and prefill FLOPs, against tau; without pooling as a level line.

    Args:
        rows: The first without pooling.
        path: A PNG.
        chosen: Marked.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    unpooled, *pooled = rows
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    taus = [row.tau for row in pooled]
    wers = [row.scores.total.error_percent for row in pooled]
    below = [max(0.0, wer - row.scores.interval.low) for wer, row in zip(wers, pooled, strict=True)]
    above = [max(0.0, row.scores.interval.high - wer) for wer, row in zip(wers, pooled, strict=True)]
    panels[0].plot(taus, [100 * row.retention for row in pooled], marker="o")
    panels[0].set(ylabel="speech tokens left, %", ylim=(0, 105))
    panels[1].errorbar(taus, wers, [below, above], marker="o", capsize=3, elinewidth=1)
    base = unpooled.scores
    panels[1].axhline(base.total.error_percent, color="0.4", linestyle="--", label="no pooling, 95 %")
    panels[1].axhspan(base.interval.low, base.interval.high, color="0.4", alpha=0.1, linewidth=0)
    panels[1].set(ylabel="word error rate, % (95 % interval)", ylim=(0, None))
    panels[2].plot(taus, [100 * row.flops_share for row in pooled], marker="o")
    panels[2].set(ylabel="prefill FLOPs of the LM, % of no pooling", ylim=(0, 105))
    for axes in panels:
        if chosen is not None and chosen.tau is not None:
            axes.axvline(chosen.tau, color="C1", linestyle=":", label="chosen")
        axes.set_xlabel("tau")
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
