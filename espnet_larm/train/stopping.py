"""Handling of SIGTERM: a training ends where it can resume, with an exit status that asks for a requeue."""

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

# EX_TEMPFAIL of sysexits.h: a temporary failure, to be tried again.
REQUEUE_STATUS = 75


class StopRequest:
    """Notes whether a SIGTERM has come."""

    def __init__(self) -> None:
        self.is_made = False

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Note a SIGTERM instead of ending."""
        # Python hands signals to the main thread alone and lets no other thread set handlers.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_made = True


def iter_shielded(loader: Iterable[Any]) -> Iterator[Any]:
    """Start a loader whose worker processes ignore a SIGTERM to the whole group.

    Schedulers signal every process of a job, and a worker that dies makes its DataLoader raise in the middle of a step.
    Workers inherit the mask of blocked signals. If their parent fails in the middle of an epoch, Python would send them
    a SIGTERM and wait for ever; they are killed instead.
    """
    # The function registered last runs first: before multiprocessing waits for its children.
    atexit.unregister(_kill_helpers)
    atexit.register(_kill_helpers)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _kill_helpers() -> None:
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextlib.contextmanager
def sigterm_goes_to_workers() -> Iterator[None]:
    """Pass a SIGTERM on to the training processes that ESPnet spawned, one for each GPU; without any, end as usual."""

    def hand_on(number: int, _frame: FrameType | None) -> None:
        # DataLoader's and other helpers are daemons.
        workers = [child for child in multiprocessing.active_children() if not child.daemon]
        for worker in workers:
            worker.terminate()
        if not workers:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    previous = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
