"""Beam search over a tiny LM, beside ESPnet's and beside the sum of all texts."""

import pytest
import torch

from espnet_larm.search.beam import beam
from espnet_larm.search.hypotheses import Bounds, Ending
from espnet_larm.search.multi_token import greedy
from espnet_larm.search.prefix_beam import prefix_beam

EOS, VOCAB_SIZE = 2, 13


@pytest.fixture
def decoder(toy):
    return toy.decoder


def pairs(hypotheses):
    return [(one.token_ids, one.score) for one in hypotheses]


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_n_best_is_that_of_espnets_beam_search(decoder, frames, assert_same, width):
    from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch

    search = BatchBeamSearch(
        scorers={"decoder": decoder},
        weights={"decoder": 1.0},
        beam_size=width,
        vocab_size=VOCAB_SIZE,
        sos=EOS,
        eos=EOS,
        token_list=[str(token) for token in range(VOCAB_SIZE)],
    )
    found = beam(decoder.start(*frames), [Bounds(40)] * 4, EOS, width, width, guards_loops=False)
    num_compared = 0
    for hs_pad, length, hypotheses in zip(*frames, found.hypotheses, strict=True):
        theirs = [(one.yseq.tolist()[1:], float(one.score)) for one in search(hs_pad[:length], maxlenratio=-40.0)]
        # ESPnet puts an end behind what runs at the longest length, without its score.
        theirs = [(tokens[:-1], score) for tokens, score in theirs if tokens.count(EOS) == 1 and len(tokens) <= 40]
        ours = [pair for pair, one in zip(pairs(hypotheses), hypotheses, strict=True) if one.ending is Ending.BY_ITSELF]
        assert_same(ours, theirs[: len(ours)])
        num_compared += len(ours)
    assert num_compared >= 2 * width


@torch.no_grad()
def test_a_batch_gives_what_each_utterance_gives_alone(decoder, frames, assert_same):
    bounds = [Bounds(30), Bounds(4), Bounds(30, least=6), Bounds(0)]
    together = beam(decoder.start(*frames), bounds, EOS, 4, 3)
    for row, (bound, hypotheses) in enumerate(zip(bounds, together.hypotheses, strict=True)):
        alone = beam(decoder.start(frames[0][row : row + 1], frames[1][row : row + 1]), [bound], EOS, 4, 3)
        assert_same(pairs(hypotheses), pairs(alone.hypotheses[0]))
        assert [one.ending for one in hypotheses] == [one.ending for one in alone.hypotheses[0]]
    assert all(len(one.token_ids) >= 6 for one in together.hypotheses[2])
    assert [one.token_ids for one in together.hypotheses[3]] == [[]]
    assert all(len(one.token_ids) <= 4 for one in together.hypotheses[1])


@torch.no_grad()
def test_a_beam_of_one_is_greedy_search(decoder, frames, assert_same):
    bounds = [Bounds(150), Bounds(4), Bounds(150, least=9), Bounds(0)]
    for eos in (EOS, 8):
        expected = greedy(decoder.start(*frames), bounds, eos)
        found = beam(decoder.start(*frames), bounds, eos, 1)
        assert_same([pairs(one)[0] for one in found.hypotheses], pairs(expected.hypotheses))
        for (one,), other in zip(found.hypotheses, expected.hypotheses, strict=True):
            assert (one.ending, one.was_held_open) == (other.ending, other.was_held_open)
    assert (found.num_calls, found.num_row_calls) == (expected.num_calls, expected.num_row_calls)


def test_a_wide_beam_finds_the_best_of_all_texts(toy, one_by_one, assert_same):
    """The hypotheses have up to three tokens, out of few: the others are ruled out."""
    found = beam(toy.start(one_by_one[0]), [Bounds(3)], EOS, 27, 5, scorer=toy.few())
    assert_same(pairs(found.hypotheses[0]), toy.all_texts(one_by_one[0], 3)[:5])


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_beam_that_looks_ahead_finds_what_it_finds_without(toy, decoder, frames, assert_same, width):
    """Though its heads guess at random."""
    bounds = [Bounds(30), Bounds(4), Bounds(30, least=6), Bounds(0)]
    expected = beam(decoder.start(*frames), bounds, EOS, width, width)
    found = beam(decoder.start(*frames), bounds, EOS, width, width, lookahead=toy.random_heads(3))
    for some, others in zip(found.hypotheses, expected.hypotheses, strict=True):
        assert_same(pairs(some), pairs(others))
        assert [one.ending for one in some] == [one.ending for one in others]
    assert found.num_row_calls <= expected.num_row_calls
    assert found.num_row_tokens > expected.num_row_tokens


@torch.no_grad()
@pytest.mark.parametrize(("width", "most_share"), [(1, 0.3), (3, 0.8)])
def test_a_beam_that_looks_ahead_takes_fewer_calls(toy, one_by_one, assert_same, width, most_share):
    """With heads that know the texts; of a wide beam's hypotheses not all are among them."""
    first, bounds = one_by_one[0], [Bounds(40, least=20)]
    toy.decoder.backbone.model.get_output_embeddings().weight.mul_(4)
    expected = beam(toy.start(first), bounds, EOS, width, width)
    heads = toy.foresight(first, [one.token_ids for one in expected.hypotheses[0]], 5)
    found = beam(toy.start(first), bounds, EOS, width, width, lookahead=heads)
    assert_same(pairs(found.hypotheses[0]), pairs(expected.hypotheses[0]))
    assert found.num_calls <= most_share * expected.num_calls


def test_a_text_that_a_guard_cuts_back_to_another_is_found_once(toy, frames):
    """With an end that the LM never finds, all texts are cut back to their loops."""
    for search in (beam, prefix_beam):
        found = search(toy.start(frames), [Bounds(150)] * 4, 8, 4, 4)
        for texts in found.hypotheses:
            assert len({tuple(text.token_ids) for text in texts}) == len(texts)


@pytest.mark.parametrize("search", [beam, prefix_beam])
def test_scores_that_are_no_numbers_are_named_as_such(toy, frames, search):
    begun = toy.start(frames)
    begun.hidden[1] = float("nan")
    with pytest.raises(ValueError, match="a beam found no hypothesis, since the LM's scores are no numbers"):
        search(begun, [Bounds(9)] * 4, EOS, 2)
