"""Sources of drafts of the next tokens: the LM's own draft heads, the CTC hypothesis, or the longer of both.

A draft is a guess that the search verifies with the LM, so that a bad one costs time and changes no word.
Shapes: N rows still running, K tokens a call at most, D model size, V tokens.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from espnet_larm.search.fetch import fetch
from espnet_larm.search.hypotheses import TokenHypothesis


class Drafts(Protocol):
    """A source of drafts."""

    def propose(self, hidden: torch.Tensor, hypotheses: Sequence[TokenHypothesis]) -> list[list[int]]:
        """Guess the tokens that follow each hypothesis; an empty draft is allowed.

        Args:
            hidden: The LM's state (N, D) from which the last token of each hypothesis was predicted.
            hypotheses: The rows.
        """
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), on the CPU, in this order."""
        ...


class NoDrafts:
    """No drafts: a token a call."""

    def propose(self, hidden: torch.Tensor, hypotheses: Sequence[TokenHypothesis]) -> list[list[int]]:  # noqa: ARG002
        """Draft the next tokens of each hypothesis."""
        return [[] for _ in hypotheses]

    def select(self, rows: torch.Tensor) -> None:
        """Do nothing: it holds nothing of the rows."""


class HeadDrafts:
    """Drafts of heads 2 to K: the most probable token of each, up to an end or to the first that is not sure enough.

    Args:
        logits_of: Hidden states (N, D) to the logits of heads 2 to K (N, K - 1, V).
        eos: The token that ends a hypothesis; nothing is drafted behind it.
        tau: The least probability of a drafted token, 0 (all are drafted) or more; above 1 none is.
        is_product: Whether tau bounds the probability of the whole draft instead.
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

    def propose(self, hidden: torch.Tensor, hypotheses: Sequence[TokenHypothesis]) -> list[list[int]]:
        """Draft the next tokens of each hypothesis."""
        if self.tau > 1.0:
            return [[] for _ in hypotheses]
        logits = self.logits_of(hidden)
        tokens = logits.argmax(-1)  # (N, K - 1)
        is_drafted = (tokens == self.eos).cumsum(1).roll(1, 1) == 0
        is_drafted[:, :1] = True
        if self.tau > 0.0:
            sure = logits.softmax(-1).gather(-1, tokens.unsqueeze(-1))[..., 0]
            is_drafted &= (sure.cumprod(1) if self.is_product else sure) >= self.tau
        rows = zip(*fetch(tokens, is_drafted.int().cumprod(1).sum(1)), strict=True)
        return [row[:length] for row, length in rows]

    def select(self, rows: torch.Tensor) -> None:
        """Do nothing: it holds nothing of the rows."""


def _own_word(token: int) -> str:
    """A token as a word of one character, where nothing is known of its spelling."""
    return f" {chr(token)}"


class TextDrafts:
    """Drafts from a fixed hypothesis of each utterance, such as CTC's: what follows the place that the LM has reached.

    The alignment of the characters with the fewest errors between the LM's hypothesis so far and the fixed one gives
    that place, at the edge of a token; of several places it is the latest. Where the two differ, an alignment of whole
    tokens loses its way for some tokens, since one spells a word in more of them than the other.

    Args:
        fixed: Token ids of each row's fixed hypothesis, in the LM's tokens.
        most: Most tokens of a draft, K - 1.
        eos: The token that ends a hypothesis; drafted behind the end of the fixed one.
        spell: The characters of a token, with a space before those of the first token of a word.
    """

    def __init__(
        self, fixed: Sequence[Sequence[int]], most: int, eos: int, spell: Callable[[int], str] = _own_word
    ) -> None:
        self.most = most
        self._rows = [_Alignment(tokens, eos, spell) for tokens in fixed]

    def propose(self, hidden: torch.Tensor, hypotheses: Sequence[TokenHypothesis]) -> list[list[int]]:  # noqa: ARG002
        """Draft the next tokens of each hypothesis."""
        return [
            row.after(hypothesis.token_ids, self.most) for row, hypothesis in zip(self._rows, hypotheses, strict=True)
        ]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        self._rows = [self._rows[row] for row in rows.tolist()]


class _Alignment:
    """The alignment of a growing hypothesis with a fixed one: the fewest errors up to each place, by characters."""

    # Of a character in the place of another, or too many, the cost is 1.
    LEFT_OUT = 0.5
    # A place within a word that the LM has begun with other tokens: it rarely goes on there with what CTC has.
    WITHIN_WORD = 1.0

    def __init__(self, fixed: Sequence[int], eos: int, spell: Callable[[int], str]) -> None:
        self.fixed = [*fixed, eos]
        self.spell = spell
        self._tokens = np.array(fixed, dtype=np.int64)
        pieces = [spell(token) for token in fixed]
        self._characters = np.array([ord(each) for piece in pieces for each in piece], dtype=np.int64)
        self._edges = np.cumsum([0, *map(len, pieces)])
        is_within = [bool(place) and not piece.startswith(" ") for place, piece in enumerate(pieces)]
        self._extra = np.array([*is_within, False]) * self.WITHIN_WORD
        self._skipped = np.arange(len(self._characters) + 1) * self.LEFT_OUT
        self._errors = self._skipped.copy()
        self._num_seen = 0

    def after(self, growing: Sequence[int], most: int) -> list[int]:
        """The tokens of the fixed hypothesis behind the place that the growing one has reached."""
        for token in growing[self._num_seen :]:
            for character in self.spell(token):
                is_wrong = self._characters != ord(character)
                swapped = np.append(self._errors[0] + 1, np.minimum(self._errors[1:] + 1, self._errors[:-1] + is_wrong))
                # Left out: from any earlier place, a part of an error for each character between.
                self._errors = np.minimum.accumulate(swapped - self._skipped) + self._skipped
        self._num_seen = len(growing)
        agrees = np.append(False, self._tokens == growing[-1]) if growing else False
        errors = self._errors[self._edges] + np.where(agrees, 0.0, self._extra)
        start = int(np.flatnonzero(errors == errors.min())[-1])
        return self.fixed[start : start + most]


class LongerDrafts:
    """The longest draft of several sources; of equally long ones the first source's.

    Args:
        sources: One source or more.
    """

    def __init__(self, sources: Sequence[Drafts]) -> None:
        self.sources = sources

    def propose(self, hidden: torch.Tensor, hypotheses: Sequence[TokenHypothesis]) -> list[list[int]]:
        """Draft the next tokens of each hypothesis."""
        found = [source.propose(hidden, hypotheses) for source in self.sources]
        return [max(row, key=len) for row in zip(*found, strict=True)]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        for source in self.sources:
            source.select(rows)
