"""What pooling leaves, saves and costs: rows, a table in Markdown, and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.calibrate.pooling_sweep import Cost, Outcome
from espnet_larm.scoring.alignment import split_words
from espnet_larm.scoring.bootstrap import Grouping, Interval, group_utterances, interval
from espnet_larm.scoring.scores import Scores, number, score

# Names of the first row, without and with pooling at other places.
NOWHERE, AT_PLACE = "no pooling", "off at this site"


class Reference(NamedTuple):
    """References of a folder.

    Attributes:
        texts: Reference text by utterance.
        utt2spk: Speaker by utterance, where it is known.
    """

    texts: Mapping[str, str]
    utt2spk: Mapping[str, str]

    @property
    def grouping(self) -> Grouping:
        """The resampled groups of the utterances, in their order."""
        return group_utterances(list(self.texts), self.utt2spk)

    def without(self, left_out: Sequence[str]) -> "Reference":
        """The references of the other utterances.

        Raises:
            ValueError: None of them has a word.
        """
        texts = {key: text for key, text in self.texts.items() if key not in left_out}
        if not any(texts.values()):
            raise ValueError(
                f"the texts of all {len(texts)} utterances are empty"
                f"{f', without {len(left_out)} that are too short' if left_out else ''}; WER needs words."
            )
        return Reference(texts, self.utt2spk)


class Row(NamedTuple):
    """The folder, decoded with one pooling.

    Attributes:
        name: Name of the pooling's method.
        wanted: Retention that was asked for.
        tau: Threshold of affinity pooling; None for other methods.
        retention: Retention that was found.
        hz: Tokens a second of speech behind the site.
        tokens_per_word: Tokens behind the site for each word of the reference.
        scores: Word error rate and its interval.
        points: Difference of WER to the first row, in points.
        points_interval: 95 % interval of that difference, on the same resamples.
        positions: Positions of all prompts that the LM's last layer reads.
        positions_share: Fraction of the positions without pooling at any site.
        flops_share: Fraction of the operations of reading the prompts without pooling at any site.
        lost: Utterances that are too short once they are pooled; their words count as deletions.
    """

    name: str
    wanted: float
    tau: float | None
    retention: float
    hz: float
    tokens_per_word: float
    scores: Scores
    points: float
    points_interval: Interval
    positions: int
    positions_share: float
    flops_share: float
    lost: list[str]

    def as_json(self) -> dict[str, Any]:
        """The row's figures for a JSON file."""
        return {
            "method": self.name,
            "wanted_retention": self.wanted,
            "tau": self.tau,
            "retention": number(self.retention),
            "hz": number(self.hz),
            "tokens_per_word": number(self.tokens_per_word),
            "wer_percent": number(self.scores.total.error_percent),
            "interval_percent": [number(bound) for bound in self.scores.interval],
            "points": number(self.points),
            "points_interval": [number(bound) for bound in self.points_interval],
            "prompt_positions": self.positions,
            "positions_share": number(self.positions_share),
            "flops_share": number(self.flops_share),
            "lost": self.lost,
        }


class Rows:
    """Makes rows of outcomes and compares them with the first, that without pooling at the site.

    Args:
        reference: References of the utterances that are long enough.
        place: The site whose pooling differs by row.
        others_pool: Whether another site pools, in all rows.
        base: The outcome without pooling at the site.
        cost: The cost without pooling at any site.
    """

    def __init__(self, reference: Reference, place: str, others_pool: bool, base: Outcome, cost: Cost) -> None:
        self.reference = reference
        self.place = place
        self.first_name = AT_PLACE if others_pool else NOWHERE
        self.base_outcome = base
        self.cost = cost
        self.base = self._score(base)

    def _score(self, outcome: Outcome) -> Scores:
        return score(self.reference.texts, outcome.texts, split_words, self.reference.grouping)

    def first(self) -> Row:
        """The row without pooling at the site."""
        return self.row(self.first_name, 1.0, None, self.base_outcome)

    def row(self, name: str, wanted: float, tau: float | None, outcome: Outcome) -> Row:
        """The row of an outcome."""
        scores = self._score(outcome)
        points, points_interval = difference(self.base, scores)
        before, after = outcome.kept.get(self.place, (1, 1))
        return Row(
            name,
            wanted,
            tau,
            after / max(1, before),
            after / outcome.seconds,
            after / sum(len(split_words(text)) for text in self.reference.texts.values()),
            scores,
            points,
            points_interval,
            outcome.positions,
            outcome.positions / self.cost.positions,
            outcome.flops / self.cost.flops,
            [key for key in self.reference.texts if key not in outcome.texts],
        )


def difference(before: Scores, after: Scores) -> tuple[float, Interval]:
    """Difference of WER in points, and its 95 % interval on the same resamples."""
    return after.total.error_percent - before.total.error_percent, interval(after.rates - before.rates)


def bounds(points: Interval, sign: str = "") -> list[str]:
    """An interval as two cells of a table, `from` and `to`."""
    return [f"{bound:{sign}.2f}" for bound in points]


def format_rows(rows: Sequence[Row], chosen: Row | None = None) -> Iterator[str]:
    """A table in Markdown."""
    yield (
        "| tau | retention | Hz | tokens a word | WER % | from | to | points | from | to | prompt positions "
        "| % of all sites off | prefill FLOPs, % of all sites off | |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        tau = row.name if row.tau is None else f"{row.tau:g}"
        yield (
            f"| {tau} | {row.retention:.3f} | {row.hz:.2f} | {row.tokens_per_word:.2f} "
            f"| {row.scores.total.error_percent:.2f} "
            f"| {' | '.join(bounds(row.scores.interval))} | {row.points:+.2f} "
            f"| {' | '.join(bounds(row.points_interval, '+'))} "
            f"| {row.positions} | {100 * row.positions_share:.1f} | {100 * row.flops_share:.1f} "
            f"| {'chosen' if row is chosen else ''} |"
        )


def notes_of(reference: Reference, left_out: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """What a table of a folder does not show: what intervals resample, and utterances that are too short."""
    grouping = reference.grouping
    yield f"intervals: {grouping.num_groups} {grouping.unit}s, drawn with replacement"
    if left_out:
        yield f"left out of all rows, too short for the encoder: {len(left_out)} utterances: {', '.join(left_out)}"
    for row in rows:
        if row.lost:
            tau = "" if row.tau is None else f", tau {row.tau:g}"
            yield (
                f"{row.name}{tau}: {len(row.lost)} utterances are too short once pooled, and their words count as "
                f"deletions: {', '.join(row.lost)}"
            )


def add_hz(axes: Any, unpooled: Row, is_x: bool) -> None:
    """Give an axis that shows percent of the tokens another one, at its other side, in tokens a second.

    Args:
        axes: Matplotlib's.
        unpooled: The row in which all tokens are left.
        is_x: Whether it is the level axis.
    """

    def to_hz(percent: Any) -> Any:
        return percent * unpooled.hz / 100

    def to_percent(hz: Any) -> Any:
        return hz * 100 / unpooled.hz

    functions = to_hz, to_percent
    other = axes.secondary_xaxis("top", functions) if is_x else axes.secondary_yaxis("right", functions)
    other.set(**{"xlabel" if is_x else "ylabel": "tokens a second"})


def draw(rows: Sequence[Row], path: Path, chosen: Row | None = None) -> None:
    """Three panels: retention, WER with its interval, and prefill FLOPs, against tau; the first row as a level line.

    Args:
        rows: Rows, the first without pooling at the site.
        path: The PNG file to write.
        chosen: The row to mark.
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
    add_hz(panels[0], unpooled, is_x=False)
    panels[1].errorbar(taus, wers, [below, above], marker="o", capsize=3, elinewidth=1)
    base = unpooled.scores
    panels[1].axhline(base.total.error_percent, color="0.4", linestyle="--", label=f"{unpooled.name}, 95 %")
    panels[1].axhspan(base.interval.low, base.interval.high, color="0.4", alpha=0.1, linewidth=0)
    panels[1].set(ylabel="word error rate, % (95 % interval)", ylim=(0, None))
    panels[2].plot(taus, [100 * row.flops_share for row in pooled], marker="o")
    panels[2].set(ylabel="prefill FLOPs of the LM, % of all sites off", ylim=(0, 105))
    for axes in panels:
        if chosen is not None and chosen.tau is not None:
            axes.axvline(chosen.tau, color="C1", linestyle=":", label="chosen")
        axes.set_xlabel("tau")
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
