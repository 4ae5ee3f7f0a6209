"""How long the parts of a training step take, for ESPnet's reporter: next to its own forward_time and backward_time."""

import time

import torch


class Clock:
    """Seconds between laps, which a GPU has finished by then.

    Args:
        device: What is worked on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mark = self._now()

    def lap(self) -> torch.Tensor:
        """Since the last lap or the start, a number."""
        before, self._mark = self._mark, self._now()
        return torch.tensor(self._mark - before)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
