"""Work of several callers in one batch: who shares it, what each gets, and who is dropped."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from espnet_larm.serve.batching import Batcher, Caller, CallerGoneError, Work


class Adder:
    """Work that sums up waveforms, and is held until it may go."""

    def __init__(self, batcher, wait_s=0.0):
        self.batcher, self.batches = batcher, []
        self.begun, self.may_go = threading.Event(), threading.Event()
        self.work = Work(self, self.run, lambda found, start, end, share: (found[start:end], share), wait_s)
        self.pool = ThreadPoolExecutor(32)

    def run(self, waveforms):
        self.batches.append([len(samples) for samples in waveforms])
        self.begun.set()
        assert self.may_go.wait(60)
        if any(len(samples) == 13 for samples in waveforms):
            raise ValueError("13 samples are refused.")
        return [float(samples.sum()) for samples in waveforms]

    def ask(self, *lengths, caller=None):
        waveforms = [np.ones(length) for length in lengths]
        return self.pool.submit(self.batcher.run, self.work, waveforms, caller or Caller())

    def hold(self):
        """Keep the batcher busy with one sample, until `may_go` is set."""
        self.may_go.clear()
        held = self.ask(1)
        assert self.begun.wait(60)
        self.batches.clear()
        return held


@pytest.fixture
def make():
    adders = []

    def make(max_padded=1e9, max_waveforms=100, wait_s=0.0):
        adders.append(Adder(Batcher(max_padded, max_waveforms), wait_s))
        return adders[-1]

    yield make
    for adder in adders:
        adder.may_go.set()
        adder.batcher.close()
        adder.pool.shutdown()


def wait_for(batcher, number):
    """Until so many wait."""
    with batcher._changed:
        assert batcher._changed.wait_for(lambda: len(batcher._waiting) == number, 60)


def test_who_comes_while_another_batch_is_at_work_shares_the_next(make):
    adder = make()
    held = adder.hold()
    asked = [adder.ask(10), adder.ask(11, 12), adder.ask(9)]
    wait_for(adder.batcher, 3)
    adder.may_go.set()
    assert held.result() == ([1.0], 1.0)
    assert [each.result()[0] for each in asked] == [[10.0], [11.0, 12.0], [9.0]]
    assert sum(each.result()[1] for each in asked) == pytest.approx(1.0)
    (batch,) = adder.batches
    assert sorted(batch) == [9, 10, 11, 12]


def test_an_idle_batcher_waits_for_others_and_no_longer_when_it_is_full(make):
    adder = make(max_waveforms=3, wait_s=3600.0)
    adder.may_go.set()
    asked = [adder.ask(10) for _ in range(4)]
    # Three are full, without an hour's wait; the fourth waits on.
    wait_for(adder.batcher, 1)
    adder.batcher.close()
    outcomes = sorted(type(each.exception()).__name__ for each in asked)
    assert outcomes == ["CallerGoneError", "NoneType", "NoneType", "NoneType"]
    assert adder.batches == [[10, 10, 10]]


def test_the_first_shares_with_those_that_are_nearest_in_length(make):
    adder = make(max_padded=60)
    held = adder.hold()
    asked = []
    for number, length in enumerate((20, 40, 18, 21), 1):
        asked.append(adder.ask(length))
        wait_for(adder.batcher, number)
    adder.may_go.set()
    assert [each.result()[0] for each in (held, *asked)] == [[1.0], [20.0], [40.0], [18.0], [21.0]]
    # 3 x 21 would be more than 60.
    assert adder.batches == [[20, 21], [40], [18]]


def test_a_short_one_is_not_padded_to_a_multiple_of_its_length(make):
    adder = make()
    held = adder.hold()
    asked = [adder.ask(10)]
    wait_for(adder.batcher, 1)
    asked.append(adder.ask(100))
    wait_for(adder.batcher, 2)
    adder.may_go.set()
    assert [each.result()[0] for each in (held, *asked)] == [[1.0], [10.0], [100.0]]
    assert adder.batches == [[10], [100]]


def test_other_work_is_done_in_another_batch(make):
    adder = make()
    held = adder.hold()
    other = Work(object(), adder.run, adder.work.part, 0.0)
    asked = [adder.ask(10)]
    wait_for(adder.batcher, 1)
    asked += [adder.pool.submit(adder.batcher.run, other, [np.ones(11)], Caller())]
    wait_for(adder.batcher, 2)
    adder.may_go.set()
    assert [each.result()[0] for each in (held, *asked)] == [[1.0], [10.0], [11.0]]
    assert adder.batches == [[10], [11]]


def test_an_error_is_that_of_its_caller_alone(make):
    adder = make()
    held = adder.hold()
    asked = [adder.ask(length) for length in (12, 13, 14)]
    wait_for(adder.batcher, 3)
    adder.may_go.set()
    assert held.result()[0] == [1.0]
    assert asked[0].result() == ([12.0], 1.0) and asked[2].result() == ([14.0], 1.0)
    with pytest.raises(ValueError, match="13 samples are refused"):
        asked[1].result()


def test_who_has_gone_is_dropped_before_its_turn(make):
    adder = make()
    held = adder.hold()
    gone = Caller()
    asked = [adder.ask(10, caller=gone), adder.ask(11)]
    wait_for(adder.batcher, 2)
    gone.leave()
    adder.may_go.set()
    assert held.result()[0] == [1.0] and asked[1].result()[0] == [11.0]
    with pytest.raises(CallerGoneError):
        asked[0].result()
    assert adder.batches == [[11]]


def test_a_closed_batcher_takes_nobody(make):
    adder = make()
    adder.batcher.close()
    with pytest.raises(CallerGoneError):
        adder.ask(10).result()
