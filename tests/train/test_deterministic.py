"""Deterministic mode."""

import os

import pytest
import torch

from espnet_larm.train.trainer import CTCLossOnCPU, make_deterministic, use_deterministic_losses


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    yield
    torch.use_deterministic_algorithms(False)


def test_torch_is_told(restored):
    make_deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def ctc_arguments(device="cpu"):
    log_probs = torch.randn(9, 2, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2).to(device)
    return log_probs.requires_grad_(), torch.tensor([1, 2, 3]).to(device), torch.tensor([9, 7]), torch.tensor([2, 1])


def test_replaced_loss_is_the_same_with_the_same_options():
    model = torch.nn.ModuleDict({"ctc": torch.nn.ModuleDict({"loss": torch.nn.CTCLoss(2, "none", zero_infinity=True)})})
    expected = model["ctc"]["loss"](*ctc_arguments())
    use_deterministic_losses(model)
    replaced = model["ctc"]["loss"]
    assert type(replaced) is CTCLossOnCPU
    assert (replaced.blank, replaced.reduction, replaced.zero_infinity) == (2, "none", True)
    assert torch.equal(replaced(*ctc_arguments()), expected)


@pytest.mark.gpu
def test_loss_on_a_gpu_has_a_deterministic_gradient(restored):
    make_deterministic()
    arguments = ctc_arguments("cuda")
    loss = CTCLossOnCPU()(*arguments)
    loss.backward()
    assert loss.is_cuda
