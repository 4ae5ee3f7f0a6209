"""Blocks: equality with plain formulas, rotary positions, padding."""

import pytest
import torch

from espnet_larm.looped.blocks import (
    ConformerBlock,
    FrameSharedDropout,
    SelfAttention,
    Stack,
    TransformerBlock,
    describe_frames,
    rotate,
)

SIZE, NUM_HEADS, LENGTH = 16, 2, 9
HEAD_SIZE = SIZE // NUM_HEADS


def frames_of(*lens: int, length: int = LENGTH):
    return describe_frames(torch.tensor(lens), length, HEAD_SIZE, torch.zeros(1))


def new_block(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "conformer":
        return ConformerBlock(SIZE, NUM_HEADS, 32, torch.nn.Dropout(0.1), 0.1, kernel_size=5)
    return TransformerBlock(SIZE, NUM_HEADS, 32, torch.nn.Dropout(0.1), 0.1)


def test_attention_is_softmax_of_rotated_products():
    torch.manual_seed(0)
    attention = SelfAttention(SIZE, NUM_HEADS, 0.0).eval()
    xs, frames = torch.randn(1, LENGTH, SIZE), frames_of(LENGTH)
    queries, keys, values = (
        part.view(1, LENGTH, NUM_HEADS, HEAD_SIZE).transpose(1, 2) for part in attention.qkv(xs).split(SIZE, dim=-1)
    )
    products = rotate(queries, frames) @ rotate(keys, frames).transpose(-1, -2) / HEAD_SIZE**0.5
    mixed = products.softmax(-1) @ values
    expected = attention.out(mixed.transpose(1, 2).reshape(1, LENGTH, SIZE))
    # The fused kernel sums in another order.
    torch.testing.assert_close(attention(xs, frames), expected, rtol=1e-5, atol=1e-6)


def test_rotated_products_depend_on_distance_alone():
    torch.manual_seed(0)
    frames = frames_of(LENGTH)
    query, key = torch.randn(HEAD_SIZE), torch.randn(HEAD_SIZE)
    queries = rotate(query.expand(LENGTH, HEAD_SIZE), frames)
    keys = rotate(key.expand(LENGTH, HEAD_SIZE), frames)
    products = queries @ keys.t()
    for distance in range(-3, 4):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)


def test_position_zero_is_not_rotated():
    heads = torch.randn(1, HEAD_SIZE)
    assert torch.equal(rotate(heads, frames_of(1, length=1)), heads)


@pytest.mark.parametrize("kind", ["transformer", "conformer"])
def test_padding_changes_nothing(kind):
    block = new_block(kind).eval()
    xs = torch.randn(2, LENGTH, SIZE)
    alone = block(xs[1:, :5], frames_of(5, length=5))
    with_noise = block(xs, frames_of(LENGTH, 5))
    # Kernels may sum in another order for another shape: rounding, no more.
    torch.testing.assert_close(with_noise[1:, :5], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["transformer", "conformer"])
def test_gradients_reach_every_parameter(kind):
    block = new_block(kind)
    block(torch.randn(2, LENGTH, SIZE), frames_of(LENGTH, 5)).square().sum().backward()
    assert [name for name, parameter in block.named_parameters() if not parameter.grad.any()] == []


def test_stack_is_its_blocks_and_a_norm():
    blocks = [new_block("transformer").eval() for _ in range(2)]
    stack = Stack(blocks, SIZE)
    xs, frames = torch.randn(1, LENGTH, SIZE), frames_of(LENGTH)
    assert torch.equal(stack(xs, frames), stack.norm(blocks[1](blocks[0](xs, frames), frames)))


def test_shared_dropout_drops_whole_channels_of_an_utterance_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = FrameSharedDropout(0.25).train()(torch.ones(200, LENGTH, SIZE))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 4 / 3]))
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
