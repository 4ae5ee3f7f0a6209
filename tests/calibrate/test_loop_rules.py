"""Thresholds of leaving: what is counted, what is chosen, and sets that are too small."""

import numpy as np
import pytest

from espnet_larm.calibrate.loop_rules import (
    best_within_loss,
    check_size,
    choose,
    places_left,
    rows_at,
    rows_of,
)
from espnet_larm.calibrate.loop_traces import Traces
from espnet_larm.scoring.bootstrap import Grouping, interval, resample_ratios

NAN = float("nan")


def traces(errors, confidence, words=10, loops=(2, 4, 6)) -> Traces:
    """A set whose utterances have errors and confidences at three loops."""
    keys = [f"u{index}" for index in range(len(errors))]
    numbers = {"confidence": np.array(confidence, dtype=float)}
    counts = np.full(len(keys), words)
    return Traces(keys, loops, [[] for _ in keys], np.array(errors), counts, numbers, False)


def alone(found: Traces) -> Grouping:
    return Grouping("utterance", np.arange(len(found.keys)))


FOUR = traces(
    [[0, 0, 0], [2, 1, 1], [3, 1, 0], [0, 0, 0]],
    [[-0.1, -0.1, -0.1], [-0.2, -0.15, -0.1], [-0.5, -0.3, -0.1], [NAN, NAN, NAN]],
)


def test_an_utterance_leaves_at_the_first_loop_that_reaches_the_threshold():
    assert places_left(FOUR, "confidence", -0.16).tolist() == [0, 1, 2, 2]
    row, easy = rows_at(FOUR, "confidence", [-0.16, -10.0], alone(FOUR))
    assert row.mean_loops == (2 + 4 + 6 + 6) / 4 and row.floor == 2
    # 0 + 1 + 0 + 0 errors in 40 words, as at the deepest loop.
    assert row.wer_percent == 2.5 and row.points == 0.0
    assert easy.wer_percent == pytest.approx(12.5) and easy.points == pytest.approx(10.0)


def test_intervals_are_those_of_the_paired_bootstrap():
    (row,) = rows_at(FOUR, "confidence", [-10.0], alone(FOUR))
    assert row.interval == pytest.approx(interval(resample_ratios(np.array([0, 100, 300, 0]), np.full(4, 10))))


def test_rows_go_from_the_fewest_loops_to_the_most_without_repetition():
    rows = rows_of(FOUR, "confidence", alone(FOUR))
    means = [row.mean_loops for row in rows]
    # What is no number stays to the end, with every threshold.
    assert means == sorted(set(means)) and means[0] == (2 + 2 + 2 + 6) / 4


def random_set(num_utts: int, loss: float) -> Traces:
    """A shallow loop that has 1 error more in a fraction of the utterances of 10 words, always the less confident."""
    generator = np.random.default_rng(0)
    worse = generator.random(num_utts) < loss
    confidence = np.where(worse, -1.0, -0.1) - 0.05 * generator.random(num_utts)
    errors = np.stack([1 + worse, np.ones(num_utts), np.ones(num_utts)], axis=1).astype(int)
    return traces(errors, np.stack([confidence, np.full(num_utts, -0.1), np.full(num_utts, -0.1)], axis=1))


def test_the_fewest_loops_that_are_shown_to_lose_little_are_chosen():
    found = random_set(2000, 0.2)
    rows = rows_of(found, "confidence", alone(found))
    row = best_within_loss(rows, 0.3)
    # All but the fifth that has an error more, and about 3 % of the set's utterances with one.
    assert 0.0 <= row.points <= 0.3 and row.interval.high <= 0.3
    fewer = [each for each in rows if each.mean_loops < row.mean_loops]
    assert fewer and all(each.interval.high > 0.3 for each in fewer)
    best, chosen = choose(found, {"confidence": rows}, 0.3, 0.0)
    assert best == [row] and chosen is row


def test_a_mean_takes_the_most_loops_up_to_it():
    found = random_set(500, 0.2)
    rows = rows_of(found, "confidence", alone(found))
    _, chosen = choose(found, {"confidence": rows}, None, 2.5)
    assert chosen.mean_loops <= 2.5 and chosen is [row for row in rows if row.mean_loops <= 2.5][-1]
    with pytest.raises(ValueError, match="mean_loops is 1.5; allowed: 2.00 to 6"):
        choose(found, {"confidence": rows}, None, 1.5)


def test_a_set_that_is_too_small_says_how_many_words_would_do():
    with pytest.raises(ValueError, match="the set has 800 words, too few to show a loss of at most 0.3 .* about 1000"):
        check_size(800, 0.3)
    check_size(1000, 0.3)


def test_a_loss_that_no_interval_shows_is_refused_with_the_words_that_would_show_it():
    generator = np.random.default_rng(0)
    # As many better as worse, at random: no loss, and an interval of several points.
    shallow = 1 + generator.permutation(np.repeat([-1, 0, 1], 60))
    found = traces(np.stack([shallow, np.ones(180), np.ones(180)], axis=1).astype(int), np.full((180, 3), -0.1))
    rows = rows_of(found, "confidence", alone(found))
    (row,) = [row for row in rows if row.mean_loops == 2]
    assert row.points == 0.0 and row.interval.high > 0.5
    with pytest.raises(ValueError, match="the set has 1800 words, too few .* about [0-9]+ would do"):
        choose(found, {"confidence": [row]}, 0.3, 0.0)


def test_rules_that_save_nothing_are_refused():
    found = traces([[9, 9, 0]] * 200, [[-0.1, -0.1, -0.1]] * 200)
    rows = rows_of(found, "confidence", alone(found))
    with pytest.raises(ValueError, match="no rule saves loops at a loss of at most 0.3 points of WER"):
        choose(found, {"confidence": rows}, 0.3, 0.0)
