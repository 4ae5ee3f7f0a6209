"""Frames to embeddings: lengths, padding, batches, gradients."""

import pytest
import torch

from espnet_larm.speech_llm.projector import CtcEmbeddings, Projector

SHAPES = [
    ("linear", 1),
    ("stack", 1),
    ("stack", 4),
    ("conv", 1),
    ("conv", 2),
    ("conv", 5),
    ("qformer", 1),
    ("qformer", 2),
]
# A batched product adds in another order than a single one.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def projector(kind, frames):
    torch.manual_seed(0)
    return Projector(kind, 6, 8, frames)


@pytest.mark.parametrize(("kind", "frames"), SHAPES)
@pytest.mark.parametrize("length", [1, 2, 4, 5, 9])
def test_lengths_are_exact_and_cover_every_frame(kind, frames, length):
    module = projector(kind, frames)
    hs_pad = torch.randn(1, length, 6, requires_grad=True)
    embeddings, lens = module(hs_pad, torch.tensor([length]))
    assert embeddings.shape == (1, -(-length // frames), 8) and lens.tolist() == [-(-length // frames)]
    embeddings.square().sum().backward()
    assert (hs_pad.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(("kind", "frames"), SHAPES)
def test_batch_gives_what_each_utterance_gives_alone(kind, frames):
    module, hs_pad, hlens = projector(kind, frames), torch.randn(3, 11, 6), torch.tensor([11, 7, 1])
    embeddings, lens = module(hs_pad, hlens)
    for row, length in enumerate(hlens):
        alone = module(hs_pad[row : row + 1, :length], hlens[row : row + 1])
        torch.testing.assert_close(embeddings[row, : lens[row]], alone.embeddings[0], **CLOSE)
        assert not embeddings[row, lens[row] :].any()


@pytest.mark.parametrize(("kind", "frames"), SHAPES)
def test_gradients_reach_every_weight(kind, frames):
    module = projector(kind, frames)
    module(torch.randn(2, 9, 6), torch.tensor([9, 4])).embeddings.square().sum().backward()
    assert all(parameter.grad.any() for parameter in module.parameters())


def test_frames_side_by_side_are_not_for_linear():
    with pytest.raises(ValueError, match="projector_frames is 2, but projector is linear, .* set it to 1, or take st"):
        Projector("linear", 6, 8, 2)


def heard_of(hs_pad):
    torch.manual_seed(1)
    posteriors = torch.randn(*hs_pad.shape[:2], 5).softmax(-1)[..., 1:]
    return CtcEmbeddings(posteriors @ torch.randn(4, 8), posteriors.sum(-1))


def test_posterior_is_what_was_heard_at_the_start_at_most_a_token_a_window():
    module, hs_pad, hlens = projector("posterior", 3), torch.randn(1, 7, 6), torch.tensor([7])
    heard = heard_of(hs_pad)
    embeddings, lens = module(hs_pad, hlens, heard)
    assert lens.tolist() == [3]
    for window, frames in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
        share = max(1.0, heard.shares[0, frames].sum())
        torch.testing.assert_close(embeddings[0, window], heard.embeddings[0, frames].sum(0) / share, **CLOSE)
    # Where less than a token was heard, something stands for the rest.
    more, _ = module(hs_pad, hlens, heard._replace(none=torch.ones(8)))
    for window, frames in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
        rest = max(0.0, 1.0 - heard.shares[0, frames].sum())
        torch.testing.assert_close(more[0, window] - embeddings[0, window], torch.full((8,), float(rest)), **CLOSE)


@pytest.mark.parametrize("none", [None, torch.arange(8.0)])
def test_posterior_of_a_batch_gives_what_each_utterance_gives_alone(none):
    module, hs_pad, hlens = projector("posterior", 2), torch.randn(3, 11, 6), torch.tensor([11, 7, 1])
    torch.nn.init.normal_(module.out.weight)
    heard = heard_of(hs_pad)._replace(none=none)
    embeddings, lens = module(hs_pad, hlens, heard)
    for row, length in enumerate(hlens):
        own = CtcEmbeddings(*(part[row : row + 1, :length] for part in heard[:2]), none)
        alone = module(hs_pad[row : row + 1, :length], hlens[row : row + 1], own)
        torch.testing.assert_close(embeddings[row, : lens[row]], alone.embeddings[0], **CLOSE)
        assert not embeddings[row, lens[row] :].any()


def test_three_queries_read_a_window_of_three_times_k_frames():
    module, hs_pad = projector("qformer", 5), torch.randn(1, 30, 6, requires_grad=True)
    embeddings, lens = module(hs_pad, torch.tensor([30]))
    assert lens.tolist() == [6]
    embeddings[0, 3:].square().sum().backward()
    seen = hs_pad.grad[0].abs().sum(-1)
    assert not seen[:15].any() and (seen[15:] > 0).all()
