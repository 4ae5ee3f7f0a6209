"""An n-gram over an LM's tokens as a further opinion of its search, and several opinions one after the other.

ESPnet adds an n-gram's logarithms to base 10, as kenlm gives them, to the natural ones of the others. So it is here: a
weight means the same, 0.9 is 0.39 of natural logarithms, and the N-best is ESPnet's
(test_the_n_best_is_that_of_espnets_beam_search_with_further_opinions).
Shapes: N rows, V tokens of the LM, K candidates a row.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from espnet_larm.search.multi_token import Adviser

NOTHING = float("-inf")


class Ngram(Protocol):
    """A model of the next token whose states are equal where its opinion is."""

    def start(self) -> Hashable:
        """The state at the start of a text."""
        ...

    def score(self, state: Any, token: int) -> tuple[float, Hashable]:
        """The logarithm, to base 10, of a token's probability in a state, and the state after it."""
        ...


class NgramAdviser:
    """Adds weight * n-gram to the scores of candidates, for the texts of a batch.

    Args:
        ngram: Over the LM's tokens.
        num_rows: N at the start.
        eos: The LM's token that ends a text.
        weight: Of the n-gram's logarithms to base 10, above 0.
        silent: Tokens that stand in no text, such as special ones: an n-gram may make `<s>` certain. Ruled out.
        num_candidates: K: of the best tokens so far that the n-gram is asked about; the others are ruled out.
    """

    def __init__(
        self,
        ngram: Ngram,
        num_rows: int,
        eos: int,
        weight: float,
        silent: Sequence[int] = (),
        num_candidates: int = 20,
    ) -> None:
        self.ngram = ngram
        self.eos = eos
        self.weight = weight
        self.silent = torch.tensor([token for token in silent if token != eos], dtype=torch.long)
        self.num_candidates = num_candidates
        self.states = [ngram.start()] * num_rows
        # By state: texts that end alike share one, whatever row or utterance they are of.
        self._known: dict[Hashable, dict[int, tuple[float, Hashable]]] = {}

    def combine(self, log_probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Scores so far of rows (N', V) with the n-gram's; -inf where it was not asked.

        Args:
            log_probs: Of the rows, the LM's or those of another adviser.
            rows: Which (N',), on the CPU.
        """
        device = log_probs.device
        best, candidates = log_probs.index_fill(1, self.silent.to(device), NOTHING).topk(
            min(self.num_candidates, log_probs.size(1)), dim=1
        )
        # The end is always one of them: in place of the worst if it is not among the best.
        has_end = (candidates == self.eos).any(1)
        candidates[:, -1] = torch.where(has_end, candidates[:, -1], self.eos)
        best[:, -1] = torch.where(has_end, best[:, -1], log_probs[:, self.eos])
        scores = [
            [
                self._ask(self.states[row], token)[0] if is_open else 0.0
                for token, is_open in zip(tokens, are_open, strict=True)
            ]
            for row, tokens, are_open in zip(rows.tolist(), candidates.tolist(), (best > NOTHING).tolist(), strict=True)
        ]
        both = best + self.weight * torch.tensor(scores, dtype=best.dtype, device=device)
        return torch.full_like(log_probs, NOTHING).scatter_(1, candidates, both)

    def take(self, tokens: torch.Tensor, rows: torch.Tensor) -> None:
        """Rows (N',), of those last asked about, go on with tokens (N',), none of them the end."""
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            self.states[row] = self._ask(self.states[row], token)[1]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), on the CPU, in this order, some perhaps several times."""
        self.states = [self.states[row] for row in rows.tolist()]

    def slack(self) -> torch.Tensor:
        """By how much the score of each row (N,) may rise again: 0."""
        return torch.zeros(len(self.states))

    def _ask(self, state: Hashable, token: int) -> tuple[float, Hashable]:
        known = self._known.setdefault(state, {})
        if token not in known:
            known[token] = self.ngram.score(state, token)
        return known[token]


class AdviserChain(NamedTuple):
    """Advisers of which each hears what those before it say. An `Adviser`.

    Attributes:
        advisers: In their order.
    """

    advisers: tuple[Adviser, ...]

    def combine(self, log_probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """As `Adviser`; what one of them rules out stays so."""
        for adviser in self.advisers:
            log_probs = adviser.combine(log_probs, rows)
        return log_probs

    def take(self, tokens: torch.Tensor, rows: torch.Tensor) -> None:
        """As `Adviser`."""
        for adviser in self.advisers:
            adviser.take(tokens, rows)

    def select(self, rows: torch.Tensor) -> None:
        """As `Adviser`."""
        for adviser in self.advisers:
            adviser.select(rows)

    def slack(self) -> torch.Tensor:
        """As `Adviser`."""
        return torch.stack([adviser.slack().cpu() for adviser in self.advisers]).sum(0)


def chain(advisers: Sequence[Adviser]) -> Adviser | None:
    """All of them as one; None if there is none."""
    if len(advisers) < 2:
        return advisers[0] if advisers else None
    return AdviserChain(tuple(advisers))
