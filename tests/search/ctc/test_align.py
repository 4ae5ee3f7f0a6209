"""CTC alignment: known times, all paths tried one by one, padding, and sequences that cannot fit."""

import itertools

import pytest
import torch

from espnet_larm.search.ctc.align import align
from espnet_larm.search.ctc.posteriors import greedy


def log_probs_of(*frames, num_tokens=5, sharpness=0.9):
    """Posteriors (1, T, V) with most of the mass where it is said."""
    rest = (1 - sharpness) / (num_tokens - 1)
    probs = torch.full((1, len(frames), num_tokens), rest)
    probs[0, torch.arange(len(frames)), torch.tensor(frames)] = sharpness
    return probs.log()


def spans(alignment, row=0, num=None):
    return list(zip(alignment.starts[row].tolist()[:num], alignment.ends[row].tolist()[:num], strict=True))


def align_one(log_probs, tokens):
    lens = torch.tensor([log_probs.size(1)])
    return align(log_probs, lens, torch.tensor([tokens], dtype=torch.long), torch.tensor([len(tokens)]))


def best_path_by_trial(log_probs, tokens):
    """Score and spans of the best of all paths that collapse to the tokens."""
    num_frames, num_tokens = log_probs.shape
    best = (-torch.inf, None)
    for path in itertools.product(range(num_tokens), repeat=num_frames):
        runs = [(token, len(list(frames))) for token, frames in itertools.groupby(path)]
        if [token for token, _ in runs if token] == list(tokens):
            score = log_probs[torch.arange(num_frames), torch.tensor(path)].sum().item()
            if score > best[0]:
                best = (score, runs)
    ends = list(itertools.accumulate(length for _, length in best[1]))
    return best[0], [(end - length, end) for (token, length), end in zip(best[1], ends, strict=True) if token]


def test_tokens_stand_where_their_posteriors_are():
    found = align_one(log_probs_of(0, 0, 1, 1, 0, 2, 3, 3, 3, 0), [1, 2, 3])
    assert spans(found) == [(2, 4), (5, 6), (6, 9)]
    torch.testing.assert_close(found.log_probs, torch.full((1, 3), 0.9).log())
    torch.testing.assert_close(found.scores, torch.full((1,), 10 * 0.9).div(10).log() * 10)


def test_equal_tokens_are_kept_apart_by_a_blank():
    assert spans(align_one(log_probs_of(1, 1, 1, 0, 1), [1, 1])) == [(0, 3), (4, 5)]
    # No blank is probable: the cheapest frame becomes one.
    log_probs = log_probs_of(1, 1, 1, 1)
    log_probs[0, 2, 0] = -0.5
    assert spans(align_one(log_probs, [1, 1])) == [(0, 2), (3, 4)]


def test_tokens_that_the_posteriors_do_not_show_get_a_frame_each():
    assert spans(align_one(log_probs_of(0, 1, 2, 0), [1, 4, 2])) in ([(0, 1), (1, 2), (2, 3)], [(1, 2), (2, 3), (3, 4)])


@pytest.mark.parametrize("tokens", [[1], [2, 1], [1, 1], [1, 2, 1], [2, 2, 1]])
def test_best_path_is_that_of_trying_all(tokens):
    log_probs = torch.randn(1, 6, 3).log_softmax(dim=2)
    score, expected = best_path_by_trial(log_probs[0], tokens)
    found = align_one(log_probs, tokens)
    assert found.scores.item() == pytest.approx(score, abs=1e-5)
    assert spans(found) == expected


def test_greedy_tokens_align_to_the_greedy_path():
    log_probs = torch.randn(4, 50, 6).log_softmax(dim=2)
    lens = torch.tensor([50, 31, 1, 44])
    hypotheses = greedy(log_probs, lens)
    found = align(log_probs, lens, hypotheses.tokens, hypotheses.lens)
    torch.testing.assert_close(found.scores, hypotheses.scores)
    ids = log_probs.argmax(dim=2)
    for row, tokens in enumerate(hypotheses.to_lists()):
        for token, (start, end) in zip(tokens, spans(found, row, len(tokens)), strict=True):
            assert (ids[row, start:end] == token).all()


def test_padding_changes_nothing():
    log_probs = torch.randn(3, 20, 5).log_softmax(dim=2)
    lens, token_lens = torch.tensor([20, 9, 14]), torch.tensor([5, 0, 3])
    tokens = torch.tensor([[1, 1, 2, 3, 1], [4, 4, 4, 4, 4], [2, 3, 2, -1, -1]])
    together = align(log_probs, lens, tokens, token_lens)
    for row, (length, num) in enumerate(zip(lens.tolist(), token_lens.tolist(), strict=True)):
        alone = align_one(log_probs[row : row + 1, :length], tokens[row, :num].tolist())
        assert spans(together, row, num) == spans(alone)
        assert together.scores[row] == alone.scores[0]
        assert torch.equal(together.log_probs[row, :num], alone.log_probs[0])


def test_no_tokens_are_all_blanks():
    log_probs = log_probs_of(0, 1, 0)
    assert align_one(log_probs, []).scores.item() == pytest.approx(log_probs[0, :, 0].sum().item())


def test_too_few_frames_have_no_path():
    assert align_one(log_probs_of(1, 2), [1, 2, 3]).scores.item() == -torch.inf
    assert align_one(log_probs_of(1, 1), [1, 1]).scores.item() == -torch.inf


def test_another_blank_is_understood():
    log_probs = log_probs_of(4, 1, 4, 0)
    lens, tokens = torch.tensor([4]), torch.tensor([[1, 0]])
    assert spans(align(log_probs, lens, tokens, torch.tensor([2]), blank=4)) == [(1, 2), (3, 4)]
