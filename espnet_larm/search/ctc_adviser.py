"""A CTC head as second opinion of an LM's search: of the best next tokens by the LM, how each is spelled under CTC.

The tokens of the two need not be the same: what CTC scores is the spelling of the whole text in its own tokens.
Shapes: N rows, V tokens of the LM, K candidates a row.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from espnet_larm.search.ctc import PAD
from espnet_larm.search.ctc_prefix import NOTHING, CtcPrefixScorer

# What CTC cannot spell at all, more tokens than frames for example: differences of infinities are no numbers, and where
# all candidates are impossible the LM decides.
IMPOSSIBLE = -1e6


class Spell(Protocol):
    """Tokens of a text in those of the CTC head."""

    def __call__(self, token_ids: Sequence[int], is_complete: bool) -> list[int]:
        """What a text begins with for sure, whatever follows; all of it if nothing does."""
        ...


def same_tokens(token_ids: Sequence[int], is_complete: bool) -> list[int]:  # noqa: ARG001  # a Spell
    """Where the CTC head has the LM's tokens."""
    return list(token_ids)


class CtcAdviser:
    """Scores (1 - weight) * LM + weight * CTC, for the texts of a batch of utterances.

    Args:
        scorer: Of the utterances.
        spell: The LM's tokens in CTC's.
        eos: The LM's token that ends a text.
        weight: Of CTC, above 0 and below 1.
        num_candidates: K: of the LM's best tokens that CTC is asked about; the others are ruled out.
    """

    def __init__(
        self, scorer: CtcPrefixScorer, spell: Spell, eos: int, weight: float, num_candidates: int = 20
    ) -> None:
        self.scorer = scorer
        self.spell = spell
        self.eos = eos
        self.weight = weight
        self.num_candidates = num_candidates
        self.prefixes = scorer.start()
        self.utterances = torch.arange(len(self.prefixes.score), device=self.prefixes.score.device)
        self.token_ids: list[list[int]] = [[] for _ in self.utterances]
        self.spelled: list[list[int]] = [[] for _ in self.utterances]

    def combine(self, log_probs: torch.Tensor) -> torch.Tensor:
        """The LM's log-probabilities (N, V) and CTC's as one score a token (N, V); -inf where CTC was not asked."""
        num_candidates = min(self.num_candidates, log_probs.size(1))
        candidates = log_probs.topk(num_candidates, dim=1).indices
        # The end is always one of them: in place of the worst if it is not among the best.
        is_end = candidates == self.eos
        candidates[:, -1] = torch.where(is_end.any(1), candidates[:, -1], self.eos)
        before = self.prefixes.score.clamp(min=IMPOSSIBLE).unsqueeze(1)
        ctc = (self._score(candidates) - before).to(log_probs.dtype)
        both = (1 - self.weight) * log_probs.gather(1, candidates) + self.weight * ctc
        return torch.full_like(log_probs, NOTHING).scatter_(1, candidates, both)

    def take(self, tokens: torch.Tensor) -> None:
        """The rows go on with tokens (N,), none of them the end."""
        for row, token in enumerate(tokens.tolist()):
            self.token_ids[row].append(token)
        spelled = [self.spell(token_ids, is_complete=False) for token_ids in self.token_ids]
        extensions = self._padded([[self._extension(row, new)] for row, new in enumerate(spelled)])
        extended = self.scorer.extend(self.prefixes, self.utterances, extensions)
        self.prefixes = type(extended)(*(field[:, 0] for field in extended))
        self.spelled = spelled

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), on the CPU, in this order, some perhaps several times."""
        self.prefixes = self.prefixes.pick(rows.to(self.utterances.device))
        self.utterances = self.utterances[rows.to(self.utterances.device)]
        self.token_ids = [list(self.token_ids[row]) for row in rows.tolist()]
        self.spelled = [self.spelled[row] for row in rows.tolist()]

    def _score(self, candidates: torch.Tensor) -> torch.Tensor:
        """CTC's log-probability (N, K) of all texts that begin so; of the text itself for the end."""
        extensions = [
            [self._extension(row, self._spelled(row, token)) for token in tokens]
            for row, tokens in enumerate(candidates.tolist())
        ]
        extended = self.scorer.extend(self.prefixes, self.utterances, self._padded(extensions))
        return torch.where(candidates == self.eos, self.scorer.ended(extended), extended.score).clamp(min=IMPOSSIBLE)

    def _spelled(self, row: int, token: int) -> list[int]:
        if token == self.eos:
            return self.spell(self.token_ids[row], is_complete=True)
        return self.spell([*self.token_ids[row], token], is_complete=False)

    def _extension(self, row: int, spelled: list[int]) -> list[int]:
        before = self.spelled[row]
        assert spelled[: len(before)] == before, "a spelling changed that had been said to be sure"
        return spelled[len(before) :]

    def _padded(self, extensions: list[list[list[int]]]) -> torch.Tensor:
        longest = max(len(one) for row in extensions for one in row)
        padded = [[[*one, *[PAD] * (longest - len(one))] for one in row] for row in extensions]
        return torch.tensor(padded, dtype=torch.long, device=self.utterances.device).view(
            len(extensions), len(extensions[0]), longest
        )
