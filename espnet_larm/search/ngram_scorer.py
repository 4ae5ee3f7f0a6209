"""An n-gram over an LM's tokens as a scorer of its search, and several scorers one after the other.

ESPnet adds an n-gram's logarithms to base 10, as kenlm gives them, to the natural ones of the others. So it is here: a
weight means the same, 0.9 is 0.39 of natural logarithms, and the N-best is ESPnet's
(test_the_n_best_is_that_of_espnets_beam_search_with_further_scorers).
Shapes: N rows, V tokens of the LM, K candidates a row.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from espnet_larm.search.fetch import fetch
from espnet_larm.search.multi_token import Scorer

NOTHING = float("-inf")


class Ngram(Protocol):
    """A model of the next token, whose states are equal where its probabilities are."""

    def start(self) -> Hashable:
        """The state at the start of a hypothesis."""
        ...

    def score(self, state: Any, token: int) -> tuple[float, Hashable]:
        """The logarithm, to base 10, of a token's probability in a state, and the state after it."""
        ...


class NgramScorer:
    """Adds weight * n-gram to the scores of candidates, for the hypotheses of a batch.

    Args:
        ngram: The n-gram, over the LM's tokens.
        num_rows: The number of rows at the start.
        eos: The LM's token that ends a hypothesis.
        weight: Weight of the n-gram's logarithms to base 10, above 0.
        silent: Tokens that stand in no hypothesis, such as special ones: an n-gram may make `<s>` certain. Ruled out.
        num_candidates: K, the number of the best tokens so far that the n-gram scores; the others are ruled out.
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
        # By state: hypotheses that end alike share one, whatever row or utterance they are of.
        self._known: dict[Hashable, dict[int, tuple[float, Hashable]]] = {}

    def combine(self, log_probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Add the n-gram's scores to those of rows (N', V); -inf where it was not asked.

        Args:
            log_probs: Scores of the LM or of another scorer.
            rows: Indices of the rows (N',), on the CPU.
        """
        device = log_probs.device
        best, candidates = log_probs.index_fill(1, self.silent.to(device, non_blocking=True), NOTHING).topk(
            min(self.num_candidates, log_probs.size(1)), dim=1
        )
        # The end is always one of them: in place of the worst if it is not among the best.
        has_end = (candidates == self.eos).any(1)
        candidates[:, -1] = torch.where(has_end, candidates[:, -1], self.eos)
        best[:, -1] = torch.where(has_end, best[:, -1], log_probs[:, self.eos])
        asked = zip(rows.tolist(), *fetch(candidates, best > NOTHING), strict=True)
        scores = [
            [
                self._ask(self.states[row], token)[0] if is_open else 0.0
                for token, is_open in zip(tokens, are_open, strict=True)
            ]
            for row, tokens, are_open in asked
        ]
        both = best + self.weight * torch.tensor(scores, dtype=best.dtype).to(device, non_blocking=True)
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


class ScorerChain(NamedTuple):
    """Scorers one after the other, each given the scores of those before it. A `Scorer`.

    Attributes:
        scorers: The scorers in their order.
    """

    scorers: tuple[Scorer, ...]

    def combine(self, log_probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Combine the scores of all; a token that one of them rules out stays so."""
        for scorer in self.scorers:
            log_probs = scorer.combine(log_probs, rows)
        return log_probs

    def take(self, tokens: torch.Tensor, rows: torch.Tensor) -> None:
        """Let rows go on with tokens."""
        for scorer in self.scorers:
            scorer.take(tokens, rows)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        for scorer in self.scorers:
            scorer.select(rows)

    def slack(self) -> torch.Tensor:
        """The sum of all slacks (N,)."""
        return torch.stack([scorer.slack().cpu() for scorer in self.scorers]).sum(0)


def chain(scorers: Sequence[Scorer]) -> Scorer | None:
    """Several scorers as one; None if there is none."""
    if len(scorers) < 2:
        return scorers[0] if scorers else None
    return ScorerChain(tuple(scorers))
