"""A number of loops drawn anew at each training step, so that a looped encoder learns to stop, and to go on, anywhere.

Sources: uniform over depths, as in stochastic depth of supervised loops; the log-normal Poisson of Geiping et al.,
"Scaling up Test-Time Compute with Latent Reasoning", arXiv:2502.05171: tau ~ N(log r - s^2 / 2, s) with
s = 1/2, loops ~ Poisson(exp(tau)) + 1, whose mean is r + 1. Departures: the draw is rounded to a checkpoint loop, since
others have no loss, and is at most twice the trained number; the gradient goes through all loops; the state starts from
the front end's output, not at random.
"""

from collections.abc import Sequence

import torch

from espnet_larm.draws import Draws

UNIFORM, POISSON = SAMPLINGS = ("uniform", "poisson")
# s of the log-normal.
DEVIATION = 0.5


class LoopSampling(Draws):
    """Draws the number of loops of each training step.

    Args:
        kind: `uniform` or `poisson`.
        loops: Checkpoint loops that may be drawn, ascending.
        mean: Mean of `poisson` before it is rounded.
    """

    def __init__(self, kind: str, loops: Sequence[int], mean: float) -> None:
        super().__init__()
        self.kind, self.loops, self.mean = kind, tuple(loops), mean

    def draw(self) -> int:
        """The number of loops of this training step; counts the draw."""
        return self._drawn_by(self.next_generator())

    def at(self, seed: int, number: int) -> int:
        """The draw of a training with a seed, after `number` others."""
        return self._drawn_by(self.generator_at(seed, number))

    def _drawn_by(self, generator: torch.Generator) -> int:
        if self.kind == UNIFORM:
            return self.loops[int(torch.randint(len(self.loops), (), generator=generator))]
        tau = torch.randn((), generator=generator) * DEVIATION + torch.tensor(self.mean - 1).log() - DEVIATION**2 / 2
        drawn = 1 + int(torch.poisson(tau.exp(), generator=generator))
        return min(self.loops, key=lambda loop: abs(loop - drawn))
