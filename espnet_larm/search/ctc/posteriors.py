"""CTC searches on tensors. They know no model.

Greedy: the best token of each frame, repeats collapsed, blanks dropped. The score is the log-probability of that one
path, which is not above that of its hypothesis (all paths of the hypothesis together).
Shapes: B utterances, T frames, V tokens, L tokens of the longest result. Masks are True where valid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

PAD = -1


class CtcHypotheses(NamedTuple):
    """The best hypothesis of each utterance.

    Attributes:
        tokens: Token ids (B, L), PAD after an utterance's last.
        lens: Tokens (B,) of each utterance.
        scores: Log-probabilities (B,).
    """

    tokens: torch.Tensor
    lens: torch.Tensor
    scores: torch.Tensor

    def to_lists(self) -> list[list[int]]:
        """Token ids of each utterance, without padding."""
        rows, lens = self.tokens.tolist(), self.lens.tolist()
        return [row[:length] for row, length in zip(rows, lens, strict=True)]


def greedy(log_probs: torch.Tensor, lens: torch.Tensor, blank: int = 0, dropped: Sequence[int] = ()) -> CtcHypotheses:
    """The best path of each utterance. What stands in padded frames changes nothing (test_padding_changes_nothing).

    Args:
        log_probs: Log-probabilities (B, T, V) of tokens at frames.
        lens: Valid frames (B,), 0 to T.
        blank: Id of the blank.
        dropped: Ids that are left out of the result, sos and eos for example. As with the blank, equal tokens on both
            sides of one stay two.

    Returns:
        Hypotheses, of length 0 where no frame or nothing but blanks was valid.
    """
    return collapse(*log_probs.max(dim=2), lens, blank, dropped)


def collapse(
    best: torch.Tensor, ids: torch.Tensor, lens: torch.Tensor, blank: int = 0, dropped: Sequence[int] = ()
) -> CtcHypotheses:
    """A path of each utterance as its hypothesis.

    Args:
        best: Log-probabilities (B, T) of the path's tokens.
        ids: Its tokens (B, T).
        lens: Valid frames (B,), 0 to T.
        blank: Id of the blank.
        dropped: Ids that are left out of the result.
    """
    valid = torch.arange(ids.size(1), device=lens.device) < lens.unsqueeze(1)  # (B, T)
    starts = torch.ones_like(valid)
    starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
    keep = valid & starts & ~torch.isin(ids, torch.tensor([blank, *dropped]).to(ids.device, non_blocking=True))
    scores = best.masked_fill(~valid, 0.0).sum(dim=1)
    return CtcHypotheses(*_pack(ids, keep), scores)


def most_entropy(log_probs: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """The entropy of each utterance's least certain frame (B,), in nats; of no frame 0.

    Args:
        log_probs: Log-probabilities (B, T, V) of tokens at frames.
        lens: Valid frames (B,), 0 to T.
    """
    valid = torch.arange(log_probs.size(1), device=lens.device) < lens.unsqueeze(1)  # (B, T)
    entropies = torch.special.entr(log_probs.exp()).sum(dim=2)
    return entropies.masked_fill(~valid.to(entropies.device), 0.0).amax(dim=1)


def _pack(ids: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The kept ids (B, T) of each row moved to its left, and their number."""
    lens = keep.sum(dim=1)
    width = int(lens.max()) if lens.numel() else 0
    # What is not kept goes behind the last column; masks as indices would let a GPU be waited for twice more.
    places = torch.where(keep, keep.cumsum(dim=1) - 1, width)
    packed = ids.new_full((ids.size(0), width + 1), PAD).scatter_(1, places, ids)
    return packed[:, :width], lens
