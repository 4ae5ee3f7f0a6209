"""Bootstrap intervals of error rates, and of their differences on the same resamples.

Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.
Departure: whole speakers are drawn, because the utterances of one speaker fail together. It is our own because
scipy.stats.bootstrap draws single values, not groups that several systems share.
Shapes: G groups (speakers or utterances), R resamples.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from espnet_larm.scoring.alignment import Counts

NUM_RESAMPLES = 10_000
SEED = 0
MIN_SPEAKERS = 4
RESAMPLES_AT_ONCE = 1000
PERCENTILES = (2.5, 97.5)

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """Bounds between which 95 % of the resamples lie, in percent; NaN where no rate is defined."""

    low: float
    high: float


class Grouping(NamedTuple):
    """Groups of utterances that are drawn together.

    Attributes:
        unit: `speaker`, or `utterance` where there are fewer than MIN_SPEAKERS speakers.
        group_of: Index of the group, 0 to G - 1, of each utterance.
    """

    unit: str
    group_of: npt.NDArray[np.int64]

    @property
    def num_groups(self) -> int:
        """Number of groups, G."""
        return int(np.max(self.group_of)) + 1 if len(self.group_of) else 0


def group_utterances(utterances: Sequence[str], utt2spk: Mapping[str, str]) -> Grouping:
    """Group by speaker if there are enough of them; an utterance that `utt2spk` lacks is its own speaker."""
    speakers: list[Hashable] = [utt2spk.get(utterance, (utterance,)) for utterance in utterances]
    if utt2spk and len(set(speakers)) >= MIN_SPEAKERS:
        index = {speaker: number for number, speaker in enumerate(dict.fromkeys(speakers))}
        return Grouping("speaker", np.array([index[speaker] for speaker in speakers], dtype=np.int64))
    return Grouping("utterance", np.arange(len(utterances), dtype=np.int64))


def resample_rates(counts: Sequence[Counts], grouping: Grouping, num_resamples: int = NUM_RESAMPLES) -> Floats:
    """Compute error rates of resampled test sets.

    Args:
        counts: Counts of each utterance.
        grouping: Groups of the same utterances.
        num_resamples: Number of resamples, R.

    Returns:
        Percent (R,), NaN where a resample has no reference unit. Seeded: the same groups are drawn at every call, so
        that the differences between the rates of two systems are paired.
    """
    if not grouping.num_groups:
        return np.full(num_resamples, np.nan)
    errors = np.bincount(grouping.group_of, [100.0 * count.errors for count in counts])
    units = np.bincount(grouping.group_of, [float(count.units) for count in counts])
    return resample_ratios(errors, units, num_resamples)


def resample_ratios(
    numerators: npt.NDArray[Any], denominators: npt.NDArray[Any], num_resamples: int = NUM_RESAMPLES
) -> Floats:
    """Compute ratios of sums over resampled groups.

    Args:
        numerators: Sums of each group (G,).
        denominators: Sums of each group (G,).
        num_resamples: Number of resamples, R.

    Returns:
        (R,), NaN where the denominator is 0; the same groups are drawn at every call.
    """
    ratios = []
    for draws in draw_groups(len(numerators), num_resamples):
        drawn = draws @ denominators
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios.append(np.where(drawn > 0, (draws @ numerators) / drawn, np.nan))
    return np.concatenate(ratios)


def draw_groups(num_groups: int, num_resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Draw how often each group counts: (up to RESAMPLES_AT_ONCE, G), R rows in all, the same at every call."""
    generator = np.random.default_rng(SEED)
    for start in range(0, num_resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, num_resamples - start)
        yield generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size)


def interval(values: Floats) -> Interval:
    """Find the 95 % interval of resampled rates, or of the differences between two systems' rates."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(defined, PERCENTILES)
    return Interval(float(low), float(high))
