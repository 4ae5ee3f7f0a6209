"""Speech of several callers recognised together: one thread runs the model, callers wait for their part.

A batch gives each caller what it would get alone (test_callers_share_batches_and_get_what_each_gets_alone).
Shapes: N samples.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

# Padded samples of a batch by those that it was made of. Padding costs a CPU what speech costs.
MOST_PADDING = 1.5


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


class Work[R](NamedTuple):
    """What is done to the waveforms of several callers together.

    Attributes:
        key: Callers share batches whose works have the same object here.
        run: Does it to waveforms (N,).
        part: Takes from a result what belongs to the waveforms from one number to another, with their share of all
            samples.
        wait_s: How long a batch waits for other callers, in seconds, from its first one on.
    """

    key: object
    run: Callable[[Sequence[np.ndarray]], R]
    part: Callable[[R, int, int, float], R]
    wait_s: float


class _Part(NamedTuple):
    """What one caller wants to be done at once."""

    work: Work[Any]
    waveforms: Sequence[np.ndarray]
    caller: Caller
    arrived_s: float
    found: "Future[Any]"

    @property
    def longest(self) -> int:
        return max(map(len, self.waveforms))

    @property
    def num_samples(self) -> int:
        return sum(map(len, self.waveforms))


class Batcher:
    """Collects what callers want to be done, and does it in batches, one at a time.

    Args:
        max_padded: Most padded samples in a batch; what one caller brings is never divided.
        max_waveforms: Most waveforms in a batch, likewise.
    """

    def __init__(self, max_padded: float, max_waveforms: int) -> None:
        self._max_padded, self._max_waveforms = max_padded, max_waveforms
        self._waiting: list[_Part] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="batcher")
        self._thread.start()

    def run[R](self, work: Work[R], waveforms: Sequence[np.ndarray], caller: Caller) -> R:
        """Do work to waveforms (N,) together with those of other callers, and wait for it.

        Args:
            work: The work.
            waveforms: One at least.
            caller: Who waits.

        Raises:
            CallerGoneError: The caller has gone, or the batcher is closed.
            ValueError: What `work.run` raises.
        """
        part = _Part(work, waveforms, caller, time.monotonic(), Future())
        with self._changed:
            if self._closed:
                raise CallerGoneError
            self._waiting.append(part)
            self._changed.notify_all()
        found: R = part.found.result()
        return found

    def close(self) -> None:
        """End the thread after its batch; what still waits is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        while parts := self._next():
            try:
                found = _run(parts)
            except Exception as error:  # noqa: BLE001  # the callers' threads raise it
                self._settle(parts, error)
            else:
                for part, each in zip(parts, found, strict=True):
                    part.found.set_result(each)

    def _settle(self, parts: Sequence[_Part], error: Exception) -> None:
        """Give an error to whom it belongs: each part of a batch is tried alone."""
        if len(parts) == 1:
            parts[0].found.set_exception(error)
            return
        for part in parts:
            try:
                (found,) = _run([part])
            except Exception as own:  # noqa: BLE001  # the caller's thread raises it
                part.found.set_exception(own)
            else:
                part.found.set_result(found)

    def _next(self) -> list[_Part]:
        """The parts of the next batch; none when the batcher is closed."""
        with self._changed:
            parts: list[_Part] = []
            while not parts and not self._closed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._waiting:
                    # Where another batch was at work meanwhile, the first has waited long enough.
                    first = self._waiting[0]
                    left_s = first.arrived_s + first.work.wait_s - time.monotonic()
                    self._changed.wait_for(lambda: self._closed or self._is_full(), max(0.0, left_s))
                self._drop()
                parts = self._choose()
                taken = set(map(id, parts))
                self._waiting = [part for part in self._waiting if id(part) not in taken]
            return parts

    def _drop(self) -> None:
        """Let go of those who have gone; of all when the batcher is closed."""
        for part in self._waiting:
            if self._closed or part.caller.is_gone:
                part.found.set_exception(CallerGoneError())
        self._waiting = [part for part in self._waiting if not part.found.done()]

    def _is_full(self) -> bool:
        """Whether some that could share the next batch are left over."""
        key = self._waiting[0].work.key
        return len(self._choose()) < sum(part.work.key is key for part in self._waiting)

    def _choose(self) -> list[_Part]:
        """Choose the next batch: the first who came, and others with the same work, nearest in length."""
        if not self._waiting:
            return []
        first = self._waiting[0]
        others = [part for part in self._waiting[1:] if part.work.key is first.work.key]
        chosen = [first]
        for part in sorted(others, key=lambda part: abs(part.longest - first.longest)):
            if self._fits([*chosen, part]):
                chosen.append(part)
        return chosen

    def _fits(self, parts: Sequence[_Part]) -> bool:
        number = sum(len(part.waveforms) for part in parts)
        padded = max(part.longest for part in parts) * number
        most = min(self._max_padded, MOST_PADDING * sum(part.num_samples for part in parts))
        return number <= self._max_waveforms and padded <= most


def _run(parts: Sequence[_Part]) -> list[Any]:
    """What is found for each part, in one call."""
    work = parts[0].work
    found = work.run([samples for part in parts for samples in part.waveforms])
    total = sum(part.num_samples for part in parts)
    each, start = [], 0
    for part in parts:
        end = start + len(part.waveforms)
        each.append(work.part(found, start, end, part.num_samples / total))
        start = end
    return each
