"""Random choices of a training step that are alike in all processes and again after a resumption.

How many loops a looped encoder runs (looped/sampling.py), what its frames see (streaming/context.py) and how much of
the speech pooling leaves (pooling/sampling.py) are drawn with it.
"""

from typing import Any

import torch

# Far from the seeds of other generators, and apart for two seeds that differ by one.
STRIDE = 1_000_003


class Draws(torch.nn.Module):
    """Gives a new generator of random numbers at each training step.

    A generator depends on nothing but a seed and the number of those before it. Both stand in a buffer: a checkpoint
    holds them, so that a resumed training draws what an uninterrupted one does, and processes that train together have
    the same (DDP copies the first one's). What draws nothing has no such buffer.

    Args:
        salt: A number for each thing that is drawn: with the same one, two things would be drawn alike.
    """

    draws: torch.Tensor

    def __init__(self, salt: int = 0) -> None:
        super().__init__()
        self.salt = salt
        # Seed, and draws so far. ESPnet seeds torch alike in all processes before it builds a model.
        self.register_buffer("draws", torch.tensor([torch.initial_seed() % 2**31, 0]))

    def next_generator(self) -> torch.Generator:
        """The generator of this training step; counts the draw."""
        seed, number = self.draws.tolist()
        self.draws[1] += 1
        return self.generator_at(seed, number)

    def generator_at(self, seed: int, number: int) -> torch.Generator:
        """The generator of a training with a seed, after `number` others."""
        return torch.Generator().manual_seed((seed * STRIDE + number + self.salt) % 2**63)


def forget_draws(module: torch.nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ARG001
    """Let weights of a training that draws begin one of a module that does not: a pre-hook of load_state_dict."""
    for name in ("sampling", "contexts"):
        if getattr(module, name, None) is None:
            state.pop(f"{prefix}{name}.draws", None)
