"""encoder: passthrough."""

import torch

from espnet_larm.pretrained.passthrough import PassthroughEncoder


def test_frames_are_handed_on_without_the_padding_that_nobody_has() -> None:
    frames = torch.randn(2, 7, 3)
    encoder = PassthroughEncoder(3)
    found, lens, states = encoder(frames, torch.tensor([5, 2]))
    assert encoder.output_size() == 3 and not list(encoder.parameters())
    assert torch.equal(found, frames[:, :5]) and lens.tolist() == [5, 2] and states is None
