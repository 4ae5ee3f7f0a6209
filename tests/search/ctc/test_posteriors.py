"""CTC greedy search beside its definition, written as a loop."""

from itertools import groupby, product

import pytest
import torch

from espnet_larm.search.ctc.posteriors import PAD, greedy, most_entropy


def random_log_probs(num_utterances=5, num_frames=17, num_tokens=4):
    return torch.randn(num_utterances, num_frames, num_tokens, dtype=torch.float64).log_softmax(dim=2)


def collapse(path, blank=0, dropped=()):
    return [token for token, _ in groupby(path) if token != blank and token not in dropped]


def slow_greedy(log_probs, blank=0, dropped=()):
    """One utterance, frame by frame."""
    path = [max(range(len(frame)), key=frame.__getitem__) for frame in log_probs.tolist()]
    score = sum(frame[token] for frame, token in zip(log_probs.tolist(), path, strict=True))
    return collapse(path, blank, dropped), score


@pytest.mark.parametrize(("blank", "dropped"), [(0, ()), (0, (3,)), (2, (0, 3))])
def test_greedy_is_the_loop_over_frames(blank, dropped):
    log_probs, lens = random_log_probs(), torch.tensor([17, 12, 5, 1, 0])
    found = greedy(log_probs, lens, blank, dropped)
    expected = [slow_greedy(row[:length], blank, dropped) for row, length in zip(log_probs, lens, strict=True)]
    assert found.to_lists() == [tokens for tokens, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([score for _, score in expected], dtype=torch.float64))


def test_greedy_path_is_the_best_of_all_paths():
    log_probs = random_log_probs(num_utterances=1, num_frames=5, num_tokens=3)
    paths = list(product(range(3), repeat=5))
    scores = torch.stack([log_probs[0, torch.arange(5), list(path)].sum() for path in paths])
    found = greedy(log_probs, torch.tensor([5]))
    assert found.to_lists() == [collapse(paths[int(scores.argmax())])]
    torch.testing.assert_close(found.scores[0], scores.max())


def test_padding_changes_nothing():
    log_probs, lens = random_log_probs(), torch.tensor([17, 12, 5, 1, 0])
    other = log_probs.clone()
    for row, length in zip(other, lens, strict=True):
        row[length:] = torch.tensor([-9.0, -9.0, 9.0, float("nan")], dtype=torch.float64)
    other = torch.cat([other, torch.full((5, 3, 4), float("inf"), dtype=torch.float64)], dim=1)
    before, after = greedy(log_probs, lens), greedy(other, lens)
    assert torch.equal(before.tokens, after.tokens) and torch.equal(before.lens, after.lens)
    # A sum over more frames, zeros as they are, may round otherwise.
    torch.testing.assert_close(before.scores, after.scores, rtol=1e-14, atol=1e-14)


def test_equal_tokens_stay_two_around_a_blank_and_around_a_dropped_token():
    path = torch.tensor([[1, 1, 0, 1, 3, 1, 1]])
    log_probs = torch.nn.functional.one_hot(path, 4).double().log()
    assert greedy(log_probs, torch.tensor([7]), dropped=[3]).to_lists() == [[1, 1, 1]]


def test_short_results_are_padded():
    log_probs = torch.nn.functional.one_hot(torch.tensor([[1, 2, 3], [0, 0, 2]]), 4).double().log()
    found = greedy(log_probs, torch.tensor([3, 3]))
    assert found.tokens.tolist() == [[1, 2, 3], [2, PAD, PAD]]
    assert found.lens.tolist() == [3, 1]


def test_nothing_but_blanks_is_an_empty_result():
    log_probs = torch.nn.functional.one_hot(torch.zeros(2, 3, dtype=torch.long), 4).double().log()
    found = greedy(log_probs, torch.tensor([3, 3]))
    assert found.to_lists() == [[], []]
    assert found.tokens.shape == (2, 0)


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds():
    log_probs, lens = random_log_probs(), torch.tensor([17, 12, 5, 1, 0])
    found, expected = greedy(log_probs.cuda(), lens.cuda()), greedy(log_probs, lens)
    assert found.to_lists() == expected.to_lists()
    torch.testing.assert_close(found.scores.cpu(), expected.scores)


def test_most_entropy_is_that_of_the_least_certain_frame_whatever_the_padding():
    log_probs, lens = random_log_probs(), torch.tensor([17, 12, 5, 1, 0])
    # A token that is ruled out adds nothing.
    log_probs[0, 3, 1] = float("-inf")
    log_probs = log_probs.log_softmax(dim=2)
    found = most_entropy(log_probs, lens)
    by_frame = torch.distributions.Categorical(probs=log_probs.exp()).entropy()
    for row, length in enumerate(lens.tolist()):
        torch.testing.assert_close(found[row], max([*by_frame[row, :length], found.new_zeros(())]))
        assert torch.equal(most_entropy(log_probs[row : row + 1, : max(length, 1)], lens[row : row + 1])[0], found[row])
    assert len(set(found.tolist())) == 5 and found[4] == 0
