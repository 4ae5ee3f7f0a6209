"""How a training ends before its end.

After a SIGTERM, where it can resume, with an exit status that asks for a requeue. After the death of one of its
processes, in all others, with a sentence instead of the traceback of each.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.multiprocessing.spawn import ProcessExitedException

# EX_TEMPFAIL of sysexits.h: a temporary failure, to be tried again.
REQUEUE_STATUS = 75
# EX_UNAVAILABLE of sysexits.h: what a process needs has gone, here another process.
PEER_LOST_STATUS = 69
# Seconds from the loss of a peer to the end, in which the process that spawned both notices which one ended first.
PEER_LOST_GRACE_S = 2.0
RESUMES = "The same command resumes from the last checkpoint."


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


@contextlib.contextmanager
def ends_with_its_peers(rank: int, num_processes: int) -> Iterator[None]:
    """End a training process with a sentence when another one is gone, on whose gradients it waits.

    A process that ESPnet spawned ends without a word: the one that spawned it, or spawned the other, says it.

    Args:
        rank: This process's number.
        num_processes: Number of all.

    Raises:
        SystemExit: The connection to another process is lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        time.sleep(PEER_LOST_GRACE_S)
        if multiprocessing.parent_process() is not None:
            raise SystemExit(PEER_LOST_STATUS) from None
        peer = f"rank {1 - rank}" if num_processes == 2 else f"another of the {num_processes} processes"
        raise SystemExit(
            f"ERROR: {peer} of this training has ended, and rank {rank} ends with it. Its own log says why, unless it "
            f"was killed. {RESUMES}"
        ) from None


def _is_lost_connection(error: RuntimeError) -> bool:
    # Here, since programs that train no network of ESPnet's import this module, and start without torch.
    import torch

    # gloo raises plain RuntimeErrors, which begin with the line of its source.
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def status_after(error: "ProcessExitedException", first_rank: int, num_processes: int) -> int | str:
    """What to exit with after one of the spawned processes has ended: its status, or a sentence.

    Args:
        error: torch's account of the process that ended first; the others are ended by then.
        first_rank: Rank of the first process spawned here.
        num_processes: Number of processes of the training, on all machines.
    """
    rank = first_rank + error.error_index
    if error.exit_code < 0:
        return (
            f"ERROR: rank {rank} of {num_processes} (process {error.error_pid}) was ended by {error.signal_name}, and "
            f"the other processes here were ended with it. The system sends SIGKILL when memory runs out. {RESUMES}"
        )
    if error.exit_code == PEER_LOST_STATUS:
        return (
            f"ERROR: a process of this training has ended, and rank {rank} of {num_processes}, which was connected "
            f"to it, with all others here. Its own log says why, unless it was killed. {RESUMES}"
        )
    # The process has logged why.
    return int(error.exit_code)
