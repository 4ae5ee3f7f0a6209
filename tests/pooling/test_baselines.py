"""Other ways to shorten a sequence, each against its definition."""

import math

import pytest
import torch

from espnet_larm.pooling.a_tome import a_tome
from espnet_larm.pooling.baselines import (
    kept_lens,
    linear_interpolation,
    random_drop,
    uniform_drop,
    uniform_mean,
)

METHODS = [uniform_mean, uniform_drop, random_drop, linear_interpolation, a_tome]
RETENTIONS = [0.05, 0.1, 0.29, 0.5, 0.8, 1.0]


@pytest.fixture
def batch():
    """Tokens (4, 30, 3), NaN behind their lengths."""
    xs_pad, lens = torch.randn(4, 30, 3), torch.tensor([30, 1, 17, 0])
    for row, length in enumerate(lens.tolist()):
        xs_pad[row, length:] = float("nan")
    return xs_pad, lens


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("retention", RETENTIONS)
def test_retention_is_reached_to_a_token(batch, method, retention):
    pooled = method(*batch, retention)
    assert pooled.lens.tolist() == [math.ceil(round(retention * length, 6)) for length in batch[1].tolist()]
    assert pooled.tokens.shape == (4, max(pooled.lens.tolist()), 3)
    assert bool(torch.isfinite(pooled.tokens).all())


@pytest.mark.parametrize("method", METHODS)
def test_batch_gives_what_its_utterances_give_alone(batch, method):
    together = method(*batch, 0.4)
    for row, length in enumerate(batch[1].tolist()):
        alone = method(batch[0][row : row + 1, :length], batch[1][row : row + 1], 0.4)
        kept = int(alone.lens)
        assert kept == int(together.lens[row])
        assert torch.equal(alone.tokens[0], together.tokens[row, :kept])
        assert torch.equal(alone.groups[0], together.groups[row, :length])
        assert torch.equal(alone.starts[0], together.starts[row, :kept])
        assert together.groups[row, length:].eq(-1).all() and not together.tokens[row, kept:].any()


@pytest.mark.parametrize("method", METHODS)
def test_full_retention_changes_no_bit_of_speech(batch, method):
    pooled = method(*batch, 1.0)
    for row, length in enumerate(batch[1].tolist()):
        assert torch.equal(pooled.tokens[row, :length], batch[0][row, :length])
        assert pooled.groups[row, :length].tolist() == list(range(length))


@pytest.mark.parametrize("method", METHODS)
def test_gradient_reaches_the_tokens(batch, method):
    xs_pad = batch[0].clone().requires_grad_()
    method(xs_pad, batch[1], 0.5).tokens.sum().backward()
    assert bool(xs_pad.grad[0].any()) and not xs_pad.grad[1, 1:].any()


def test_strides_are_even_on_average():
    tokens = torch.arange(7.0).view(1, 7, 1)
    pooled = uniform_mean(tokens, torch.tensor([7]), 0.4)
    assert pooled.groups.tolist() == [[0, 0, 1, 1, 1, 2, 2]]
    assert pooled.tokens.flatten().tolist() == [0.5, 3.0, 5.5]
    dropped = uniform_drop(tokens, torch.tensor([7]), 0.4)
    assert dropped.tokens.flatten().tolist() == [0.0, 2.0, 5.0]
    assert dropped.groups.tolist() == [[0, -1, 1, -1, -1, 2, -1]]
    assert dropped.starts.tolist() == [[0, 2, 5]]


@pytest.mark.parametrize("retention", [0.29, 0.5, 0.8])
def test_interpolation_is_torchs(batch, retention):
    pooled = linear_interpolation(*batch, retention)
    for row, length in enumerate(batch[1].tolist()[:3]):
        kept = int(pooled.lens[row])
        wanted = torch.nn.functional.interpolate(batch[0][row, :length].T.unsqueeze(0), size=kept, mode="linear")
        torch.testing.assert_close(pooled.tokens[row, :kept], wanted[0].T)
        centres = [(output + 0.5) * length / kept - 0.5 for output in range(kept)]
        for frame, group in enumerate(pooled.groups[row, :length].tolist()):
            assert abs(frame - centres[group]) <= min(abs(frame - centre) for centre in centres) + 1e-6


def test_random_drop_keeps_the_order_and_depends_on_the_seed(batch):
    pooled, again, other = (random_drop(*batch, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(pooled.tokens, again.tokens) and not torch.equal(pooled.tokens, other.tokens)
    starts = pooled.starts[0].tolist()
    assert starts == sorted(starts) and torch.equal(pooled.tokens[0], batch[0][0, starts])


def test_a_tome_merges_the_most_similar_neighbours_first():
    angles = torch.tensor([0.0, 0.1, 1.5, 1.55, 3.0])
    tokens = torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(0)
    lens = torch.tensor([5])
    assert a_tome(tokens, lens, 0.8).groups.tolist() == [[0, 1, 2, 2, 3]]
    assert a_tome(tokens, lens, 0.6).groups.tolist() == [[0, 0, 1, 1, 2]]


def test_a_tome_merges_at_most_half_in_a_round_and_weighs_by_size():
    # Two rounds: pairs by keys, then the mean of three and one, in which each token counts once.
    tokens = torch.tensor([[[1.0], [2.0], [6.0], [11.0]]])
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])
    pooled = a_tome(tokens, torch.tensor([4]), 0.5, keys)
    assert pooled.tokens.flatten().tolist() == [3.0, 11.0]
    assert a_tome(tokens, torch.tensor([4]), 0.25, keys).tokens.flatten().tolist() == [5.0]


def test_a_tome_is_not_affinity_pooling_with_a_threshold_of_its_own():
    # Affinity pooling makes four equal tokens one group before it takes any other; a round merges each once.
    keys = torch.tensor([[[1.0, 0.0]] * 4 + [[0.8, 0.6], [0.0, 1.0]]])
    groups = a_tome(keys, torch.tensor([6]), 0.5).groups.tolist()
    assert groups == [[0, 0, 1, 1, 1, 2]]


def test_kept_lens_are_not_moved_by_binary_fractions():
    assert kept_lens(torch.tensor([0, 1, 10, 30, 100]), 0.1).tolist() == [0, 1, 1, 3, 10]
