"""Rows of different lengths side by side, and where speech is."""

import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import drop
from espnet_larm.llm.stream import Ragged, speech_columns
from tests.adaptation.test_depth_upscaling import SPEECH, read, upscaled


def test_valid_positions_are_put_side_by_side_and_back():
    padded, lens = torch.randn(3, 4, 5), torch.tensor([2, 4, 1])
    ragged = Ragged.of(lens, 4, padded.device)
    flat = ragged.flat(padded)
    assert torch.equal(flat, torch.cat([padded[0, :2], padded[1], padded[2, :1]]).unsqueeze(0))
    back = ragged.padded(flat)
    for row, length in enumerate(lens):
        assert torch.equal(back[row, :length], padded[row, :length]) and not back[row, length:].any()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["..ss.", ".s..."], (1, 4)),
        (["s...s"], (0, 5)),
        (["....s", "....."], (4, 5)),
        ([".....", "....."], (0, 1)),
    ],
)
def test_columns_of_speech_are_those_of_any_row(rows, expected):
    assert speech_columns(torch.tensor([[sign == "s" for sign in row] for row in rows])) == expected


def test_speech_is_looked_for_once_a_prompt_and_again_where_it_was_shortened(hf_model, monkeypatch):
    from espnet_larm.adaptation import e_branchformer
    from espnet_larm.llm import backbone as module

    looked = []
    monkeypatch.setattr(module, "speech_columns", lambda speech: looked.append(speech) or speech_columns(speech))
    monkeypatch.setattr(e_branchformer, "speech_columns", None)
    backbone = upscaled(hf_model(), share=1.0)
    read(backbone)
    assert len(looked) == 1
    later = torch.zeros_like(SPEECH)
    later[:, 3:5] = True
    read(backbone, after_layer={0: lambda stream: stream._replace(speech=later)})
    assert len(looked) == 3 and looked[2] is later
    read(backbone, speech=None)
    drop(backbone)
    read(backbone)
    assert len(looked) == 3
