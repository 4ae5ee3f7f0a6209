"""Compares the rows of a grid: mean error rates over seeds, with intervals over speakers and seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_larm.scoring.bootstrap import Grouping, Interval, interval
from espnet_larm.scoring.experiment import read_out_folders
from studies.grid.plan import Row, Run
from studies.grid.running import attempts, is_done
from studies.seed_errors import SeedErrors, count_words, resample

LAST = "last"


class RowResult(NamedTuple):
    """Results of a row's finished runs.

    Attributes:
        row: The row.
        read_outs: Errors by read-out, `loop2`, ..., and `last`.
        seconds: Duration of each finished run, its interrupted attempts included.
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
        interval: 95 % interval of the points; both rows draw the same speakers, and seeds of their own.
    """

    points: float
    interval: Interval


def read_row(
    row: Row, exp_dir: Path, decoded: str, references: Mapping[str, str], grouping: Grouping
) -> RowResult | None:
    """Score the finished runs of a row.

    Args:
        row: The row.
        exp_dir: Folder of the runs' folders.
        decoded: `<inference tag>/<set>` below a run.
        references: Reference text by utterance.
        grouping: Groups of the references, in their order.

    Returns:
        None if no run is done.

    Raises:
        FileNotFoundError: A finished run has no such hypotheses.
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
