"""Reads several tokens behind any of the texts that a model has read, rows parting and leaving as a beam wants.

Shapes: N rows, L tokens a call, D model size, V tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.multi_token import TextModel, padded


class Place(NamedTuple):
    """Behind a token of the last call.

    Attributes:
        row: Of the call.
        token: Index of the token in its row.
    """

    row: int
    token: int


class Reader:
    """A model, and what it read last.

    Args:
        model: At the start of its texts.

    Attributes:
        hidden: States (N, L, D) behind the tokens of the last call; at the start behind the prompts, L being 1.
        num_calls: So far, the prefill included.
        num_row_tokens: Tokens of all calls, a prompt being one.
    """

    def __init__(self, model: TextModel) -> None:
        self.model = model
        self.hidden = model.hidden.unsqueeze(1)
        self._lens = torch.ones(len(self.hidden), dtype=torch.long)
        self.num_calls, self.num_row_tokens = 1, len(self.hidden)

    def states(self, places: Sequence[Place]) -> torch.Tensor:
        """Behind tokens of the last call (P, D)."""
        rows, tokens_read = torch.tensor(places, device=self.hidden.device).unbind(1)
        return self.hidden[rows, tokens_read]

    def log_probs(self, places: Sequence[Place]) -> torch.Tensor:
        """Of the tokens that follow (P, V)."""
        return self.model.logits_of(self.states(places)).log_softmax(-1)

    def read(self, places: Sequence[Place], tokens: Sequence[Sequence[int]]) -> None:
        """Go on from places of the last call, a row each, with one token or more each."""
        rows, tokens_read = torch.tensor(places).unbind(1)
        num_back = self._lens[rows] - 1 - tokens_read
        hidden = self.states(places)
        self.model.select(rows)
        if bool(num_back.any()):
            self.model.give_back(num_back, hidden)
        together, self._lens = padded(tokens)
        self.hidden = self.model.read(together.to(hidden.device), self._lens)
        self.num_calls += 1
        self.num_row_tokens += int(self._lens.sum())
