"""Compares the rows of a grid: mean error rates over seeds, with intervals over speakers and seeds.

Departure from plain bootstrapping over speakers: a resample also draws each row's seeds anew, since two trainings that
differ in their seed alone differ too. A row of one seed has no such spread to draw: its interval is too narrow. Draws
of n seeds from n vary by (n - 1) / n of what n trainings do; deviations from the mean are widened by as much.
Shapes: N seeds, G groups (speakers or utterances), R resamples.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.scoring.alignment import split_words
from espnet_larm.scoring.bootstrap import Floats, Grouping, Interval, draw_groups, interval
from espnet_larm.scoring.experiment import read_out_folders
from espnet_larm.scoring.scores import score
from studies.grid.plan import Row, Run
from studies.grid.running import attempts, is_done

LAST = "last"


class SeedErrors(NamedTuple):
    """One row's errors at one read-out.

    Attributes:
        seeds: Those that are done.
        errors: Wrong words by seed and group (N, G).
        units: Reference words by group (G,).
    """

    seeds: tuple[int, ...]
    errors: Floats
    units: Floats

    @property
    def by_seed(self) -> Floats:
        """Error rates in percent (N,)."""
        return 100 * self.errors.sum(axis=1) / self.units.sum()

    @property
    def mean(self) -> float:
        """Over the seeds, in percent."""
        return float(self.by_seed.mean())


class RowResult(NamedTuple):
    """What is known of a row.

    Attributes:
        row: Which.
        read_outs: Errors by read-out, `loop2`, ..., and `last`.
        seconds: Of each finished run, its interrupted attempts included.
    """

    row: Row
    read_outs: dict[str, SeedErrors]
    seconds: tuple[float, ...]

    @property
    def last(self) -> SeedErrors:
        """The read-out that a user gets by default."""
        return self.read_outs[LAST]


class Comparison(NamedTuple):
    """A row beside the reference row, in points of percent.

    Attributes:
        points: Mean of the row minus mean of the reference.
        interval: 95 % of it, over the same speakers for both and seeds of each.
    """

    points: float
    interval: Interval


def read_row(
    row: Row, exp_dir: Path, decoded: str, references: Mapping[str, str], grouping: Grouping
) -> RowResult | None:
    """Score the finished runs of a row.

    Args:
        row: Which.
        exp_dir: A folder a run.
        decoded: `<inference tag>/<set>` below a run.
        references: Text by utterance.
        grouping: Of the references, in their order.

    Returns:
        None if no run is done.

    Raises:
        FileNotFoundError: A finished run has no such text.
    """
    seeds = tuple(seed for seed in row.seeds if is_done(exp_dir / Run(row.name, seed).name))
    if not seeds:
        return None
    folders = [exp_dir / Run(row.name, seed).name for seed in seeds]
    for folder in folders:
        if not (folder / decoded / "text").is_file():
            raise FileNotFoundError(
                f"{folder / decoded}/text is missing: --decoded {decoded} is not <inference tag>/<set> of the recipe."
            )
    names = [*read_out_folders(folders[0] / decoded), LAST]
    read_outs = {}
    for name in names:
        errors, units = [], []
        for folder in folders:
            path = folder / decoded / ("text" if name == LAST else f"{name}/text")
            counts = count_words(path, references, grouping)
            errors.append(counts[0])
            units.append(counts[1])
        read_outs[name] = SeedErrors(seeds, np.stack(errors), units[0])
    seconds = tuple(sum(attempt["seconds"] for attempt in attempts(folder)) for folder in folders)
    return RowResult(row, read_outs, seconds)


def count_words(path: Path, references: Mapping[str, str], grouping: Grouping) -> tuple[Floats, Floats]:
    """Wrong words and reference words by group (G,) of a `text` of hypotheses."""
    scores = score(references, read_table(path), split_words, grouping)
    counts = [alignment.counts for alignment in scores.alignments.values()]
    errors = np.bincount(grouping.group_of, [count.errors for count in counts]).astype(np.float64)
    units = np.bincount(grouping.group_of, [count.units for count in counts]).astype(np.float64)
    return errors, units


def resample(found: SeedErrors, stream: int, num_resamples: int) -> Floats:
    """Mean error rates of resamples, in percent (R,).

    Args:
        found: Of a row.
        stream: Of the seeds' draws; rows have streams of their own, while all draw the same speakers.
        num_resamples: R.
    """
    num_seeds = len(found.seeds)
    generator = np.random.default_rng([stream, num_seeds])
    drawn_seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples) / num_seeds
    drawn_groups = np.concatenate(list(draw_groups(len(found.units), num_resamples)))
    mean = found.errors.mean(axis=0)
    widening = np.sqrt(num_seeds / (num_seeds - 1)) if num_seeds > 1 else 1.0
    errors = ((mean + widening * (drawn_seeds @ found.errors - mean)) * drawn_groups).sum(axis=1)
    return 100 * errors / (drawn_groups @ found.units)


def row_interval(found: SeedErrors, stream: int, num_resamples: int) -> Interval:
    """95 % of a row's mean error rate."""
    return interval(resample(found, stream, num_resamples))


def compare_rows(results: Sequence[RowResult], reference: str, num_resamples: int) -> dict[str, Comparison]:
    """Each row beside the reference, by name; empty while the reference has no result."""
    streams = {result.row.name: stream for stream, result in enumerate(results)}
    by_name = {result.row.name: result for result in results}
    if reference not in by_name:
        return {}
    base = by_name[reference].last
    base_rates = resample(base, streams[reference], num_resamples)
    return {
        name: Comparison(
            result.last.mean - base.mean,
            interval(resample(result.last, streams[name], num_resamples) - base_rates),
        )
        for name, result in by_name.items()
        if name != reference
    }
