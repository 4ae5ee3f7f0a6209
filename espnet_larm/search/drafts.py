"""Where drafts of the next tokens come from: the LM's own draft heads, the CTC head's text, or the longer of both.

A draft is a guess that the search verifies with the LM, so that a bad one costs time and no word.
Shapes: N rows still running, K tokens a call at most, D model size, V tokens.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from espnet_larm.search.hypotheses import Text


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


class NoDrafts:
    """For a token a call."""

    def propose(self, hidden: torch.Tensor, texts: Sequence[Text]) -> list[list[int]]:  # noqa: ARG002
        """As `Drafts`."""
        return [[] for _ in texts]

    def select(self, rows: torch.Tensor) -> None:
        """Nothing is kept of rows."""


class HeadDrafts:
    """Of heads 2 to K, each its most probable token, up to an end, or to the first that is not sure enough.

    Args:
        logits_of: Hidden states (N, D) to the logits of heads 2 to K (N, K - 1, V).
        eos: Nothing is drafted behind it.
        tau: The least probability of a drafted token, 0 (all are drafted) or more; above 1 none is.
        is_product: Whether it is that of all drafted tokens together instead.
    """

    def __init__(
        self,
        logits_of: Callable[[torch.Tensor], torch.Tensor],
        eos: int,
        tau: float = 0.0,
        is_product: bool = False,
    ) -> None:
        self.logits_of = logits_of
        self.eos = eos
        self.tau = tau
        self.is_product = is_product

    def propose(self, hidden: torch.Tensor, texts: Sequence[Text]) -> list[list[int]]:
        """As `Drafts`."""
        if self.tau > 1.0:
            return [[] for _ in texts]
        logits = self.logits_of(hidden)
        tokens = logits.argmax(-1)  # (N, K - 1)
        is_drafted = (tokens == self.eos).cumsum(1).roll(1, 1) == 0
        is_drafted[:, :1] = True
        if self.tau > 0.0:
            sure = logits.softmax(-1).gather(-1, tokens.unsqueeze(-1))[..., 0]
            is_drafted &= (sure.cumprod(1) if self.is_product else sure) >= self.tau
        lens = is_drafted.int().cumprod(1).sum(1).tolist()
        return [row[:length] for row, length in zip(tokens.tolist(), lens, strict=True)]

    def select(self, rows: torch.Tensor) -> None:
        """Nothing is kept of rows."""


class TextDrafts:
    """Of a text of each utterance that another head has heard, such as CTC's: what follows where the LM stands in it.

    Where that is comes from the alignment with the fewest errors between what the LM has said and what was heard; of
    several places the one that agrees with the last token, then the latest.

    Args:
        heard: Token ids of each row, in the LM's tokens.
        most: Tokens of a draft, K - 1.
        eos: Drafted behind the end of what was heard.
    """

    def __init__(self, heard: Sequence[Sequence[int]], most: int, eos: int) -> None:
        self.most = most
        self._rows = [_Alignment(tokens, eos) for tokens in heard]

    def propose(self, hidden: torch.Tensor, texts: Sequence[Text]) -> list[list[int]]:  # noqa: ARG002
        """As `Drafts`."""
        return [row.after(text.token_ids, self.most) for row, text in zip(self._rows, texts, strict=True)]

    def select(self, rows: torch.Tensor) -> None:
        """As `Drafts`."""
        self._rows = [self._rows[row] for row in rows.tolist()]


class _Alignment:
    """Of a growing text with a fixed one: the least number of errors to each place, token by token."""

    def __init__(self, heard: Sequence[int], eos: int) -> None:
        self.heard = [*heard, eos]
        self._tokens = np.array(heard)
        self._places = np.arange(len(heard) + 1)
        self._errors = self._places.copy()
        self._num_said = 0

    def after(self, said: Sequence[int], most: int) -> list[int]:
        """What follows in the fixed text behind the place that the growing one has reached."""
        for token in said[self._num_said :]:
            is_wrong = np.append(1, self._tokens != token)
            swapped = np.append(self._errors[0] + 1, self._errors[:-1] + is_wrong[1:])
            # Left out: from any earlier place, an error for each token between.
            kept = np.minimum(swapped, self._errors + 1) - self._places
            self._errors = np.minimum.accumulate(kept) + self._places
        self._num_said = len(said)
        best: list[int] = np.flatnonzero(self._errors == self._errors.min()).tolist()
        agreeing = [place for place in best if said and place and self.heard[place - 1] == said[-1]]
        start = (agreeing or best)[-1]
        return self.heard[start : start + most]


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
