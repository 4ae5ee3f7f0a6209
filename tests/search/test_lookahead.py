"""Guesses of several tokens beside all products of the heads' probabilities."""

import itertools

import pytest
import torch

from espnet_larm.search.lookahead import Root, longest, look_ahead

EOS = 2


def products(scores, log_probs, length, least=float("-inf")):
    """Every guess of a length by (root, tokens), its score."""
    found = {}
    for root, rows in enumerate(log_probs.tolist()):
        for tokens in itertools.product(range(len(rows[0])), repeat=length):
            steps = [rows[place][token] for place, token in enumerate(tokens)]
            if EOS not in tokens and all(step >= least for step in steps):
                found[root, tokens] = scores[root] + sum(steps)
    return found


def test_guesses_are_the_best_products_of_the_heads_probabilities():
    log_probs = torch.randn(3, 3, 5).log_softmax(-1)
    scores = [-1.0, -1.5, -0.5]
    roots = [Root(0, scores[0], 9), Root(0, scores[1], 9), Root(7, scores[2], 9)]
    found = look_ahead(roots, log_probs, 1000, EOS)
    for length in range(4):
        expected = products(scores, log_probs, length)
        some = {(guess.root, guess.tokens): guess.score for guess in found if len(guess.tokens) == length}
        assert some == pytest.approx(expected)
    few = [guess for guess in look_ahead(roots, log_probs, 2, EOS) if len(guess.tokens) == 1]
    for members in ((0, 1), (2,)):
        ranked = sorted(((score, key) for key, score in products(scores, log_probs, 1).items() if key[0] in members))
        assert [(guess.root, guess.tokens) for guess in few if guess.root in members] == [
            key for _, key in reversed(ranked[-2:])
        ]


def test_guesses_keep_to_the_room_and_to_what_is_sure_enough():
    log_probs = torch.randn(2, 3, 5).log_softmax(-1)
    roots = [Root(0, 0.0, 1), Root(1, 0.0, 3)]
    found = look_ahead(roots, log_probs, 1000, EOS, least=-1.5)
    for root, most in ((0, 1), (1, 3)):
        lengths = [len(guess.tokens) for guess in found if guess.root == root]
        assert max(lengths) <= most
    expected = {key for length in (1, 2, 3) for key in products([0.0, 0.0], log_probs, length, least=-1.5)}
    assert {(guess.root, guess.tokens) for guess in found if guess.tokens} == {
        key for key in expected if key[0] == 1 or len(key[1]) == 1
    }


def test_the_longest_guesses_hold_all_others():
    guesses = look_ahead([Root(0, 0.0, 9)], torch.randn(1, 3, 5).log_softmax(-1), 3, EOS)
    leaves = longest(guesses)
    for guess in guesses:
        assert any(leaf.tokens[: len(guess.tokens)] == guess.tokens for leaf in leaves)
    assert all(
        not any(other.tokens[: len(leaf.tokens)] == leaf.tokens for other in guesses if other is not leaf)
        for leaf in leaves
    )
