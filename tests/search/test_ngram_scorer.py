"""An n-gram's scores of candidates, and several scorers in a chain."""

import pytest
import torch

from espnet_larm.search.ngram_scorer import NgramScorer, chain

EOS, INFINITE = 2, float("-inf")
ALL = torch.arange(2)


class LastToken:
    """An n-gram of pairs; its state is the last token. Counts what it is asked."""

    def __init__(self):
        self.table = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
        self.asked = []

    def start(self):
        return 6

    def score(self, state, token):
        self.asked.append((state, token))
        return float(self.table[state, token]), token


@pytest.fixture
def log_probs():
    return torch.randn(2, 6).log_softmax(-1)


def test_scores_of_candidates_have_the_ngrams_added_and_others_are_ruled_out(log_probs):
    ngram = LastToken()
    found = NgramScorer(ngram, 2, EOS, 0.5, num_candidates=3).combine(log_probs, ALL)
    for row in range(2):
        best = log_probs[row].topk(3).indices.tolist()
        allowed = best if EOS in best else [*best[:2], EOS]
        for token in range(6):
            expected = float(log_probs[row, token] + 0.5 * ngram.table[6, token]) if token in allowed else INFINITE
            assert float(found[row, token]) == pytest.approx(expected)


def test_silent_tokens_are_ruled_out_and_the_end_is_not(log_probs):
    log_probs[:, 4] = 0.0
    found = NgramScorer(LastToken(), 2, EOS, 0.5, silent=[4, EOS]).combine(log_probs, ALL)
    assert (found == INFINITE).tolist() == [[token == 4 for token in range(6)]] * 2


def test_rows_go_on_alone_and_may_be_kept_several_times(log_probs):
    ngram = LastToken()
    scorer = NgramScorer(ngram, 2, EOS, 1.0)
    scorer.combine(log_probs, ALL)
    scorer.take(torch.tensor([5]), torch.tensor([1]))
    scorer.select(torch.tensor([1, 0, 1]))
    scorer.take(torch.tensor([3]), torch.tensor([2]))
    found = scorer.combine(log_probs[[1, 0, 1]], torch.arange(3))
    torch.testing.assert_close(found - log_probs[[1, 0, 1]], ngram.table[[5, 6, 3]])
    # What several rows, or the same row later, ask is asked once.
    assert len(ngram.asked) == len(set(ngram.asked)) == 3 * 6


def test_only_rows_that_are_asked_about_are_scored(log_probs):
    ngram = LastToken()
    scorer = NgramScorer(ngram, 2, EOS, 1.0)
    scorer.take(torch.tensor([5]), torch.tensor([1]))
    found = scorer.combine(log_probs[1:], torch.tensor([1]))
    torch.testing.assert_close(found, log_probs[1:] + ngram.table[[5]])


class Few:
    """Rules out all but two tokens and the end."""

    def __init__(self):
        self.kept = None

    def combine(self, log_probs, rows):
        ruled = torch.full_like(log_probs, INFINITE)
        ruled[:, [1, EOS, 5]] = 2 * log_probs[:, [1, EOS, 5]]
        return ruled

    def take(self, tokens, rows):
        pass

    def select(self, rows):
        self.kept = rows


def test_in_a_chain_each_hears_what_those_before_left(log_probs):
    ngram, few = LastToken(), Few()
    both = chain([few, NgramScorer(ngram, 2, EOS, 0.5)])
    found = both.combine(log_probs, ALL)
    expected = torch.full_like(log_probs, INFINITE)
    expected[:, [1, EOS, 5]] = (2 * log_probs + 0.5 * ngram.table[6])[:, [1, EOS, 5]]
    torch.testing.assert_close(found, expected)
    assert {token for _, token in ngram.asked} == {1, EOS, 5}
    both.select(torch.tensor([1]))
    both.take(torch.tensor([5]), torch.tensor([0]))
    assert few.kept.tolist() == [1]
    torch.testing.assert_close(
        both.combine(log_probs[1:], ALL[:1])[:, 5], 2 * log_probs[1:, 5] + 0.5 * ngram.table[5, 5]
    )


def test_a_chain_of_one_is_that_one_and_of_none_nothing():
    few = Few()
    assert chain([few]) is few and chain([]) is None
