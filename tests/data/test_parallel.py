"""Chunks in order, whatever process finishes first."""

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import pytest

from espnet_larm.data.parallel import map_chunks, stream_chunks


def double(number: int, chunk: Sequence[int]) -> list[int]:
    assert number >= 0
    return [2 * item for item in chunk]


@pytest.mark.parametrize("num_jobs", [1, 2])
@pytest.mark.parametrize("num_items", [0, 1, 7, 100])
def test_results_are_in_order(num_items: int, num_jobs: int) -> None:
    assert map_chunks(double, range(num_items), num_jobs, "doubled") == [2 * item for item in range(num_items)]


def announce_and_wait(number: int, chunk: Sequence[Connection]) -> list[int]:
    chunk[0].send(number)
    time.sleep(9)
    return []


def begin(pipe: Connection) -> None:
    map_chunks(announce_and_wait, [pipe, pipe], 2, "begun")


def test_no_process_outlives_a_parent_that_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    parent = context.Process(target=begin, args=[theirs])
    parent.start()
    theirs.close()
    assert sorted([ours.recv(), ours.recv()]) == [0, 1]
    parent.kill()
    parent.join()
    # The pipe ends when nobody holds its other side any more.
    assert ours.poll(5)
    with pytest.raises(EOFError):
        ours.recv()


def total(items: Sequence[int]) -> int:
    return sum(items)


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_stream_gives_its_results_in_order(num_jobs: int) -> None:
    results = list(stream_chunks(total, iter(range(250)), num_jobs, "summed"))
    assert results == [sum(range(100)), sum(range(100, 200)), sum(range(200, 250))]


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_stream_is_read_only_a_few_chunks_ahead(num_jobs: int) -> None:
    read = []
    results = stream_chunks(total, (read.append(i) or i for i in range(100_000)), num_jobs, "summed")
    next(results)
    assert len(read) <= 100 * 4 * num_jobs
    results.close()
