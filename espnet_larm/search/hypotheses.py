"""Hypotheses of an autoregressive search while they grow: their bounds, their guards, and how they ended.

All searches of an LM keep their rows here, so that the same guards end the same hypotheses whatever the search.
"""

import enum
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.fetch import fetch

# A loop is a part of at most LONGEST_PART tokens that comes MIN_COPIES times and fills MIN_LOOP tokens: digits that
# somebody spells ("four four four four") are none.
LONGEST_PART = 32
MIN_COPIES = 4
MIN_LOOP = 24


class Ending(enum.Enum):
    """Why a hypothesis ended."""

    BY_ITSELF = "by itself"
    LIMIT = "limit"
    REPETITION = "repetition"


class Bounds(NamedTuple):
    """Bounds of a hypothesis's length, the end not counted.

    Attributes:
        most: Number of tokens at which its end is forced.
        least: Size below which its end is not allowed, as the search's `measure` has it.
    """

    most: int
    least: int = 0


class TokenHypothesis:
    """One hypothesis of a search.

    Args:
        bounds: Bounds of its length.
        guards_loops: Whether a hypothesis that repeats itself is ended, and cut back to the first copy.
        measure: The size of a hypothesis, from its tokens.

    Attributes:
        token_ids: Its tokens so far, without the end.
        score: Log-probability of the tokens, and of the end once there is one.
        ending: Why it ended; None while it grows.
        was_held_open: Whether its end was refused because it came too early.
    """

    def __init__(self, bounds: Bounds, guards_loops: bool = True, measure: Callable[[list[int]], int] = len) -> None:
        self.bounds = bounds
        self.guards_loops = guards_loops
        self.measure = measure
        self.token_ids: list[int] = []
        self.score = 0.0
        self.ending: Ending | None = None
        self.was_held_open = False
        # After each number of tokens: the score with an end put there.
        self._ended_scores: list[float] = []

    def add(self, token: int, score: float, end_score: float, eos: int) -> bool:
        """Take the next token, or end.

        Args:
            token: The token that the search chose; eos only where `may_end`.
            score: Its log-probability.
            end_score: Log-probability of an end in its place.
            eos: The token that ends a hypothesis.

        Returns:
            Whether the hypothesis goes on.
        """
        self._ended_scores.append(self.score + end_score)
        if token == eos:
            self._end(len(self.token_ids), Ending.BY_ITSELF)
        elif len(self.token_ids) >= self.bounds.most:
            self._end(len(self.token_ids), Ending.LIMIT)
        else:
            self.token_ids.append(token)
            self.score += score
            first_copy = loop_start(self.token_ids) if self.guards_loops else None
            if first_copy is not None:
                self._end(first_copy, Ending.REPETITION)
        return self.ending is None

    def copy(self) -> "TokenHypothesis":
        """A copy that goes on by itself, for a search that tries several tokens."""
        other = TokenHypothesis(self.bounds, self.guards_loops, self.measure)
        other.token_ids, other.score, other.was_held_open = list(self.token_ids), self.score, self.was_held_open
        other._ended_scores = list(self._ended_scores)
        return other

    @property
    def num_steps(self) -> int:
        """Tokens that were chosen so far, the end and what a guard has cut off included."""
        return len(self._ended_scores)

    @property
    def room(self) -> int:
        """Tokens that it may still get, 0 or more."""
        return max(self.bounds.most - len(self.token_ids), 0)

    @property
    def may_end(self) -> bool:
        """Whether the hypothesis is long enough."""
        if self.room == 0 or self.bounds.least == 0:
            return True
        return self.measure(self.token_ids) >= self.bounds.least

    def _end(self, num_tokens: int, ending: Ending) -> None:
        self.token_ids = self.token_ids[:num_tokens]
        self.score, self.ending = self._ended_scores[num_tokens], ending


class Ended:
    """The ended hypotheses of an utterance; of those that spell the same, the best one.

    Args:
        nbest: N, the number that is wanted.
        string_of: The string that tokens spell.
    """

    def __init__(self, nbest: int, string_of: Callable[[list[int]], Hashable] = tuple) -> None:
        self.nbest = nbest
        self.string_of = string_of
        self._hypotheses: dict[Hashable, TokenHypothesis] = {}

    def add(self, hypothesis: TokenHypothesis) -> None:
        """Take a hypothesis; a guard may have cut it back to one that is there."""
        string = self.string_of(hypothesis.token_ids)
        if string not in self._hypotheses or hypothesis.score > self._hypotheses[string].score:
            self._hypotheses[string] = hypothesis

    def best(self) -> list[TokenHypothesis]:
        """The N-best, the best first; perhaps fewer."""
        return sorted(self._hypotheses.values(), key=lambda hypothesis: hypothesis.score, reverse=True)[: self.nbest]

    @property
    def least(self) -> float:
        """The score that a hypothesis must exceed to come among the N-best."""
        best = self.best()
        return best[-1].score if len(best) == self.nbest else float("-inf")


def loop_start(token_ids: list[int]) -> int | None:
    """The number of tokens up to the end of a loop's first copy, where a hypothesis ends in a loop; None elsewhere."""
    for part in range(1, LONGEST_PART + 1):
        copies = max(MIN_COPIES, -(-MIN_LOOP // part))
        loop = part * copies
        if len(token_ids) < loop or token_ids[-1] != token_ids[-1 - part]:
            continue
        # A hypothesis has grown by one token since it was last looked at, so that no loop is longer than this.
        tail = token_ids[-loop:]
        if tail[part:] == tail[:-part]:
            return len(token_ids) - loop + part
    return None


class NextToken(NamedTuple):
    """The next token of a hypothesis.

    Attributes:
        token: Id of the token.
        score: Its score.
        end_score: Score of an end in its place.
    """

    token: int
    score: float
    end_score: float


def choose(
    wanted: torch.Tensor, scores: torch.Tensor, hypotheses: Sequence[TokenHypothesis], eos: int
) -> list[NextToken]:
    """The token that each hypothesis wants most; of one that is too short to end, the best other, and it is marked.

    Args:
        wanted: How much each token is wanted (N, V).
        scores: Scores of the tokens (N, V).
        hypotheses: The hypotheses.
        eos: The token that ends one.
    """
    first = other = wanted.argmax(-1)
    if any(hypothesis.bounds.least for hypothesis in hypotheses):
        # Both answers in one copy: whether a hypothesis may end takes its text, and is asked only where it matters.
        others = wanted.clone()
        others[:, eos] = float("-inf")
        other = others.argmax(-1)
    best = torch.stack([first, other], dim=1)
    tokens, values, end_scores = fetch(best, scores.gather(1, best), scores[:, eos])
    chosen = []
    for hypothesis, both, some, end_score in zip(hypotheses, tokens, values, end_scores, strict=True):
        held = both[0] == eos and not hypothesis.may_end
        hypothesis.was_held_open |= held
        chosen.append(NextToken(both[held], some[held], end_score))
    return chosen
