"""An epoch in progress: what a training needs, beside ESPnet's checkpoint, to go on in the middle of an epoch.

ESPnet seeds everything by the epoch's number, so that an epoch's batches are the same when it is built again. What a
process has besides them is taken here: how many batches it has used, its random states and the epoch's statistics. It
is made of tensors and Python's own types alone, so that a checkpoint can be loaded with `weights_only=True`.
"""

import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from espnet2.train.reporter import Average, ReportedValue, SubReporter, WeightedAverage


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
        "numpy": _numpy_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "stats": {key: [_plain(value) for value in values] for key, values in reporter.stats.items()},
        "count": reporter.count,
        "total_count": reporter.total_count,
        "seconds": time.perf_counter() - reporter.start_time,
    }


def restore_statistics(reporter: SubReporter, captured: dict[str, Any]) -> None:
    """Let a new epoch's reporter go on from the captured one."""
    reporter.stats.update({key: [_reported(plain) for plain in values] for key, values in captured["stats"].items()})
    reporter.count = captured["count"]
    reporter.total_count = captured["total_count"]
    reporter.start_time = time.perf_counter() - captured["seconds"]


def restore_random(captured: dict[str, Any]) -> None:
    """Put the random states back, after the batches that were used are skipped."""
    random.setstate(captured["random"])
    name, keys, *rest = captured["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(captured["torch"])
    if captured["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(captured["cuda"])


def _numpy_state() -> tuple[Any, ...]:
    # What ESPnet's transforms draw from.
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return (name, keys.tolist(), *rest)


def _plain(value: ReportedValue) -> tuple[float, ...]:
    """A reported value, and its weight if it has one."""
    return (value.value, value.weight) if isinstance(value, WeightedAverage) else (value.value,)


def _reported(plain: Sequence[float]) -> ReportedValue:
    return WeightedAverage(*plain) if len(plain) == 2 else Average(*plain)
