"""Draft heads: nothing at the start, of two shapes."""

import pytest
import torch

from espnet_larm.speech_llm.heads import DraftHeads

SIZE, VOCAB_SIZE = 6, 11


@pytest.fixture
def unembedding():
    return torch.nn.Linear(SIZE, VOCAB_SIZE, bias=False)


def test_every_head_is_head_1_at_the_start_bit_for_bit(unembedding):
    hidden = torch.randn(2, 3, SIZE)
    latent, projection = (DraftHeads(kind, 4, unembedding) for kind in ("latent", "projection"))
    for head in (2, 3, 4):
        assert torch.equal(latent.latent(head, hidden), hidden)
        assert torch.equal(projection.project(head, hidden), unembedding(hidden))


def test_heads_cost_what_their_shape_says_and_one_head_nothing(unembedding):
    def numbers(kind, num_heads):
        return sum(parameter.numel() for parameter in DraftHeads(kind, num_heads, unembedding).parameters())

    assert numbers("latent", 4) == 3 * SIZE * SIZE and numbers("projection", 4) == 3 * SIZE * VOCAB_SIZE
    assert numbers("latent", 1) == numbers("projection", 1) == 0


def test_heads_stay_in_float32_behind_an_lm_in_bfloat16(unembedding):
    heads, hidden = DraftHeads("latent", 2, unembedding), torch.randn(2, SIZE).bfloat16()
    assert heads.latent(2, hidden).dtype == torch.bfloat16 and heads.layers[0].weight.dtype == torch.float32
    assert DraftHeads("projection", 2, unembedding).project(2, hidden).dtype == torch.float32
