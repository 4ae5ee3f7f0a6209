"""What a training draws anew at each step, alike in all processes, and again after a resumption."""

import abc
from typing import Any

import torch

# Far from the seeds of other generators, and apart for two seeds that differ by one.
STRIDE = 1_000_003


class StepSampling(torch.nn.Module, abc.ABC):
    """Draws something at each training step.

    A draw depends on nothing but a seed and the number of draws before it. Both stand in a buffer: a checkpoint holds
    them, so that a resumed training draws what an uninterrupted one does, and processes that train together have the
    same (DDP copies the first one's). An encoder that draws nothing has no such buffer.
    """

    draws: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # Seed, and draws so far. ESPnet seeds torch alike in all processes before it builds a model.
        self.register_buffer("draws", torch.tensor([torch.initial_seed() % 2**31, 0]))

    def draw(self) -> Any:
        """The draw of this training step; counts it."""
        seed, number = self.draws.tolist()
        self.draws[1] += 1
        return self.at(seed, number)

    @abc.abstractmethod
    def at(self, seed: int, number: int) -> Any:
        """The draw of a training with a seed, after `number` others."""

    @staticmethod
    def generator(seed: int, number: int) -> torch.Generator:
        """Random numbers of one draw."""
        return torch.Generator().manual_seed((seed * STRIDE + number) % 2**63)


def forget_draws(module: torch.nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A pre-hook of `load_state_dict` that lets weights of a training with draws begin one without."""
    for name in ("sampling", "contexts"):
        if getattr(module, name, None) is None:
            state.pop(f"{prefix}{name}.draws", None)
