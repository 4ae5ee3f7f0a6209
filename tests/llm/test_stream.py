"""Rows of different lengths side by side."""

import torch

from espnet_larm.llm.stream import Ragged


def test_valid_positions_are_put_side_by_side_and_back():
    padded, lens = torch.randn(3, 4, 5), torch.tensor([2, 4, 1])
    ragged = Ragged.of(lens, 4, padded.device)
    flat = ragged.flat(padded)
    assert torch.equal(flat, torch.cat([padded[0, :2], padded[1], padded[2, :1]]).unsqueeze(0))
    back = ragged.padded(flat)
    for row, length in enumerate(lens):
        assert torch.equal(back[row, :length], padded[row, :length]) and not back[row, length:].any()
