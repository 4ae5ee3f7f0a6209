"""Ways of pooling at equal tokens a second: WER with intervals, and paired differences."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.calibrate.pooling_places import SpeechPlace, refusal
from espnet_larm.calibrate.pooling_sweep import OFF, UnreachableError, find_tau
from espnet_larm.calibrate.pooling_table import Reference, Row, Rows, add_hz, bounds, difference, notes_of
from espnet_larm.scoring.bootstrap import Interval
from espnet_larm.scoring.scores import number
from studies.pooling_rivals.ctc_place import CtcPlace
from studies.pooling_rivals.ways import UNIFORM_MEAN, WAYS, has_tau
from studies.reports import new_figure, save_figure, table_of

logger = logging.getLogger(__name__)


class Compared(NamedTuple):
    """Comparison on a data folder.

    Attributes:
        name: Name of the folder.
        reference: References of the utterances that are long enough.
        left_out: Utterances that are too short.
        rows: Results: first without pooling at the site, then by wanted retention.
        rival: Name of the way that the others are compared with.
    """

    name: str
    reference: Reference
    left_out: list[str]
    rows: list[Row]
    rival: str = UNIFORM_MEAN

    def beside_rival(self, row: Row) -> tuple[float, Interval] | None:
        """Points of WER above the rival at the same wanted retention; None if there is no such row."""
        found = [each for each in self.rows[1:] if each.name == self.rival and each.wanted == row.wanted]
        if not found or row.name == self.rival:
            return None
        return difference(found[0].scores, row.scores)

    def as_json(self) -> Iterator[dict[str, Any]]:
        """Rows for programs."""
        for row in self.rows:
            beside = self.beside_rival(row)
            more = {} if beside is None else _as_json(*beside)
            yield {**row.as_json(), f"beside_{self.rival}": more or None}

    def about(self) -> dict[str, Any]:
        """Facts of the folder, for programs."""
        return {
            "data": self.name,
            "num_utterances": len(self.reference.texts),
            "left_out": self.left_out,
            "interval_unit": self.reference.grouping.unit,
        }

    def format(self) -> Iterator[str]:
        """A heading, notes and a table in Markdown."""
        yield from (f"## {self.name}, {len(self.reference.texts)} utterances", "")
        yield from (f"- {note}" for note in notes_of(self.reference, self.left_out, self.rows))
        yield ""
        columns = "wanted, method, tau, retention, Hz, tokens a word, WER %, from, to, points, from, to, "
        columns += f"to {self.rival}, from, to"
        yield from table_of(columns.split(", "), map(self._cells, self.rows))

    def _cells(self, row: Row) -> list[str]:
        beside = self.beside_rival(row)
        tau = "" if row.tau is None else f"{row.tau:g}"
        cells = [
            f"{row.wanted:g}",
            row.name,
            tau,
            f"{row.retention:.3f}",
            f"{row.hz:.2f}",
            f"{row.tokens_per_word:.2f}",
        ]
        cells += [
            f"{row.scores.total.error_percent:.2f}",
            *bounds(row.scores.interval),
            f"{row.points:+.2f}",
            *bounds(row.points_interval, "+"),
        ]
        return cells + (["", "", ""] if beside is None else [f"{beside[0]:+.2f}", *bounds(beside[1], "+")])


def _refusal(retention: float, place: SpeechPlace | CtcPlace, error: UnreachableError) -> str:
    return str(error) if isinstance(place, CtcPlace) else refusal("--retentions", retention, place, error)


def find_taus(place: SpeechPlace | CtcPlace, wanted: Sequence[float]) -> dict[float, float]:
    """tau by wanted retention, chosen to leave as much of a folder as the other methods, which round up."""
    reach = place.retention(-1.0), place.retention(1.0)
    taus = {}
    for retention in wanted:
        try:
            taus[retention], _ = find_tau(place.retention, place.rounded_up(retention), reach)
        except UnreachableError as error:
            logger.warning("affinity is left out: %s", _refusal(retention, place, error))
    return taus


def compare(
    name: str,
    place: SpeechPlace | CtcPlace,
    reference: Reference,
    methods: Sequence[str],
    wanted: Sequence[float],
    taus: Mapping[float, float],
    others_pool: bool,
    rival: str = UNIFORM_MEAN,
) -> Compared:
    """Decode a folder with all methods at all retentions.

    Args:
        name: Name of the folder.
        place: Site, with the folder.
        reference: References of the folder.
        methods: Names in WAYS.
        wanted: Retentions below 1.
        taus: tau of affinity pooling by retention; affinity is left out of retentions without one.
        others_pool: Whether another site pools in all rows.
        rival: The way that the others are compared with.
    """
    reference = reference.without(place.left_out)
    maker = Rows(reference, place.place, others_pool, place.decode(OFF), place.unpooled_cost())
    rows = [maker.first()]
    for retention in wanted:
        for method in methods:
            tau = None
            if not has_tau(method):
                outcome = place.decode_with(**WAYS[method], retention=retention)
            elif retention in taus:
                tau = taus[retention]
                outcome = place.decode_with(**WAYS[method], tau=tau, **place.bounds.options)
            else:
                continue
            rows.append(maker.row(method, retention, tau, outcome))
            logger.info("%s, %s at %g: WER %.2f %%", name, method, retention, rows[-1].scores.total.error_percent)
    return Compared(name, reference, place.left_out, rows, rival)


def draw(compared: Sequence[Compared], path: Path) -> None:
    """Draw a panel a folder: WER by retention, a line a method; the first row is a level line with its interval.

    Args:
        compared: The folders.
        path: PNG to write.
    """
    figure = new_figure(6 * len(compared), 4.2)
    panels = figure.subplots(1, len(compared), squeeze=False)
    for axes, each in zip(panels[0], compared, strict=True):
        unpooled, *rows = each.rows
        for method in dict.fromkeys(row.name for row in rows):
            line = [row for row in rows if row.name == method]
            wers = [row.scores.total.error_percent for row in line]
            axes.plot([100 * row.retention for row in line], wers, marker="o", label=method)
        base = unpooled.scores
        axes.axhline(base.total.error_percent, color="0.4", linestyle="--", label=f"{unpooled.name}, 95 %")
        axes.axhspan(base.interval.low, base.interval.high, color="0.4", alpha=0.1, linewidth=0)
        add_hz(axes, unpooled, is_x=True)
        axes.set(title=each.name, xlabel="speech tokens left, %", ylabel="word error rate, %", ylim=(0, None))
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    save_figure(figure, path, dpi=120)


def _as_json(points: float, points_interval: Interval) -> dict[str, Any]:
    return {"points": number(points), "interval": [number(bound) for bound in points_interval]}
