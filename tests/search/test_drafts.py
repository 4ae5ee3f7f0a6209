"""Sources of drafts: what they propose, and where they stop."""

import pytest
import torch

from espnet_larm.search.drafts import HeadDrafts, LongerDrafts, TextDrafts

EOS = 2
HIDDEN = torch.zeros(2, 1)


def said(*token_ids):
    return type("Said", (), {"token_ids": list(token_ids)})()


def heads(tokens, shares, **options):
    """Drafts of heads that say these tokens (N, K - 1) with these probabilities."""
    rest = (1 - torch.tensor(shares)) / 9
    logits = rest.unsqueeze(-1).repeat(1, 1, 10)
    logits = logits.scatter(2, torch.tensor(tokens).unsqueeze(-1), torch.tensor(shares).unsqueeze(-1)).log()
    return HeadDrafts(lambda _: logits, EOS, **options).propose(HIDDEN, [said()] * len(tokens))


def test_heads_draft_up_to_the_first_that_is_not_sure_enough():
    tokens, shares = [[3, 4, 5], [6, 7, 8]], [[0.9, 0.3, 0.9], [0.9, 0.8, 0.9]]
    assert heads(tokens, shares) == tokens
    assert heads(tokens, shares, tau=0.5) == [[3], [6, 7, 8]]
    assert heads(tokens, shares, tau=0.7, is_product=True) == [[3], [6, 7]]
    assert heads(tokens, shares, tau=0.95) == [[], []]
    assert heads(tokens, shares, tau=1.1) == [[], []]


def test_nothing_is_drafted_behind_an_end():
    tokens = [[3, EOS, 5], [EOS, EOS, 8], [3, 4, EOS]]
    for tau in (0.0, 0.5):
        assert heads(tokens, [[0.9] * 3] * 3, tau=tau) == [[3, EOS], [EOS], [3, 4, EOS]]


def test_the_longest_draft_is_taken_and_of_equals_the_first():
    class Source:
        def __init__(self, *drafts):
            self.drafts = list(drafts)

        def propose(self, hidden, texts):
            return self.drafts

        def select(self, rows):
            self.drafts = [self.drafts[row] for row in rows.tolist()]

    both = LongerDrafts([Source([1], [2, 3], []), Source([4, 5], [6, 7], [8])])
    assert both.propose(HIDDEN, [said()] * 3) == [[4, 5], [2, 3], [8]]
    both.select(torch.tensor([2, 0]))
    assert both.propose(HIDDEN, [said()] * 2) == [[8], [4, 5]]


@pytest.mark.parametrize("step", [1, 2])
def test_a_text_is_gone_on_with_where_its_alignment_has_the_fewest_errors(step):
    def after(*tokens):
        drafts = TextDrafts([[5, 6, 7, 5, 6, 8]], 2, EOS)
        for length in [*range(0, len(tokens), step), len(tokens)]:
            (found,) = drafts.propose(HIDDEN, [said(*tokens[:length])])
        return found

    assert after() == [5, 6] and after(9, 9) == [7, 5]
    assert after(5, 6, 7, 5, 6, 8) == [EOS] == after(5, 6, 7, 5, 6, 8, 9, 9)
    # Wrong, too much, too little.
    assert after(5, 9) == [7, 5] and after(9, 5, 6) == [7, 5] and after(5, 7) == [5, 6]
    # Not at the first copy, which agrees as well.
    assert after(5, 6, 7, 5) == [6, 8]


def test_a_word_in_other_tokens_does_not_mislead_the_alignment():
    pieces = ["", " all", " about", " ob", "lo", "od", " and", " a", " general"]

    def after(*tokens):
        (found,) = TextDrafts([[1, 3, 4, 5, 6, 7, 8]], 2, EOS, pieces.__getitem__).propose(HIDDEN, [said(*tokens)])
        return found

    # "about" is "oblood" to CTC, in three tokens.
    assert after(1) == [3, 4] and after(1, 2) == [6, 7] and after(1, 2, 6) == [7, 8]
    assert after(1, 3, 4) == [5, 6]


def test_a_hypothesis_without_tokens_is_all_drafted():
    assert TextDrafts([[]], 3, EOS).propose(HIDDEN, [said(5, 6)]) == [[EOS]]
