"""Chunks in order, whatever process finishes first."""

from collections.abc import Sequence

import pytest

from espnet_larm.data.parallel import map_chunks


def double(number: int, chunk: Sequence[int]) -> list[int]:
    assert number >= 0
    return [2 * item for item in chunk]


@pytest.mark.parametrize("num_jobs", [1, 2])
@pytest.mark.parametrize("num_items", [0, 1, 7, 100])
def test_results_are_in_order(num_items: int, num_jobs: int) -> None:
    assert map_chunks(double, range(num_items), num_jobs, "doubled") == [2 * item for item in range(num_items)]
