"""Losses of logits in chunks: the same loss and gradients, without a tensor of positions times vocabulary."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_larm.llm import chunks
from espnet_larm.llm.chunks import by_chunks

VOCAB_SIZE, SIZE = 50, 8


class Largest(TorchDispatchMode):
    """The most numbers that a tensor had which an operation made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            self.numbers = max(self.numbers, each.numel() if isinstance(each, torch.Tensor) else 0)
        return made


def losses_of(head, smoothing=0.0):
    def predict(states, tokens):
        logits = head(states)
        return functional.cross_entropy(logits, tokens, label_smoothing=smoothing, reduction="none"), logits.argmax(-1)

    return predict


@pytest.fixture
def head():
    return torch.nn.Linear(SIZE, VOCAB_SIZE).double()


def loss_and_gradients(head, states, tokens, **options):
    states = states.clone().requires_grad_()
    head.zero_grad()
    losses, best = by_chunks(losses_of(head, 0.1), VOCAB_SIZE, states, tokens, **options)
    (losses.sum() / 3).backward()
    return losses.detach(), best, states.grad, head.weight.grad.clone(), head.bias.grad.clone()


@pytest.mark.parametrize("at_once", [1, VOCAB_SIZE, 3 * VOCAB_SIZE, 7 * VOCAB_SIZE + 5])
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(head, monkeypatch, at_once):
    states, tokens = torch.randn(11, SIZE).double(), torch.randint(VOCAB_SIZE, (11,))
    whole = loss_and_gradients(head, states, tokens)
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", at_once)
    for found, wanted in zip(loss_and_gradients(head, states, tokens), whole, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("recomputes", [False, True])
def test_without_positions_gradients_are_zero_and_there(head, recomputes):
    """Processes that train together need them."""
    found = loss_and_gradients(head, torch.zeros(0, SIZE).double(), torch.zeros(0).long(), recomputes=recomputes)
    assert found[0].shape == (0,) and not found[3].any()


@pytest.mark.parametrize("is_training", [True, False])
def test_no_tensor_is_larger_than_a_chunk(head, monkeypatch, is_training):
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", 10 * VOCAB_SIZE)
    largest = []
    for num_positions in (40, 400):
        states = torch.randn(num_positions, SIZE).double()
        with Largest() as watched, torch.set_grad_enabled(is_training):
            losses, _ = by_chunks(losses_of(head), VOCAB_SIZE, states, torch.zeros(num_positions).long())
            if is_training:
                losses.sum().backward()
        largest.append(watched.numbers)
    assert largest == [10 * VOCAB_SIZE] * 2
