"""Paths: what a search of all frames gives, read piece by piece, and again from a frame on."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_larm.live.paths import Search, Spot, start_path
from espnet_larm.search.ctc.align import align
from espnet_larm.search.ctc.beam import prefix_beam
from espnet_larm.search.ctc.posteriors import greedy

NUM_TOKENS = 5


def random_log_probs(num_frames, seed=0, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(num_frames, NUM_TOKENS, generator=generator)).log_softmax(1)


def path_of(ids):
    """Posteriors (T, V) with these best tokens."""
    return torch.nn.functional.one_hot(torch.tensor(ids), NUM_TOKENS).float().mul(4).log_softmax(1)


def wanted(log_probs, search):
    """Tokens and spots of one search of all frames."""
    lens = torch.tensor([len(log_probs)])
    if search.beam_size == 1:
        tokens = greedy(log_probs[None], lens, search.blank, search.no_text).to_lists()[0]
    else:
        tokens = prefix_beam(log_probs[None], lens, search.beam_size, search.blank).to_lists()[0][0]
    found = align(log_probs[None], lens, torch.tensor([tokens], dtype=torch.long), torch.tensor([len(tokens)]))
    return tokens, [Spot(*spot) for spot in zip(tokens, *(part[0].tolist() for part in found[:3]), strict=True)]


@pytest.mark.parametrize("beam_size", [1, 4])
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_path_is_the_search_of_all_its_frames(beam_size, sizes, seed):
    search = Search(0, beam_size=beam_size)
    log_probs, path = random_log_probs(sum(sizes), seed), start_path(search)
    for begin, end in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        path.read(log_probs[begin:end])
        if end:
            tokens, spots = wanted(log_probs[:end], search)
            assert path.token_ids() == tokens and path.num_frames == end
            for found, spot in zip(path.spots(), spots, strict=True):
                assert found[:3] == spot[:3] and found.log_prob == pytest.approx(spot.log_prob, abs=1e-5)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_path_goes_on_from_a_frame(beam_size):
    path = start_path(Search(0, beam_size=beam_size))
    path.read(path_of([1, 1, 0, 2, 2]))
    path.read(path_of([0, 3, 0]))
    rest = path.after(3)
    assert rest.token_ids() == [2, 3] and rest.num_frames == 5 and rest.num_silent() == 1
    assert path.after(8).token_ids() == [] and path.after(8).num_frames == 0
    rest.read(path_of([4]))
    assert rest.token_ids() == [2, 3, 4] and path.token_ids() == [1, 2, 3]


def test_a_token_that_was_cut_is_said_once():
    path = start_path(Search(0))
    path.read(path_of([1, 1]))
    rest = path.after(2)
    rest.read(path_of([1, 2]))
    assert rest.token_ids() == [2]
    other = path.after(2)
    other.read(path_of([0, 1]))
    assert other.token_ids() == [1]


def test_tokens_of_no_text_are_left_out_and_are_silence():
    path = start_path(Search(0, no_text=(4,)))
    path.read(path_of([1, 4, 1, 4, 0]))
    assert path.token_ids() == [1, 1] and path.num_silent() == 2
    beam = start_path(Search(0, no_text=(4,), beam_size=3))
    beam.read(path_of([4, 1, 4]))
    assert 4 not in beam.token_ids()
