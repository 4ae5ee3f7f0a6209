"""What a session does between steps."""

import signal
from types import SimpleNamespace

import pytest
import torch

from espnet_larm.train import session as module
from espnet_larm.train.session import STEPS_BETWEEN_GIVING_BACK, Running, Session


@pytest.fixture
def given_back(monkeypatch):
    """Steps after which memory was given back."""
    steps = []
    monkeypatch.setattr(module, "give_memory_back", lambda: steps.append(True))
    before = signal.getsignal(signal.SIGTERM)
    yield steps
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("device", "times"), [("cpu", 2), ("meta", 0)])
def test_memory_of_a_cpu_is_given_back_every_few_steps(given_back, tmp_path, device, times):
    session = Session(SimpleNamespace(output_dir=tmp_path), distributed=False)
    session._running = Running(torch.nn.Linear(1, 1, device=device), (), (), None)
    for _ in range(3 * STEPS_BETWEEN_GIVING_BACK - 1):
        session._between_steps()
    assert len(given_back) == times
