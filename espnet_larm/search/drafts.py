"""Where drafts of the next tokens come from: the LM's own draft heads, the CTC head's text, or the longer of both.

A draft is a guess that the search verifies with the LM, so that a bad one costs time and no word.
Shapes: N rows still running, D model size, V tokens.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from espnet_larm.search.texts import Text


class Drafts(Protocol):
    """A source of guesses."""

    def propose(self, hidden: torch.Tensor, texts: Sequence[Text]) -> list[list[int]]:
        """What may follow each text; nothing where nothing is known.

        Args:
            hidden: The LM's state (N, D) from which the last token of each text was predicted.
            texts: The rows.
        """
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), on the CPU, in this order."""
        ...


class HeadDrafts:
    """Of heads 2 to K, each its most probable token, up to the first that is not sure enough.

    Args:
        logits_of: Head and hidden states (N, D) to logits (N, V).
        num_heads: K.
        tau: The least probability of a drafted token, 0 (all are drafted) or more; above 1 none is.
    """

    def __init__(
        self, logits_of: Callable[[int, torch.Tensor], torch.Tensor], num_heads: int, tau: float = 0.0
    ) -> None:
        self.logits_of = logits_of
        self.num_heads = num_heads
        self.tau = tau

    def propose(self, hidden: torch.Tensor, texts: Sequence[Text]) -> list[list[int]]:
        """As `Drafts`."""
        if self.num_heads < 2 or self.tau > 1.0:
            return [[] for _ in texts]
        best = [self.logits_of(head, hidden).softmax(-1).max(-1) for head in range(2, self.num_heads + 1)]
        tokens = torch.stack([each.indices for each in best], dim=1).tolist()
        is_sure = torch.stack([each.values for each in best], dim=1) >= self.tau
        lens = is_sure.int().cumprod(1).sum(1).tolist()
        return [row[:length] for row, length in zip(tokens, lens, strict=True)]

    def select(self, rows: torch.Tensor) -> None:
        """Nothing is kept of rows."""


class TextDrafts:
    """Of a text of each utterance that another head has heard, such as CTC's: what follows where the LM stands in it.

    Args:
        heard: Token ids of each row, in the LM's tokens.
        most: Tokens of a draft.
        eos: Drafted behind the end of what was heard.
    """

    def __init__(self, heard: Sequence[Sequence[int]], most: int, eos: int) -> None:
        self.heard = [[*tokens, eos] for tokens in heard]
        self.most = most

    def propose(self, hidden: torch.Tensor, texts: Sequence[Text]) -> list[list[int]]:  # noqa: ARG002
        """As `Drafts`."""
        rows = zip(self.heard, texts, strict=True)
        return [heard[(place := _place(heard, text.token_ids)) : place + self.most] for heard, text in rows]

    def select(self, rows: torch.Tensor) -> None:
        """As `Drafts`."""
        self.heard = [self.heard[row] for row in rows.tolist()]


class LongerDrafts:
    """Of several sources the longest draft, of equally long ones the first source's.

    Args:
        sources: At least one.
    """

    def __init__(self, sources: Sequence[Drafts]) -> None:
        self.sources = sources

    def propose(self, hidden: torch.Tensor, texts: Sequence[Text]) -> list[list[int]]:
        """As `Drafts`."""
        found = [source.propose(hidden, texts) for source in self.sources]
        return [max(row, key=len) for row in zip(*found, strict=True)]

    def select(self, rows: torch.Tensor) -> None:
        """As `Drafts`."""
        for source in self.sources:
            source.select(rows)


def _place(heard: Sequence[int], said: Sequence[int]) -> int:
    """Behind the part of `heard` that agrees longest with the end of `said`; of several, the nearest to its length."""
    best = (0, -len(said), 0)
    for place in range(1, len(heard) + 1):
        agreed = 0
        while agreed < min(place, len(said)) and heard[place - 1 - agreed] == said[-1 - agreed]:
            agreed += 1
        best = max(best, (agreed, -abs(place - len(said)), place))
    # Where nothing agrees, the LM said another token in its place.
    return best[2] if best[0] else min(len(said), len(heard))
