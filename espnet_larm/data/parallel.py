"""Runs a function over chunks of a list in several processes, and reports its progress.

A pool's own map would cut chunks by the number of processes, read a whole stream, and outlive a killed parent.
"""

import logging
import math
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing.connection import wait
from typing import Any

logger = logging.getLogger(__name__)


MAX_CHUNK_SIZE = 1000
NUM_CHUNKS = 64
CHUNKS_PER_PROCESS = 4
STREAM_CHUNK_SIZE = 100
SECONDS_BETWEEN_REPORTS = 5.0


def map_chunks[Item, Result](
    function: Callable[[int, Sequence[Item]], list[Result]], items: Sequence[Item], num_jobs: int, title: str
) -> list[Result]:
    """Apply `function(chunk number, chunk)` to consecutive chunks and join the results in order.

    The chunks depend on the items alone: files that are written a chunk are the same whatever the number of processes,
    so that repeating a stage elsewhere leaves true what an earlier table says of them.

    Args:
        function: Picklable function that returns a list.
        items: Items to be cut into chunks.
        num_jobs: Number of processes; 1 runs in this one.
        title: Name in the reports of progress.

    Returns:
        Results, chunk after chunk.
    """
    size = max(1, min(MAX_CHUNK_SIZE, math.ceil(len(items) / NUM_CHUNKS)))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    results: list[list[Any]] = [[] for _ in chunks]
    progress = _Progress(title, len(items))
    if num_jobs == 1 or len(chunks) < 2:
        for number, chunk in enumerate(chunks):
            results[number] = function(number, chunk)
            progress.add(len(chunk))
    else:
        with _open_pool(min(num_jobs, len(chunks))) as pool:
            futures = {pool.submit(function, number, chunk): number for number, chunk in enumerate(chunks)}
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                progress.add(len(chunks[futures[future]]))
    return [result for part in results for result in part]


def stream_chunks[Item, Result](
    function: Callable[[Sequence[Item]], Result], items: Iterable[Item], num_jobs: int, title: str
) -> Iterator[Result]:
    """Apply `function(chunk)` to consecutive chunks of a stream; its results come in order.

    A few chunks a process are in memory at a time, however many items there are.

    Args:
        function: Picklable function.
        items: Items to be cut into chunks of at most STREAM_CHUNK_SIZE.
        num_jobs: Number of processes; 1 runs in this one.
        title: Name in the reports of progress.

    Yields:
        One result for each chunk.
    """
    source = iter(items)
    progress = _Progress(title, None)
    if num_jobs == 1:
        while chunk := list(islice(source, STREAM_CHUNK_SIZE)):
            yield function(chunk)
            progress.add(len(chunk))
        return
    pending: deque[tuple[Future[Result], int]] = deque()
    with _open_pool(num_jobs) as pool:
        while True:
            while len(pending) < CHUNKS_PER_PROCESS * num_jobs and (chunk := list(islice(source, STREAM_CHUNK_SIZE))):
                pending.append((pool.submit(function, chunk), len(chunk)))
            if not pending:
                return
            future, size = pending.popleft()
            yield future.result()
            progress.add(size)


def _open_pool(num_jobs: int) -> ProcessPoolExecutor:
    # A fork copies the locks that other threads hold (those of torch and PyAV among them), and then waits for ever.
    return ProcessPoolExecutor(num_jobs, multiprocessing.get_context("forkserver"), initializer=end_with_parent)


def end_with_parent() -> None:
    """End a process of a pool when its parent was killed; it would wait for chunks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Progress:
    """Logs a line every few seconds."""

    def __init__(self, title: str, num_items: int | None) -> None:
        self.title, self.num_items = title, num_items
        self.num_done, self.last = 0, time.monotonic()

    def add(self, num_items: int) -> None:
        self.num_done += num_items
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_REPORTS:
            self.last = now
            of = "" if self.num_items is None else f" of {self.num_items}"
            logger.info("%s: %d%s", self.title, self.num_done, of)
