"""Scores of one set of hypotheses in one unit, with intervals, differences and their JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from espnet_larm.errors import name_some
from espnet_larm.scoring.alignment import Alignment, Counts, add_counts, align
from espnet_larm.scoring.bootstrap import NUM_RESAMPLES, SEED, Floats, Grouping, Interval, interval, resample_rates


class Scores(NamedTuple):
    """Scores of one set of hypotheses in one unit.

    Attributes:
        alignments: Alignments by utterance, in the order of the references.
        total: Counts over all utterances.
        interval: 95 % interval of the error rate, in percent.
        rates: Resampled error rates (R,) in percent, for differences.
        grouping: Groups that were drawn.
    """

    alignments: dict[str, Alignment]
    total: Counts
    interval: Interval
    rates: Floats
    grouping: Grouping


class Difference(NamedTuple):
    """The change of an error rate from one set of hypotheses to another, in points of percent.

    Attributes:
        before: Name of the first.
        after: Name of the second.
        points: Rate of the second minus rate of the first.
        interval: 95 % interval of the change, over resamples that draw the same groups for both.
    """

    before: str
    after: str
    points: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """`falls` or `rises` where the interval leaves out zero, otherwise `level`."""
        if self.interval.high < 0:
            return "falls"
        return "rises" if self.interval.low > 0 else "level"

    def as_json(self) -> dict[str, Any]:
        """Entry for `scores.json`."""
        return {
            "from": self.before,
            "to": self.after,
            "points": number(self.points),
            "interval_points": [number(bound) for bound in self.interval],
            "verdict": self.verdict,
        }


def score(
    references: Mapping[str, str], hypotheses: Mapping[str, str], split: Callable[[str], list[str]], grouping: Grouping
) -> Scores:
    """Align, count and resample.

    Args:
        references: Text by utterance.
        hypotheses: Hypothesis by utterance; a missing one counts as empty, with deletions only.
        split: Function from a text to its units.
        grouping: Groups of the references, in their order.

    Raises:
        ValueError: There are hypotheses without reference.
    """
    if extra := [utterance for utterance in hypotheses if utterance not in references]:
        raise ValueError(
            f"{len(extra)} hypotheses have no reference: {name_some(extra)}. "
            "Score against the set that was decoded, or drop them."
        )
    aligned = align(list(references.values()), [hypotheses.get(utterance, "") for utterance in references], split)
    alignments = dict(zip(references, aligned, strict=True))
    counts = [alignment.counts for alignment in aligned]
    rates = resample_rates(counts, grouping)
    return Scores(alignments, add_counts(counts), interval(rates), rates, grouping)


def compare(before: str, after: str, scores: Mapping[str, Scores]) -> Difference:
    """Compute the change from one to another of `scores`, which were made with the same grouping."""
    first, second = scores[before], scores[after]
    points = second.total.error_percent - first.total.error_percent
    return Difference(before, after, points, interval(second.rates - first.rates))


def as_json(unit: str, scores: Scores, missing: Sequence[str], differences: Sequence[Difference]) -> dict[str, Any]:
    """Content of `scores.json`.

    Args:
        unit: `wer`, `cer` or `ter`.
        scores: Scores in this unit.
        missing: Utterances without hypothesis.
        differences: Changes between read-outs.
    """
    total = scores.total
    return {
        "measure": unit,
        "sentences": total.sentences,
        "units": total.units,
        "correct": total.correct,
        "substitutions": total.substitutions,
        "deletions": total.deletions,
        "insertions": total.insertions,
        "wrong_sentences": total.wrong_sentences,
        "error_percent": number(total.error_percent),
        "interval_percent": [number(bound) for bound in scores.interval],
        "sentence_error_percent": number(total.sentence_error_percent),
        "resampled": f"{scores.grouping.num_groups} {scores.grouping.unit}s",
        "num_resamples": NUM_RESAMPLES,
        "seed": SEED,
        "missing_hypotheses": list(missing),
        "differences": [difference.as_json() for difference in differences],
    }


def number(value: float) -> float | None:
    """Round a number for JSON; None for NaN."""
    return None if math.isnan(value) else round(value, 4)
