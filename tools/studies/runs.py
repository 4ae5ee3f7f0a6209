"""How studies work through their runs: several at once, each begun when another has ended, stopped together."""

import fcntl
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import BinaryIO, Protocol

POLL_S = 0.5


class Job[Outcome](Protocol):
    """A run at work."""

    def is_over(self) -> bool:
        """Whether the run has ended."""

    def stop(self) -> None:
        """Ask the run to end, without waiting for it."""

    def finish(self) -> Outcome:
        """Wait for the end of the run; its outcome."""


def work_through[Run, Outcome](
    runs: Iterable[Run], begin: Callable[[Run], Job[Outcome]], num_jobs: int
) -> Generator[Outcome, None, None]:
    """Do all runs in their order, `num_jobs` at once; whatever ends this stops the jobs at work and waits for them.

    Args:
        runs: Runs to do.
        begin: Begins a run.
        num_jobs: Runs at once.

    Yields:
        Outcome of each run as it ends.
    """
    waiting = deque(runs)
    at_work: list[Job[Outcome]] = []
    try:
        while waiting or at_work:
            while waiting and len(at_work) < num_jobs:
                at_work.append(begin(waiting.popleft()))
            over = [job for job in at_work if job.is_over()]
            if not over:
                time.sleep(POLL_S)
            for job in over:
                at_work.remove(job)
                yield job.finish()
    finally:
        for job in at_work:
            job.stop()
        for job in at_work:
            job.finish()


def takes_lock(file: BinaryIO) -> bool:
    """Lock an open file; False if another process holds it. A file system without locks refuses nobody."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
