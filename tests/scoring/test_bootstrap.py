"""Intervals: beside a plain loop, over speakers, paired, and seeded."""

import numpy as np
import pytest

from espnet_larm.scoring.alignment import Counts
from espnet_larm.scoring.bootstrap import SEED, group_utterances, interval, resample_rates


def counts(errors, units):
    return [Counts(unit - error, error, 0, 0, 1, int(error > 0)) for error, unit in zip(errors, units, strict=True)]


def some_counts(number=40):
    generator = np.random.default_rng(1)
    units = generator.integers(4, 12, number)
    return counts(generator.binomial(units, 0.3), units)


def by_speaker(number=40, speakers=8):
    names = [f"u{index}" for index in range(number)]
    return group_utterances(names, {name: f"s{index % speakers}" for index, name in enumerate(names)})


def test_rates_are_those_of_a_loop_over_drawn_speakers():
    every, grouping = some_counts(), by_speaker()
    generator = np.random.default_rng(SEED)
    draws = generator.multinomial(8, np.full(8, 1 / 8), size=50)
    expected = []
    for draw in draws:
        sample = [count for speaker, times in enumerate(draw) for count in every[speaker::8] * times]
        expected.append(100 * sum(count.errors for count in sample) / sum(count.units for count in sample))
    np.testing.assert_allclose(resample_rates(every, grouping, 50), expected)


def test_interval_holds_the_rate_and_is_repeatable():
    every, grouping = some_counts(), by_speaker()
    found = interval(resample_rates(every, grouping))
    rate = 100 * sum(count.errors for count in every) / sum(count.units for count in every)
    assert found.low < rate < found.high
    assert found == interval(resample_rates(every, grouping))


def test_interval_has_the_width_of_theory():
    # 400 utterances of one word each, a tenth wrong: the standard error is sqrt(0.1 * 0.9 / 400) = 1.5 %.
    every = counts([1] * 40 + [0] * 360, [1] * 400)
    low, high = interval(resample_rates(every, group_utterances([str(index) for index in range(400)], {})))
    assert (high - low) / 2 == pytest.approx(1.96 * 1.5, rel=0.06)


def test_speakers_that_fail_together_widen_the_interval():
    every = counts([5] * 20 + [0] * 20, [5] * 40)
    names = [f"u{index}" for index in range(40)]
    apart = group_utterances(names, {name: name for name in names})
    together = group_utterances(names, {name: f"s{index // 10}" for index, name in enumerate(names)})
    widths = [np.subtract(*interval(resample_rates(every, grouping))[::-1]) for grouping in (apart, together)]
    assert widths[1] > 2 * widths[0]


def test_differences_are_paired():
    every, grouping = some_counts(), by_speaker()
    worse = [Counts(count.correct, count.substitutions, 0, 1, 1, 1) for count in every]
    difference = interval(resample_rates(worse, grouping) - resample_rates(every, grouping))
    alone = interval(resample_rates(every, grouping))
    assert difference.low > 0
    assert difference.high - difference.low < (alone.high - alone.low) / 3


def test_few_speakers_are_drawn_by_utterance():
    assert by_speaker(speakers=4).unit == "speaker"
    assert by_speaker(speakers=3).unit == "utterance"
    assert group_utterances(["a", "b"], {}).num_groups == 2


def test_utterance_without_speaker_is_its_own():
    names = [f"u{index}" for index in range(6)]
    grouping = group_utterances(names, dict.fromkeys(names[:2], "s0"))
    assert (grouping.unit, grouping.num_groups) == ("speaker", 5)


def test_no_words_have_no_interval():
    assert np.isnan(interval(resample_rates(counts([0] * 5, [0] * 5), by_speaker(5, 5)))).all()
    assert np.isnan(interval(resample_rates([], group_utterances([], {})))).all()
