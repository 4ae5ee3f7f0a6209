"""Where the tokens of a draft and the blanks stand that an LM edits: blanks before, between and behind the tokens.

Source: "Non-autoregressive LLM editing", arXiv:2603.08397. Departures: blanks that are missing to LEAST_POSITIONS, or
to what a reference needs, are spread over all places of blanks.
Shapes: B drafts, N positions.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

LEAST_POSITIONS = 8


class Layout(NamedTuple):
    """Drafts with blanks.

    Attributes:
        tokens: Tokens of drafts and blanks (B, N), blanks behind the lengths.
        lens: Positions (B,).
        is_widened: Whether a draft got more blanks because its reference needs them (B,).
    """

    tokens: torch.Tensor
    lens: torch.Tensor
    is_widened: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """True at positions of drafts and their blanks (B, N)."""
        return torch.arange(self.tokens.size(1), device=self.lens.device) < self.lens.unsqueeze(1)


def lay_out(
    drafts: Sequence[Sequence[int]], blank: int, blanks_every: int = 1, references: Sequence[Sequence[int]] = ()
) -> Layout:
    """Put blanks between the tokens of drafts.

    Args:
        drafts: Tokens of each draft, perhaps none.
        blank: The blank's id.
        blanks_every: Tokens between two blanks, 1 or more.
        references: Tokens that CTC must find room for in each draft; none in decoding.
    """
    rows, widened = [], []
    for index, draft in enumerate(drafts):
        plain = _spread(draft, blank, blanks_every, LEAST_POSITIONS)
        needed = num_needed(references[index]) if references else 0
        widened.append(len(plain) < needed)
        rows.append(torch.tensor(_spread(draft, blank, blanks_every, needed) if widened[-1] else plain))
    tokens = pad_sequence(rows, batch_first=True, padding_value=blank)
    return Layout(tokens, torch.tensor([len(row) for row in rows]), torch.tensor(widened))


def num_needed(reference: Sequence[int]) -> int:
    """Positions that CTC needs: one a token, and one between two equal ones."""
    return len(reference) + sum(one == other for one, other in itertools.pairwise(reference))


def _spread(draft: Sequence[int], blank: int, blanks_every: int, least: int) -> list[int]:
    """A draft with blanks, `least` positions or more."""
    parts = [list(draft[start : start + blanks_every]) for start in range(0, len(draft), blanks_every)]
    num_places = len(parts) + 1
    more = max(least - len(draft) - num_places, 0)
    shares = [(place + 1) * more // num_places - place * more // num_places for place in range(num_places)]
    laid = [blank] * (1 + shares[0])
    for part, share in zip(parts, shares[1:], strict=True):
        laid += [*part, *[blank] * (1 + share)]
    return laid
