"""Word errors of a row by seed, its mean error rate, and intervals over speakers and seeds.

Departure from plain bootstrapping over speakers: a resample also draws each row's seeds anew, since two trainings that
differ in their seed alone differ too. A row of one seed has no such spread to draw: its interval is too narrow. Draws
of n seeds from n vary by (n - 1) / n of what n trainings do; deviations from the mean are widened by as much.
Shapes: N seeds, G groups (speakers or utterances), R resamples.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.scoring.alignment import split_words
from espnet_larm.scoring.bootstrap import Floats, Grouping, Interval, draw_groups, interval
from espnet_larm.scoring.scores import score


class SeedErrors(NamedTuple):
    """One row's errors at one read-out.

    Attributes:
        seeds: Seeds whose trainings are done.
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
        """Mean error rate of the seeds, in percent."""
        return float(self.by_seed.mean())


def count_words(path: Path, references: Mapping[str, str], grouping: Grouping) -> tuple[Floats, Floats]:
    """Wrong words and reference words by group (G,) of a file of hypotheses."""
    scores = score(references, read_table(path), split_words, grouping)
    counts = [alignment.counts for alignment in scores.alignments.values()]
    errors = np.bincount(grouping.group_of, [count.errors for count in counts]).astype(np.float64)
    units = np.bincount(grouping.group_of, [count.units for count in counts]).astype(np.float64)
    return errors, units


def resample(found: SeedErrors, stream: int, num_resamples: int) -> Floats:
    """Mean error rates of resamples, in percent (R,).

    Args:
        found: Errors of a row.
        stream: Stream of the seeds' draws; each row has its own, while all draw the same speakers.
        num_resamples: Number of resamples (R).
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
    """95 % interval of a row's mean error rate."""
    return interval(resample(found, stream, num_resamples))
