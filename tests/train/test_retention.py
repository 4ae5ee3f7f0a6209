"""The fraction of frames that pooling leaves is logged."""

import logging

import pytest
import torch

from espnet_larm.pooling.frontend import AffinityPoolingFrontend
from espnet_larm.train.batches.frames import retention_logged


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_the_mean_over_the_batches_of_an_epoch_is_logged(caplog, is_wrapped):
    model, wrapped = torch.nn.Module(), torch.nn.Module()
    model.frontend = AffinityPoolingFrontend(tau=-1.0, min_frames_per_second=0.0, max_group=4)
    wrapped.module = model
    with caplog.at_level(logging.INFO):
        with retention_logged(wrapped if is_wrapped else model):
            # 101 and 201 frames in groups of 4.
            model.frontend(torch.randn(1, 12800), torch.tensor([12800]))
            model.frontend(torch.randn(1, 25600), torch.tensor([25600]))
        model.frontend(torch.randn(1, 12800), torch.tensor([12800]))
    assert f"left {(26 / 101 + 51 / 201) * 50:.1f} % of the frames, on average of 2 batches" in caplog.text
    assert len(caplog.records) == 1


def test_front_ends_that_pool_nothing_are_silent(caplog):
    model = torch.nn.Module()
    model.frontend = torch.nn.Linear(1, 1)
    with caplog.at_level(logging.INFO), retention_logged(model):
        model.frontend(torch.ones(1))
    assert caplog.text == ""
