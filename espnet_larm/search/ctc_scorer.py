"""CTC as a scorer of an LM's search: CTC scores the spelling of a hypothesis with each of the LM's best next tokens.

The tokens of the two need not be the same: what CTC scores is the spelling of the whole hypothesis in its own tokens.
Shapes: N rows, V tokens of the LM, K candidates a row.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from espnet_larm.search.ctc.posteriors import PAD
from espnet_larm.search.ctc.prefix import NOTHING, CtcPrefixScores

# What CTC cannot spell at all, more tokens than frames for example: differences of infinities are no numbers, and where
# all candidates are impossible the LM decides.
IMPOSSIBLE = -1e6


class Spelled(NamedTuple):
    """A hypothesis in tokens of the CTC head.

    Attributes:
        sure: Its tokens, whatever follows.
        rest: Further tokens, which may change when something follows, such as the pieces of an unfinished word.
    """

    sure: list[int]
    rest: list[int]


class Spell(Protocol):
    """Spells tokens of the LM in those of the CTC head."""

    def __call__(self, token_ids: Sequence[int], is_complete: bool) -> Spelled:
        """Spell a hypothesis that is complete, or one that may go on."""
        ...


def same_tokens(token_ids: Sequence[int], is_complete: bool) -> Spelled:  # noqa: ARG001  # a Spell
    """Spell a hypothesis for a CTC head that has the LM's tokens."""
    return Spelled(list(token_ids), [])


class CtcScorer:
    """Scores (1 - weight) * LM + weight * CTC, for the hypotheses of a batch of utterances.

    Args:
        prefix_scores: Scores of prefixes of the utterances.
        spell: Spells the LM's tokens in CTC's.
        eos: The LM's token that ends a hypothesis.
        weight: Weight of CTC, above 0 and below 1.
        silent: Tokens that spell nothing, such as special ones: they would cost nothing under CTC, and are ruled out.
        num_candidates: K, the number of the LM's best tokens that CTC scores; the others are ruled out.
    """

    def __init__(
        self,
        prefix_scores: CtcPrefixScores,
        spell: Spell,
        eos: int,
        weight: float,
        silent: Sequence[int] = (),
        num_candidates: int = 20,
    ) -> None:
        self.prefix_scores = prefix_scores
        self.spell = spell
        self.eos = eos
        self.weight = weight
        self.num_candidates = num_candidates
        # Scores of the sure part of each hypothesis; `whole` counts the rest, too.
        self.prefixes = prefix_scores.start()
        self.whole = self.prefixes.score.clone()
        # Candidates of each row's last step and CTC's scores of them (N, K).
        self._asked = (torch.zeros(0), torch.zeros(0))
        self.utterances = torch.arange(len(self.prefixes.score), device=self.prefixes.score.device)
        self._silent = torch.tensor([token for token in silent if token != eos], dtype=torch.long)
        self._silent = self._silent.to(self.utterances.device, non_blocking=True)
        self.token_ids: list[list[int]] = [[] for _ in self.utterances]
        self.spelled: list[list[int]] = [[] for _ in self.utterances]

    def combine(self, log_probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Combine the LM's log-probabilities of rows (N', V) with CTC's; -inf where CTC was not asked.

        Args:
            log_probs: The LM's log-probabilities.
            rows: Indices of the rows (N',), on the CPU.
        """
        num_candidates = min(self.num_candidates, log_probs.size(1))
        log_probs = log_probs.index_fill(1, self._silent, NOTHING)
        candidates = log_probs.topk(num_candidates, dim=1).indices
        # The end is always one of them: in place of the worst if it is not among the best.
        is_end = candidates == self.eos
        candidates[:, -1] = torch.where(is_end.any(1), candidates[:, -1], self.eos)
        there = rows.to(self.utterances.device, non_blocking=True)
        scores = self._score(candidates, rows.tolist(), there)
        if len(self._asked[0]) != len(self.utterances):
            shape = len(self.utterances), num_candidates
            self._asked = candidates.new_zeros(shape), scores.new_zeros(shape)
        self._asked[0][there], self._asked[1][there] = candidates, scores
        ctc = (scores - self.whole[there].unsqueeze(1)).to(log_probs.dtype)
        both = (1 - self.weight) * log_probs.gather(1, candidates) + self.weight * ctc
        return torch.full_like(log_probs, NOTHING).scatter_(1, candidates, both)

    def take(self, tokens: torch.Tensor, rows: torch.Tensor) -> None:
        """Rows (N',), of those last asked about, go on with tokens (N',), none of them the end."""
        there = rows.to(self.utterances.device, non_blocking=True)
        candidates, scores = (one[there] for one in self._asked)
        is_token = candidates == tokens.to(candidates.device, non_blocking=True).unsqueeze(1)
        self.whole[there] = scores.gather(1, is_token.int().argmax(1, keepdim=True))[:, 0]
        extensions = []
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            self.token_ids[row].append(token)
            more = self._beyond(row, self.spell(self.token_ids[row], is_complete=False).sure) or []
            self.spelled[row] = [*self.spelled[row], *more]
            extensions.append([more])
        before = self.prefixes.pick(there)
        extended = self.prefix_scores.extend(before, self.utterances[there], self._padded(extensions))
        for field, new in zip(self.prefixes, extended, strict=True):
            field[there] = new[:, 0]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), on the CPU, in this order, some perhaps several times."""
        there = rows.to(self.utterances.device, non_blocking=True)
        self.prefixes = self.prefixes.pick(there)
        self.utterances, self.whole = self.utterances[there], self.whole[there]
        self._asked = self._asked[0][there], self._asked[1][there]
        self.token_ids = [list(self.token_ids[row]) for row in rows.tolist()]
        self.spelled = [self.spelled[row] for row in rows.tolist()]

    def slack(self) -> torch.Tensor:
        """By how much the score of each row (N,) may rise again at most: what the rest of a spelling costs.

        Pieces of an unfinished word may be others when it has ended.
        """
        return self.weight * (self.prefixes.score - self.whole).clamp(min=0.0)

    def _score(self, candidates: torch.Tensor, rows: list[int], there: torch.Tensor) -> torch.Tensor:
        """CTC's log-probability of the prefixes with each candidate (N', K); for the end, of the whole hypothesis."""
        more = [
            [self._beyond(row, self._spelled(row, token)) for token in tokens]
            for row, tokens in zip(rows, candidates.tolist(), strict=True)
        ]
        extensions = self._padded([[one or [] for one in row] for row in more])
        extended = self.prefix_scores.extend(self.prefixes.pick(there), self.utterances[there], extensions)
        scores = torch.where(candidates == self.eos, self.prefix_scores.ended(extended), extended.score)
        takes_back = torch.tensor([[one is None for one in row] for row in more])
        is_out = takes_back.to(scores.device, non_blocking=True)
        return scores.masked_fill(is_out, IMPOSSIBLE).clamp(min=IMPOSSIBLE)

    def _spelled(self, row: int, token: int) -> list[int]:
        is_end = token == self.eos
        found = self.spell(self.token_ids[row] if is_end else [*self.token_ids[row], token], is_complete=is_end)
        return [*found.sure, *found.rest]

    def _beyond(self, row: int, spelled: list[int]) -> list[int] | None:
        """The new part of a spelling; None if it takes back what was sure, as half a character may."""
        before = self.spelled[row]
        return spelled[len(before) :] if spelled[: len(before)] == before else None

    def _padded(self, extensions: list[list[list[int]]]) -> torch.Tensor:
        longest = max(len(one) for row in extensions for one in row)
        padded = [[[*one, *[PAD] * (longest - len(one))] for one in row] for row in extensions]
        together = torch.tensor(padded, dtype=torch.long).view(len(extensions), len(extensions[0]), longest)
        return together.to(self.utterances.device, non_blocking=True)
