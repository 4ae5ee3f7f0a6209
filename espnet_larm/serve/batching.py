"""Speech of several callers recognised together: one thread runs the model, callers wait for their part.

A batch gives each caller what it would get alone (test_callers_share_batches_and_get_what_each_gets_alone).
Shapes: N samples.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from espnet_larm.listen.engine import Heard, Job


class CallerGoneError(Exception):
    """Nobody waits for the text any more."""


class Caller:
    """Whoever waits for the text of a recording, until it goes."""

    def __init__(self) -> None:
        self._gone = threading.Event()

    def leave(self) -> None:
        """Say that nobody waits any more."""
        self._gone.set()

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits."""
        return self._gone.is_set()

    def check(self) -> None:
        """Stop working for nobody.

        Raises:
            CallerGoneError: Nobody waits.
        """
        if self.is_gone:
            raise CallerGoneError


class Counts(NamedTuple):
    """How much was recognised so far.

    Attributes:
        batches: Calls of the model.
        parts: Parts of recordings that callers had recognised in them.
    """

    batches: int = 0
    parts: int = 0


class _Part(NamedTuple):
    """What one caller wants to be recognised, at once."""

    job: Job
    waveforms: Sequence[np.ndarray]
    caller: Caller
    arrived_s: float
    found: "Future[Heard]"


class Batcher:
    """Collects what callers want to be recognised, and recognises it in batches.

    Args:
        wait_s: How long a batch waits for other callers, in seconds.
        max_padded: Most padded samples in a batch; what one caller brings is never divided.
        max_waveforms: Most waveforms in a batch, likewise.
    """

    def __init__(self, wait_s: float, max_padded: float, max_waveforms: int) -> None:
        self._wait_s, self._max_padded, self._max_waveforms = wait_s, max_padded, max_waveforms
        self._waiting: list[_Part] = []
        self._changed = threading.Condition()
        self._closed = False
        self.counts = Counts()
        self._thread = threading.Thread(target=self._work, name="batcher")
        self._thread.start()

    def hear(self, job: Job, waveforms: Sequence[np.ndarray], caller: Caller) -> Heard:
        """Recognise waveforms (N,) together with those of other callers, and wait for it.

        Args:
            job: How to recognise; those of one job share batches.
            waveforms: One at least.
            caller: Who waits.

        Raises:
            CallerGoneError: The caller has gone, or the batcher is closed.
            ValueError: What `job.hear` raises.
        """
        part = _Part(job, waveforms, caller, time.monotonic(), Future())
        with self._changed:
            if self._closed:
                raise CallerGoneError
            self._waiting.append(part)
            self._changed.notify()
        return part.found.result()

    def close(self) -> None:
        """End the thread after its batch; what still waits is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while parts := self._next():
            self.counts = Counts(self.counts.batches + 1, self.counts.parts + len(parts))
            try:
                heard = _hear(parts)
            except Exception as error:  # noqa: BLE001  # the callers' threads raise it
                self._settle(parts, error)
            else:
                for part, each in zip(parts, heard, strict=True):
                    part.found.set_result(each)

    def _settle(self, parts: Sequence[_Part], error: Exception) -> None:
        """Give an error to whom it belongs: each part of a batch is tried alone."""
        if len(parts) == 1:
            parts[0].found.set_exception(error)
            return
        for part in parts:
            try:
                (heard,) = _hear([part])
            except Exception as own:  # noqa: BLE001  # the caller's thread raises it
                part.found.set_exception(own)
            else:
                part.found.set_result(heard)

    def _next(self) -> list[_Part]:
        """The parts of the next batch; none when the batcher is closed."""
        with self._changed:
            parts: list[_Part] = []
            while not parts and not self._closed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._waiting:
                    # Where the model was at work meanwhile, the first has waited long enough.
                    left_s = self._waiting[0].arrived_s + self._wait_s - time.monotonic()
                    self._changed.wait_for(lambda: self._closed or self._choose()[1], max(0.0, left_s))
                self._drop()
                parts, self._waiting = self._choose()
            return parts

    def _drop(self) -> None:
        """Let go of those who have gone; of all when the batcher is closed."""
        for part in self._waiting:
            if self._closed or part.caller.is_gone:
                part.found.set_exception(CallerGoneError())
        self._waiting = [part for part in self._waiting if not part.found.done()]

    def _choose(self) -> tuple[list[_Part], list[_Part]]:
        """Those who make the next batch, the first among them, and the rest, both in their order."""
        chosen: list[_Part] = []
        rest: list[_Part] = []
        longest = number = 0
        for part in self._waiting:
            together = max(longest, *map(len, part.waveforms)), number + len(part.waveforms)
            fits = together[0] * together[1] <= self._max_padded and together[1] <= self._max_waveforms
            if not chosen or (part.job is chosen[0].job and fits):
                chosen.append(part)
                longest, number = together
            else:
                rest.append(part)
        return chosen, rest


def _hear(parts: Sequence[_Part]) -> list[Heard]:
    """What each part says, recognised in one call. The seconds are shared by length."""
    heard = parts[0].job.hear([samples for part in parts for samples in part.waveforms])
    lengths = [sum(map(len, part.waveforms)) for part in parts]
    found, start = [], 0
    for part, length in zip(parts, lengths, strict=True):
        end = start + len(part.waveforms)
        found.append(heard.part(start, end, length / sum(lengths)))
        start = end
    return found
