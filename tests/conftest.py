"""Fixtures for all tests: seeded randomness, and ESPnet's task imported once."""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from espnet_larm.tasks.asr import LarmASRTask


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random numbers for a test alone and among others; the states before are restored."""
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


@pytest.fixture(scope="session")
def larm_task() -> "type[LarmASRTask]":
    """Our task, with ESPnet's (10 s) imported once for all tests."""
    from espnet_larm.tasks.asr import LarmASRTask

    return LarmASRTask


@pytest.fixture
def encoder_choices(larm_task: "type[LarmASRTask]") -> Iterator[dict[str, type]]:
    """ESPnet's table of encoders, put back as it was after the test."""
    from espnet2.tasks.asr import encoder_choices

    before = dict(encoder_choices.classes)
    yield encoder_choices.classes
    encoder_choices.classes.clear()
    encoder_choices.classes.update(before)
