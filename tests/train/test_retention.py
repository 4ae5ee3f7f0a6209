"""The share of frames that pooling leaves is logged."""

import logging

import pytest
import torch

from espnet_larm.train.retention import retention_logged


class Model(torch.nn.Module):
    class Frontend(torch.nn.Module):
        def forward(self, share):
            self.retention = torch.tensor(share)

    def __init__(self):
        super().__init__()
        self.frontend = self.Frontend()
        self.frontend.retention = torch.ones(())


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_mean_over_batches_is_logged_and_the_hook_removed(caplog, is_wrapped):
    model, wrapped = Model(), torch.nn.Module()
    wrapped.module = model
    with caplog.at_level(logging.INFO):
        with retention_logged(wrapped if is_wrapped else model):
            model.frontend(0.5)
            model.frontend(0.7)
        model.frontend(0.1)
    assert "left 60.0 % of the frames, on average of 2 batches" in caplog.text
    assert len(caplog.records) == 1


def test_front_ends_that_pool_nothing_are_silent(caplog):
    model = torch.nn.Module()
    model.frontend = torch.nn.Linear(1, 1)
    with caplog.at_level(logging.INFO), retention_logged(model):
        model.frontend(torch.ones(1))
    assert caplog.text == ""
