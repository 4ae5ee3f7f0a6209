"""One copy of several results of a step to the CPU, since each copy waits for all that a GPU was asked before.

Copies to the GPU wait alike, unless `non_blocking=True` is said, as searches, caches and decoder say it of what they
choose on the CPU. That is safe for memory as torch gives it: CUDA has read it, or a copy of it, when the call returns.
It would not be for pinned memory that is written to again, which nothing here does, nor for copies to the CPU.
"""

from typing import Any

import torch


def fetch(*results: torch.Tensor) -> list[Any]:
    """Values as `tolist` gives them, by a single copy.

    Args:
        results: Tensors of one device, of any shapes; integers below 2^53.
    """
    if results[0].device.type == "cpu":
        return [each.tolist() for each in results]
    # What float32, bfloat16 and such integers hold, float64 holds to the bit.
    together = torch.cat([each.double().flatten() for each in results]).cpu()
    parts = together.split([each.numel() for each in results])
    return [part.to(each.dtype).view(each.shape).tolist() for part, each in zip(parts, results, strict=True)]
