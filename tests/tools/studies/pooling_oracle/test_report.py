"""Rates by hand, and what is concluded of them."""

import math

import numpy as np
import pytest

from espnet_larm.scoring.bootstrap import Grouping, Interval
from studies.pooling_oracle import report
from studies.pooling_oracle.oracle import Cell, Similarity
from studies.pooling_oracle.windows import DROP, MERGE, METHODS


def test_an_utterance_has_no_more_clamped_errors_than_words():
    errors, words = [5, 1, 0], [2, 4, 2]
    assert report.error_percent(errors, words) == 75.0
    assert report.clamped_percent(errors, words) == 37.5
    assert report.clamped_percent([2, 1, 0], words) == report.error_percent([2, 1, 0], words)


def test_the_interval_draws_whole_groups():
    grouping = Grouping("speaker", np.array([0, 0, 1]))
    found = report.error_interval([2, 0, 0], [2, 2, 4], grouping)
    # Of two groups, one of them twice or both once: 50, 25 or 0 %.
    assert tuple(found) == (0.0, 50.0)
    same = report.error_interval([1, 2], [2, 4], Grouping("utterance", np.array([0, 1])))
    assert tuple(same) == (50.0, 50.0)


def test_the_difference_to_no_pooling_is_paired():
    # Rates of such utterances alone have wide intervals.
    grouping, words = Grouping("utterance", np.arange(10)), [10] * 10
    base = [0, 8, 1, 6, 0, 9, 2, 7, 0, 3]
    worse = [count + 1 for count in base]
    assert report.error_percent(worse, words) < report.error_interval(base, words, grouping).high
    assert tuple(report.loss_interval(worse, base, words, grouping)) == pytest.approx((10.0, 10.0))
    assert not report.is_safe(report.loss_interval(worse, base, words, grouping))
    once = [base[0] + 1, *base[1:]]
    assert report.loss_interval(once, base, words, grouping).low == 0.0
    assert report.is_safe(report.loss_interval(once, base, words, grouping))
    assert report.loss_interval(base, worse, words, grouping).high == pytest.approx(-10.0)


@pytest.mark.parametrize(
    ("lows", "expected"),
    [
        ({0: 4, 1: -1, 2: 3, 3: 0, 4: -2}, 3),
        ({0: -1, 1: -1}, 0),
        ({0: -1, 1: 0.1}, None),
        # Only layers that were measured.
        ({0: 4, 3: 0, 6: -1}, 3),
    ],
)
def test_the_earliest_layer_is_that_behind_which_no_layer_is_worse(lows, expected):
    assert report.safe_layer({layer: Interval(low, low + 5) for layer, low in lows.items()}) == expected


def losses_of(rates, base):
    return {cell: Interval(rate - base, rate) for cell, rate in rates.items()}


def rates_of(by_count):
    return {Cell(layer, count, method): rate + 50 * (method != MERGE)
            for count, row in by_count.items() for layer, rate in enumerate(row) for method in METHODS}  # fmt: skip


def test_one_sentence_says_where_to_merge():
    rates = rates_of({1: [90, 80, 70], 2: [90, 9.5, 10], 3: [9, 9, 9]})
    sentence = report.conclude(losses_of(rates, 10), 3)
    assert sentence == (
        "By uniform merge, no loss of WER is shown (95 % of the paired difference to no pooling reach 0) with "
        "1 token a word at no layer, with 2 tokens a word from layer 1 on, with 3 tokens a word from layer 0 on (layer "
        "0 is the LM's input, the last one that can pool is 2)."
    )
    assert report.conclude(losses_of(rates, 10), 9).endswith("can pool is 8; measured: 0, 1, 2).")


def test_tables_have_a_row_a_layer_and_mark_where_no_loss_is_shown():
    rates = rates_of({1: [90.0, 8.0], 2: [12.0, 7.0]})
    clamped = {cell: rate / 2 for cell, rate in rates.items()}
    lines = list(report.format_tables(rates, clamped, {1: 25.67, 2: 51.0}, losses_of(rates, 10)))
    assert [line for line in lines if line.startswith("###")] == [
        "### 1 token a word: 25.7 % kept",
        "### 2 tokens a word: 51.0 % kept",
    ]
    assert "| 1 | **8.00 (4.00)** | 58.00 (29.00) | 58.00 (29.00) |" in lines
    assert "| 0 | 12.00 (6.00) | 62.00 (31.00) | 62.00 (31.00) |" in lines
    assert rates[Cell(0, 1, DROP)] == 140.0


@pytest.mark.parametrize("num_layers", [1, 40])
def test_pictures_of_small_and_large_lms(num_layers, tmp_path):
    rates = rates_of({1: list(range(num_layers)), 3: [250.0] * num_layers})
    report.draw_rates(rates, rates, 3.0, tmp_path / "rates.png")
    report.draw_profile([Similarity(layer, 0.9, 0.5, math.nan) for layer in range(num_layers + 1)], tmp_path / "p.png")
    assert all(1000 < path.stat().st_size < 150_000 for path in (tmp_path / "rates.png", tmp_path / "p.png"))
