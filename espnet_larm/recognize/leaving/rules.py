"""Rules that say at a checkpoint loop which utterances have had loops enough: one number an utterance, and a threshold.

Rules on the stability of outputs do as well as trained gates where all depths were supervised (Popescu et al.,
arXiv:2607.20519); `halting_head.py` has the one that is trained. Sources: an output that stays the same, Logan,
arXiv:2607.14427; divergence of successive outputs, Geiping et al., arXiv:2502.05171; confidence, Schuster et al.,
arXiv:2207.07061; second difference of the state, arXiv:2509.23314. Departures: outputs are CTC posteriors, over frames
where they say more than blank; numbers are those of a whole utterance; states are compared at checkpoint loops, not at
each loop.
An utterance's number does not depend on its batch but for rounding (test_numbers_of_a_batch_are_those_of_each_alone).
Shapes: B utterances, T frames, V tokens, D model size. Masks are True where valid.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.recognize.config import CONFIDENCE, DIVERGENCE, HALTING, STATE, UNCHANGED
from espnet_larm.search.ctc.posteriors import greedy


class Seen(NamedTuple):
    """What is known of a batch at one checkpoint loop.

    Attributes:
        log_probs: The CTC head's log-probabilities (B, T, V), float32.
        hs_pad: What the head has read (B, T, D), zero behind the lengths.
        hlens: Valid frames (B,).
        blank: Id of the blank.
        number: The loop.
    """

    log_probs: torch.Tensor
    hs_pad: torch.Tensor
    hlens: torch.Tensor
    blank: int
    number: int

    @property
    def mask(self) -> torch.Tensor:
        """Valid frames (B, T)."""
        return torch.arange(self.hs_pad.size(1), device=self.hlens.device) < self.hlens.unsqueeze(1)

    @property
    def says_more(self) -> torch.Tensor:
        """Valid frames whose best token is no blank (B, T)."""
        return self.mask & (self.log_probs.argmax(dim=2) != self.blank)

    def of(self, stays: torch.Tensor, num_frames: int) -> "Seen":
        """The same of the utterances that stay (B,), cut to `num_frames`."""
        left = (self.log_probs[stays, :num_frames], self.hs_pad[stays, :num_frames], self.hlens[stays])
        return Seen(*left, self.blank, self.number)


class Rule(NamedTuple):
    """A rule.

    Attributes:
        sentence: What it says, for tables.
        num_compared: Checkpoint loops that it compares: before the last of them no utterance can leave.
        leaves_above: Whether an utterance leaves when its number reaches the threshold from below.
        measure: Numbers (B,) from what was seen at the last `num_compared` checkpoint loops, the latest at the end.
        threshold: The threshold of a rule that has no choice of one; None for the others.
    """

    sentence: str
    num_compared: int
    leaves_above: bool
    measure: Callable[[Sequence[Seen]], torch.Tensor]
    threshold: float | None = None

    def says_leave(self, numbers: torch.Tensor, threshold: float) -> torch.Tensor:
        """Mask of the utterances that leave (B,); a number that is none never decides."""
        return numbers >= threshold if self.leaves_above else numbers <= threshold


def _change(seen: Sequence[Seen]) -> torch.Tensor:
    """0 where the greedy CTC hypothesis stayed the same, 1 where it did not."""
    before, now = (greedy(each.log_probs, each.hlens, each.blank).to_lists() for each in seen)
    changed = [one != other for one, other in zip(before, now, strict=True)]
    return torch.tensor(changed, dtype=torch.float64, device=seen[-1].hlens.device)


def _divergence(seen: Sequence[Seen]) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of the posteriors from those before, in nats."""
    before, now = seen
    divergence = (now.log_probs.exp() * (now.log_probs - before.log_probs)).sum(dim=2)
    return _mean(divergence, before.says_more | now.says_more, now.mask)


def _confidence(seen: Sequence[Seen]) -> torch.Tensor:
    """Mean log-probability of the best tokens."""
    (now,) = seen
    return _mean(now.log_probs.amax(dim=2), now.says_more, now.mask)


def _second_difference(seen: Sequence[Seen]) -> torch.Tensor:
    """Norm of the second difference of the states, relative to that of the last state."""
    first, second, third = (each.hs_pad.double() for each in seen)
    return (third - 2 * second + first).flatten(1).norm(dim=1) / third.flatten(1).norm(dim=1)


def _without_head(_: Sequence[Seen]) -> torch.Tensor:
    """Stands in the table, where no model is known; `HaltingHead.rule` measures."""
    raise TypeError(f"rule {HALTING} measures by the halting head of a model: HaltingHead.rule.")


def _mean(values: torch.Tensor, chosen: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Means (B,) of (B, T) over the chosen frames, over all valid ones where none is chosen."""
    chosen = torch.where(chosen.any(dim=1, keepdim=True), chosen, mask)
    return values.double().masked_fill(~chosen, 0.0).sum(dim=1) / chosen.sum(dim=1)


RULES = {
    UNCHANGED: Rule("the greedy CTC hypothesis is that of the checkpoint loop before", 2, False, _change, 0.0),
    DIVERGENCE: Rule("the CTC posteriors have changed by so few nats a frame", 2, False, _divergence),
    CONFIDENCE: Rule("the best tokens of the CTC head are so probable", 1, True, _confidence),
    STATE: Rule("the state's second difference is so small, relative to the state", 3, False, _second_difference),
    HALTING: Rule("the halting head gives deeper loops so small a probability to be better", 1, False, _without_head),
}
