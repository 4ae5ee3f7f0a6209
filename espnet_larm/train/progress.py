"""An epoch in progress: what a training needs, beside ESPnet's checkpoint, to go on in the middle of an epoch.

ESPnet seeds everything by the epoch's number, so that an epoch's batches are the same when it is built again. What a
process has besides them is taken here: how many batches it has used, its random states and the epoch's statistics.
"""

import random
import time
from typing import Any

import numpy as np
import torch

from espnet2.train.reporter import SubReporter


def capture(reporter: SubReporter, num_batches: int, is_trained: bool) -> dict[str, Any]:
    """What this process must know to go on.

    Args:
        reporter: Of the epoch's training.
        num_batches: Taken from the loader.
        is_trained: Whether the epoch's training is done, and only its validation is not.
    """
    return {
        "num_batches": num_batches,
        "is_trained": is_trained,
        "random": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - what ESPnet's transforms draw from
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "stats": dict(reporter.stats),
        "count": reporter.count,
        "total_count": reporter.total_count,
        "seconds": time.perf_counter() - reporter.start_time,
    }


def restore_statistics(reporter: SubReporter, captured: dict[str, Any]) -> None:
    """Let a new epoch's reporter go on from the captured one."""
    reporter.stats.update(captured["stats"])
    reporter.count = captured["count"]
    reporter.total_count = captured["total_count"]
    reporter.start_time = time.perf_counter() - captured["seconds"]


def restore_random(captured: dict[str, Any]) -> None:
    """Put the random states back, after the batches that were used are skipped."""
    random.setstate(captured["random"])
    np.random.set_state(captured["numpy"])  # noqa: NPY002
    torch.set_rng_state(captured["torch"])
    if captured["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(captured["cuda"])
