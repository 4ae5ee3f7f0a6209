"""CTC prefix beam search beside exhaustive sums and beside the textbook's search with dictionaries."""

import itertools
import math
from collections import defaultdict
from itertools import groupby, product

import pytest
import torch

from espnet_larm.search.ctc.beam import PrefixSearch, prefix_beam
from espnet_larm.search.ctc.posteriors import PAD, greedy


def random_log_probs(num_utterances=5, num_frames=17, num_tokens=5, sharpness=1.0):
    return (sharpness * torch.randn(num_utterances, num_frames, num_tokens, dtype=torch.float64)).log_softmax(dim=2)


def add(first, second):
    if first == second == -math.inf:
        return -math.inf
    return max(first, second) + math.log1p(math.exp(-abs(first - second)))


def exhaustive(log_probs, blank=0):
    """Every text of one utterance with its log-probability, summed over all paths."""
    totals = defaultdict(lambda: -math.inf)
    rows = log_probs.tolist()
    for path in product(range(log_probs.size(1)), repeat=len(rows)):
        text = tuple(token for token, _ in groupby(path) if token != blank)
        totals[text] = add(totals[text], sum(row[token] for row, token in zip(rows, path, strict=True)))
    return totals


def textbook(log_probs, beam_size, blank=0):
    """One utterance, one hypothesis after the other: (text, score), best first."""
    beam = {(): (0.0, -math.inf)}
    for row in log_probs.tolist():
        new = defaultdict(lambda: (-math.inf, -math.inf))
        for text, (ends_blank, ends_token) in beam.items():
            total = add(ends_blank, ends_token)
            new[text] = (add(new[text][0], total + row[blank]), new[text][1])
            for token, value in enumerate(row):
                if token == blank:
                    continue
                if text and text[-1] == token:
                    new[text] = (new[text][0], add(new[text][1], ends_token + value))
                    grows = ends_blank + value
                else:
                    grows = total + value
                longer = (*text, token)
                new[longer] = (new[longer][0], add(new[longer][1], grows))
        best = sorted(new.items(), key=lambda item: -add(*item[1]))[:beam_size]
        beam = dict(best)
    return [(list(text), add(*scores)) for text, scores in beam.items()]


@pytest.mark.parametrize("num_tokens", [2, 3])
def test_a_beam_that_holds_everything_is_exact(num_tokens):
    log_probs = random_log_probs(num_utterances=3, num_frames=6, num_tokens=num_tokens)
    found = prefix_beam(log_probs, torch.full((3,), 6), beam_size=800)
    for row, texts, scores in zip(log_probs, found.to_lists(), found.scores, strict=True):
        totals = exhaustive(row)
        assert {tuple(text) for text in texts} == set(totals)
        expected = torch.tensor([totals[tuple(text)] for text in texts], dtype=torch.float64)
        torch.testing.assert_close(scores[: len(texts)], expected)
        assert scores.exp().sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("beam_size", [1, 2, 7])
@pytest.mark.parametrize("blank", [0, 3])
def test_a_narrow_beam_is_the_textbooks(beam_size, blank):
    log_probs, lens = random_log_probs(sharpness=2.0), torch.tensor([17, 12, 5, 1, 0])
    found = prefix_beam(log_probs, lens, beam_size, blank)
    for row, length, texts, scores in zip(log_probs, lens, found.to_lists(), found.scores, strict=True):
        expected = textbook(row[:length], beam_size, blank)
        assert texts == [text for text, _ in expected]
        torch.testing.assert_close(
            scores[: len(texts)], torch.tensor([score for _, score in expected], dtype=torch.float64)
        )


def test_a_long_utterance_is_the_textbooks():
    log_probs = random_log_probs(num_utterances=1, num_frames=150, num_tokens=8, sharpness=2.0)
    (texts,) = prefix_beam(log_probs, torch.tensor([150]), 10).to_lists()
    assert texts == [text for text, _ in textbook(log_probs[0], 10)]


def test_hypotheses_of_an_utterance_differ():
    found = prefix_beam(random_log_probs(num_tokens=3), torch.full((5,), 17), 20)
    for texts in found.to_lists():
        assert len({tuple(text) for text in texts}) == len(texts)


def test_the_best_text_is_not_less_probable_than_greedys_path():
    log_probs, lens = random_log_probs(), torch.tensor([17, 12, 5, 1, 0])
    assert (prefix_beam(log_probs, lens, 5).scores[:, 0] >= greedy(log_probs, lens).scores - 1e-12).all()


def test_padding_changes_nothing():
    log_probs, lens = random_log_probs(), torch.tensor([17, 12, 5, 1, 0])
    together = prefix_beam(log_probs, lens, 6)
    noisy = torch.cat([log_probs, torch.full((5, 3, 5), float("nan"), dtype=torch.float64)], dim=1)
    assert prefix_beam(noisy, lens, 6).to_lists() == together.to_lists()
    for row, length in enumerate(lens):
        alone = prefix_beam(log_probs[row : row + 1, :length], lens[row : row + 1], 6)
        assert alone.to_lists()[0] == together.to_lists()[row]
        torch.testing.assert_close(alone.scores[0], together.scores[row])


@pytest.mark.parametrize("edges", [(0, 17), (0, 1, 1, 9, 17), tuple(range(18))])
def test_pieces_are_the_whole(edges):
    log_probs, lens = random_log_probs(), torch.full((5,), 17)
    search = PrefixSearch(5, 4, log_probs)
    for start, end in itertools.pairwise(edges):
        search.read(log_probs[:, start:end])
        found, wanted = search.found(), prefix_beam(log_probs, lens.clamp(max=end), 4)
        assert found.to_lists() == wanted.to_lists()
        assert torch.equal(found.scores, wanted.scores)


def test_no_frames_give_the_empty_text_alone():
    found = prefix_beam(random_log_probs(num_utterances=1), torch.tensor([0]), 3)
    assert found.to_lists() == [[[]]]
    assert found.lens.tolist() == [[0, PAD, PAD]]
    assert found.scores.tolist() == [[0.0, -math.inf, -math.inf]]


def test_a_beam_without_hypotheses_is_refused():
    with pytest.raises(ValueError, match="beam_size is 0; allowed: 1 or more"):
        prefix_beam(random_log_probs(), torch.full((5,), 17), 0)


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds():
    log_probs, lens = random_log_probs(), torch.tensor([17, 12, 5, 1, 0])
    found, expected = prefix_beam(log_probs.cuda(), lens.cuda(), 4), prefix_beam(log_probs, lens, 4)
    assert found.to_lists() == expected.to_lists()
    torch.testing.assert_close(found.scores.cpu(), expected.scores)
