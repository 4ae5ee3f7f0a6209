"""Tests of the prefixes that are merged, read as part of others, or left."""

import math

import pytest

from espnet_larm.search.lookahead import Guess
from espnet_larm.search.pruning import prune, rank


def guess(root, tokens, score):
    return Guess(root, tuple(tokens), score, (0,) * (len(tokens) + 1))


def kept(found):
    return [(one.root, one.tokens) for one, _ in found]


def test_prefixes_are_compared_by_their_score_a_token():
    begun = [[1], [1, 2, 3, 4]]
    assert rank(-2.0, 1) < rank(-4.0, 4)
    assert kept(prune([guess(0, [], -2.0), guess(1, [], -4.0)], begun, 1)) == [(1, ())]


def test_of_a_prefix_and_its_beginnings_the_longest_is_kept_in_one_place():
    guesses = [guess(0, [], -0.1), guess(0, [7], -0.2), guess(0, [7, 8], -0.9), guess(0, [7, 9], -1.0)]
    assert kept(prune([*guesses, guess(1, [], -1.5)], [[1], [2]], 3)) == [(0, (7, 8)), (0, (7, 9)), (1, ())]


def test_prefixes_that_spell_the_same_are_merged_to_the_sum_of_their_probabilities():
    begun = [[1], [2], [3]]
    letters = {1: "a", 2: "a", 3: "b"}
    guesses = [guess(0, [], math.log(0.2)), guess(1, [], math.log(0.25)), guess(2, [], math.log(0.4))]
    assert kept(prune(guesses, begun, 1)) == [(2, ())]
    ((best, more),) = prune(guesses, begun, 1, lambda tokens: "".join(letters[token] for token in tokens))
    assert best.root == 1 and more == pytest.approx(math.log(0.45 / 0.25))
