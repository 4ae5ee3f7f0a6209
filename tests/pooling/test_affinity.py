"""Affinity pooling against its definition, token by token."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_larm.pooling.affinity import affinity_pool, boundaries, cosines, cut_runs, merge, valid_mask

# Whole numbers of which many cosines are equal, exact (0, 0.6, 0.8, 1) or undefined (zero vectors).
VECTORS = [(0, 0), (1, 0), (2, 0), (0, 1), (3, 4), (4, 3), (-1, 0), (1, 1), (0.5, -2)]


@st.composite
def batches(draw, max_frames=24):
    """Tokens (B, T, 2) with NaN in the padding, and lengths (B,), 0 included."""
    rows = draw(st.lists(st.lists(st.sampled_from(VECTORS), max_size=max_frames), min_size=1, max_size=3))
    num_frames = max(map(len, rows)) + draw(st.integers(0, 2))
    xs_pad = torch.full((len(rows), num_frames, 2), float("nan"))
    for row, vectors in enumerate(rows):
        xs_pad[row, : len(vectors)] = torch.tensor(vectors, dtype=torch.float32).view(-1, 2)
    return xs_pad, torch.tensor([len(vectors) for vectors in rows])


taus = st.sampled_from([-1.0, -0.5, 0.0, 0.6, 0.7, 0.8, 0.96, 1.0, 1.5])
windows = st.integers(1, 5)
max_groups = st.none() | st.integers(1, 6)


def cosine(one, other):
    norm = math.sqrt(sum(x * x for x in one) * sum(y * y for y in other))
    return np.float32(sum(x * y for x, y in zip(one, other, strict=True)) / norm if norm else 0)


def reference(tokens, tau, window, max_group):
    """Groups of one utterance, each the indices of its tokens."""
    groups = []
    for index, token in enumerate(tokens):
        compared = groups[-1][-window:] if groups else []
        nearest = max((cosine(token, tokens[other]) for other in compared), default=-math.inf)
        if groups and nearest >= np.float32(tau) and (max_group is None or len(groups[-1]) < max_group):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


@given(batches(), taus, windows, max_groups)
def test_groups_are_those_of_the_definition(batch, tau, window, max_group):
    xs_pad, lens = batch
    pooled = affinity_pool(xs_pad, lens, tau, window, max_group)
    for row, length in enumerate(lens.tolist()):
        groups = reference(xs_pad[row, :length].tolist(), tau, window, max_group)
        assert int(pooled.lens[row]) == len(groups)
        assert pooled.starts[row].tolist()[: len(groups)] == [group[0] for group in groups]
        assert pooled.groups[row, :length].tolist() == [n for n, group in enumerate(groups) for _ in group]
        means = [xs_pad[row, group].mean(dim=0) for group in groups]
        torch.testing.assert_close(
            pooled.tokens[row, : len(groups)], torch.stack(means) if means else torch.empty(0, 2)
        )


@given(batches(), taus.filter(lambda tau: tau <= 1), windows, max_groups)
def test_padding_is_no_group_and_gets_zeros(batch, tau, window, max_group):
    xs_pad, lens = batch
    pooled = affinity_pool(xs_pad, lens, tau, window, max_group)
    assert pooled.tokens.size(1) == int(pooled.lens.max())
    padding = ~valid_mask(pooled.lens, pooled.tokens.size(1))
    assert not pooled.tokens[padding].any() and not pooled.starts[padding].any()
    assert bool((pooled.groups[~valid_mask(lens, xs_pad.size(1))] == -1).all())


@given(batches(), taus, windows, max_groups)
def test_batch_gives_what_its_utterances_give_alone(batch, tau, window, max_group):
    xs_pad, lens = batch
    together = affinity_pool(xs_pad, lens, tau, window, max_group)
    for row, length in enumerate(lens.tolist()):
        alone = affinity_pool(xs_pad[row : row + 1, :length], lens[row : row + 1], tau, window, max_group)
        num_groups = int(alone.lens)
        assert num_groups == int(together.lens[row])
        assert torch.equal(alone.tokens[0], together.tokens[row, :num_groups])
        assert torch.equal(alone.groups[0], together.groups[row, :length])


@given(batches(), windows)
def test_retention_does_not_fall_with_tau(batch, window):
    kept = [affinity_pool(*batch, tau, window).lens for tau in (-1.0, -0.5, 0.0, 0.6, 0.7, 0.8, 0.96, 1.0, 1.5)]
    assert all(bool((less <= more).all()) for less, more in itertools.pairwise(kept))


@given(batches(), max_groups.filter(bool))
def test_retention_does_not_fall_with_tau_where_groups_are_bounded(batch, max_group):
    kept = [affinity_pool(*batch, tau, 1, max_group).lens for tau in (-1.0, 0.0, 0.6, 0.8, 0.96, 1.0)]
    assert all(bool((less <= more).all()) for less, more in itertools.pairwise(kept))


@given(batches(), taus)
def test_window_and_bound_that_never_bind_change_nothing(batch, tau):
    xs_pad, lens = batch
    starts = boundaries(xs_pad, lens, tau)
    assert torch.equal(starts, boundaries(xs_pad, lens, tau, 1, xs_pad.size(1) + 1))
    wide = boundaries(xs_pad, lens, tau, 100)
    assert torch.equal(wide, boundaries(xs_pad, lens, tau, 100, xs_pad.size(1) + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tau_above_one_gives_back_the_argument(dtype):
    xs_pad, lens = torch.randn(2, 6, 4, dtype=dtype), torch.tensor([6, 3])
    xs_pad[:, 1] = xs_pad[:, 0]
    pooled = affinity_pool(xs_pad, lens, 1.0 + 1e-9)
    assert pooled.tokens is xs_pad and pooled.lens is lens
    assert pooled.groups.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, -1, -1, -1]]


def test_equal_tokens_join_at_tau_one_and_zeros_never_above_zero():
    token = torch.randn(1000)
    xs_pad = torch.stack([token, token, token * 2, torch.zeros(1000), torch.zeros(1000)]).unsqueeze(0)
    assert affinity_pool(xs_pad, torch.tensor([5]), 1.0).groups.tolist() == [[0, 0, 0, 1, 2]]
    assert affinity_pool(xs_pad, torch.tensor([5]), 0.0).groups.tolist() == [[0, 0, 0, 0, 0]]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosines_of_tiny_and_huge_tokens_are_those_of_float64(scale):
    xs_pad = torch.randn(1, 50, 300) * scale
    wanted = torch.cosine_similarity(xs_pad[0, 3:].double() / scale, xs_pad[0, :-3].double() / scale, dim=-1)
    torch.testing.assert_close(cosines(xs_pad, 3)[0], wanted.float(), rtol=0, atol=1e-7)


def test_strides_of_the_argument_change_nothing():
    xs_pad, lens = torch.randn(2, 40, 33), torch.tensor([40, 31])
    strided = xs_pad.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(affinity_pool(strided, lens, 0.1, 2).tokens, affinity_pool(xs_pad, lens, 0.1, 2).tokens)


def test_half_precision_and_autocast_decide_as_float32_does():
    xs_pad, lens = torch.randn(2, 60, 8).bfloat16(), torch.tensor([60, 41])
    wanted = affinity_pool(xs_pad.float(), lens, 0.3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = affinity_pool(xs_pad, lens, 0.3, 3)
    assert pooled.tokens.dtype == torch.bfloat16
    assert torch.equal(pooled.groups, wanted.groups)
    # Accumulated in float32 and rounded once.
    assert torch.equal(pooled.tokens, wanted.tokens.bfloat16())


def test_token_alone_keeps_its_bits():
    xs_pad = torch.tensor([[[-0.0, 1.0], [1.0, -0.0], [0.1, 0.3]]])
    tokens = merge(xs_pad, torch.tensor([3]), torch.ones(1, 3, dtype=torch.bool)).tokens
    assert torch.equal(tokens.view(torch.int32), xs_pad.view(torch.int32))


def test_gradient_of_a_mean_is_shared_by_its_tokens_and_padding_gets_none():
    xs_pad = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [float("nan")] * 2]], requires_grad=True)
    pooled = affinity_pool(xs_pad, torch.tensor([3]), 0.5)
    (pooled.tokens * torch.tensor([[[4.0], [3.0]]])).sum().backward()
    assert xs_pad.grad[0, :, 0].tolist() == [2.0, 2.0, 3.0, 0.0]


def test_argument_is_not_written_to():
    xs_pad = torch.randn(1, 9, 3)
    before = xs_pad.clone()
    affinity_pool(xs_pad, torch.tensor([7]), 0.0, 3, 2)
    assert torch.equal(xs_pad, before)


def test_runs_are_cut_from_their_own_start():
    starts = torch.tensor([[True, False, False, False, True, False, False]])
    assert cut_runs(starts, 3).int().tolist() == [[1, 0, 0, 1, 1, 0, 0]]


@pytest.mark.gpu
@pytest.mark.parametrize("window", [1, 3])
def test_gpu_gives_what_the_cpu_gives(window):
    xs_pad, lens = torch.randn(4, 200, 16).cumsum(1), torch.tensor([200, 150, 1, 77])
    here = affinity_pool(xs_pad, lens, 0.9, window, 6)
    there = affinity_pool(xs_pad.cuda(), lens.cuda(), 0.9, window, 6)
    assert torch.equal(there.groups.cpu(), here.groups) and torch.equal(there.tokens.cpu(), here.tokens)


def test_lower_tau_may_leave_more_where_window_and_bound_meet():
    # Why calibration must not bisect there: a bound reached elsewhere begins the next group elsewhere.
    xs_pad = torch.randn(8, 12, 2, generator=torch.Generator().manual_seed(88))
    lens = torch.full((8,), 12)
    kept = torch.stack([affinity_pool(xs_pad, lens, tau, 3, 3).lens for tau in (0.0, 0.3, 0.6, 0.8, 0.9)])
    assert bool((kept.diff(dim=0) < 0).any())
