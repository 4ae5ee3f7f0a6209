"""Lines on the progress of an epoch."""

import logging

import numpy as np
import pytest

from espnet2.train.reporter import SubReporter

from espnet_larm.train.batches.epoch import length_of
from espnet_larm.train.batches.progress import Progress


@pytest.fixture
def lines(caplog):
    """Train `num_steps` steps of `seconds` each in epoch 3, and return the lines."""

    def train(num_steps, seconds, accum_grad=1, num_batches=None, **others):
        times = iter(100.0 + seconds * number for number in range(num_steps + 1))
        caplog.clear()
        observed = SubReporter("train", 3, 0)
        with caplog.at_level(logging.INFO):
            progress = Progress(observed, accum_grad, num_batches, clock=lambda: next(times), **others)
            progress.tell(0)
            for step in range(1, num_steps + 1):
                for number in range(accum_grad):
                    observed.register({"loss": float(step)}, 2.0)
                    if number == accum_grad - 1:
                        observed.register({"optim0_lr0": step / 1000})
                    observed.next()
                progress.tell(step)
        return caplog.messages

    return train


def test_a_line_has_step_loss_rate_seconds_and_the_time_left(lines):
    found = lines(13, 6.0, num_batches=40, num_epochs_after=2)
    first = "step 2/40 of epoch 3: loss 1.5, learning rate 0.002, 6.00 s a step; the epoch takes about 3 minutes and "
    second = "step 12/40 of epoch 3: loss 7.5, learning rate 0.012, 6.00 s a step; the epoch takes about 2 minutes and "
    assert found == [
        f"{first}48 seconds more, all of max_epoch about 11 minutes and 48 seconds",
        f"{second}48 seconds more, all of max_epoch about 10 minutes and 48 seconds",
    ]


def test_a_step_of_several_batches_is_one_step_and_an_interruption_does_not_begin_anew(lines):
    (found,) = lines(1, 10.0, accum_grad=4, num_batches=43, num_used=20)
    expected = (
        "step 6/10 of epoch 3: loss 1, learning rate 0.001, 10.00 s a step; the epoch takes about 40 seconds more"
    )
    assert found == expected


def test_where_nobody_knows_the_epochs_length_no_time_left_is_told(lines):
    assert lines(1, 10.0) == ["step 1 of epoch 3: loss 1, learning rate 0.001, 10.00 s a step"]
    assert length_of(iter([])) is None and length_of([1, 2]) == 2


def test_an_epoch_of_a_few_seconds_has_no_line(lines):
    assert lines(9, 1.0, num_batches=9) == []


def test_a_training_that_computes_nothing_has_no_line(caplog):
    times = iter([0.0, 100.0])
    observed = SubReporter("train", 1, 0)
    with caplog.at_level(logging.INFO):
        progress = Progress(observed, 1, 2, clock=lambda: next(times))
        progress.tell(0)
        observed.register({"iter_time": np.float64(0.1)})
        observed.next()
        progress.tell(1)
    assert caplog.messages == []
