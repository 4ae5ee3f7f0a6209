"""Subsampling: exact lengths, padding invariance, errors."""

import pytest
import torch

from espnet_larm.looped.subsampling import ConvSubsampling, LinearSubsampling
from espnet_larm.upstream import TooShortUttError

NUM_FEATURES = 40


@pytest.fixture(params=["conv 2", "conv 4", "conv 8", "linear 1", "linear 2", "linear 3"])
def subsampling(request) -> torch.nn.Module:
    torch.manual_seed(0)
    kind, factor = request.param.split()
    if kind == "linear":
        return LinearSubsampling(NUM_FEATURES, output_size=16, factor=int(factor)).eval()
    return ConvSubsampling(NUM_FEATURES, output_size=16, factor=int(factor), channels=4).eval()


def test_lengths_are_those_of_the_convolution(subsampling):
    for length in range(subsampling.min_length, subsampling.min_length + 20):
        frames, olens = subsampling(torch.randn(1, length, NUM_FEATURES), torch.tensor([length]))
        assert frames.shape[1] == olens.item()


def test_shortest_utterance_gives_one_frame(subsampling):
    length = subsampling.min_length
    _, olens = subsampling(torch.randn(1, length, NUM_FEATURES), torch.tensor([length]))
    assert olens.tolist() == [1]


def test_fewest_input_frames_are_the_inverse_of_lengths(subsampling):
    wanted = torch.arange(1, 40)
    fewest = subsampling.input_lens(wanted)
    assert torch.equal(subsampling.output_lens(fewest), wanted)
    assert torch.equal(subsampling.output_lens(fewest - 1), wanted - 1)
    assert int(fewest[0]) == subsampling.min_length


def test_padding_changes_nothing(subsampling):
    xs = torch.randn(2, 61, NUM_FEATURES)
    alone, _ = subsampling(xs[1:, :40], torch.tensor([40]))
    noisy, olens = subsampling(xs, torch.tensor([61, 40]))
    # Kernels may sum in another order for another shape: rounding, no more.
    torch.testing.assert_close(noisy[1:, : olens[1]], alone, rtol=1e-5, atol=1e-6)


def test_padding_beyond_the_longest_utterance_is_cut(subsampling):
    xs = torch.randn(1, 80, NUM_FEATURES)
    frames, olens = subsampling(xs, torch.tensor([50]))
    assert frames.shape[1] == olens.item()


def test_too_short_utterance_is_refused_with_the_limit(subsampling):
    length = subsampling.min_length - 1
    with pytest.raises(
        TooShortUttError, match=rf"has (no frame|{length} frames, fewer than the {length + 1})"
    ) as error:
        subsampling(torch.randn(2, 50, NUM_FEATURES), torch.tensor([50, length]))
    assert (error.value.actual_size, error.value.limit) == (length, length + 1)


def test_too_few_features_are_refused():
    with pytest.raises(ValueError, match="factor 8 leaves nothing of 10 features"):
        ConvSubsampling(10, 16, factor=8, channels=4)
