"""Guesses of how hypotheses go on, several tokens ahead: a beam search over the probabilities of draft heads alone.

Head k of a state predicts the token k places ahead, whatever stands between, so that a guess of several tokens has the
product of the heads' probabilities.
Shapes: R roots, K tokens a call, D model size, V tokens.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.fetch import fetch
from espnet_larm.search.multi_token import Scorer

NOTHING = float("-inf")


class Lookahead(NamedTuple):
    """The source of guesses.

    Attributes:
        logits_of: States (R, D) to the logits of heads 2 to K (R, K - 1, V).
        least: Log-probability that a guessed token has at least.
    """

    logits_of: Callable[[torch.Tensor], torch.Tensor]
    least: float = NOTHING


class Root(NamedTuple):
    """A hypothesis that guesses start from.

    Attributes:
        utterance: Index of its utterance.
        score: Score of the hypothesis.
        room: Number of tokens that may be guessed behind it.
        scored: The scorer's row of the hypothesis; any number without a scorer.
    """

    utterance: int
    score: float
    room: int
    scored: int = 0


class Guess(NamedTuple):
    """A guess of how a hypothesis goes on.

    Attributes:
        root: Index of the hypothesis.
        tokens: Tokens behind the root; the root itself has none.
        score: Score of the root plus the heads' log-probabilities of the tokens.
        scored: The scorer's rows of the root and behind each token.
    """

    root: int
    tokens: tuple[int, ...]
    score: float
    scored: tuple[int, ...]


def look_ahead(
    roots: Sequence[Root],
    log_probs: torch.Tensor,
    width: int,
    eos: int,
    least: float = NOTHING,
    scorer: Scorer | None = None,
) -> list[Guess]:
    """Guess how hypotheses go on.

    Args:
        roots: Hypotheses of all utterances.
        log_probs: Log-probabilities of heads 2 to K at the roots' last states (R, K - 1, V).
        width: Number of guesses of a length that are kept of an utterance.
        eos: The token that ends a hypothesis; it is not guessed, and nothing behind it.
        least: Least log-probability of a guessed token.
        scorer: Scores each token; has R rows, and gets one more for each guess.

    Returns:
        The roots as guesses of nothing, then the others, the shorter ones first.
    """
    frontier = [Guess(index, (), root.score, (root.scored,)) for index, root in enumerate(roots)]
    found, num_scored = list(frontier), len(roots)
    for place in range(log_probs.size(1)):
        frontier = [guess for guess in frontier if roots[guess.root].room > place]
        if not frontier:
            break
        asked = torch.tensor([guess.root for guess in frontier])
        scores = log_probs[asked.to(log_probs.device, non_blocking=True), place]
        if scorer is not None:
            scores = scorer.combine(scores, torch.tensor([guess.scored[-1] for guess in frontier]))
        grown = _grown(frontier, roots, scores, width, eos, least)
        new = range(num_scored, num_scored + len(grown))
        if scorer is not None and grown:
            parents = torch.tensor([guess.scored[-1] for guess in grown])
            scorer.select(torch.cat([torch.arange(num_scored), parents]))
            scorer.take(torch.tensor([guess.tokens[-1] for guess in grown]), torch.tensor(new))
        frontier = [guess._replace(scored=(*guess.scored, row)) for guess, row in zip(grown, new, strict=True)]
        num_scored += len(grown)
        found += frontier
    return found


def _grown(
    frontier: Sequence[Guess], roots: Sequence[Root], scores: torch.Tensor, width: int, eos: int, least: float
) -> list[Guess]:
    """Guesses with a token more, the best of each utterance, from the scores of tokens behind each guess (F, V)."""
    values, tokens = fetch(*scores.topk(min(width, scores.size(1)), dim=1))
    found: dict[int, list[Guess]] = {}
    for guess, some_values, some_tokens in zip(frontier, values, tokens, strict=True):
        found.setdefault(roots[guess.root].utterance, []).extend(
            guess._replace(tokens=(*guess.tokens, token), score=guess.score + value)
            for value, token in zip(some_values, some_tokens, strict=True)
            if token != eos and value > NOTHING and value >= least
        )
    ranked = (sorted(each, key=lambda guess: -guess.score)[:width] for each in found.values())
    return [guess for each in ranked for guess in each]


def longest(guesses: Sequence[Guess]) -> list[Guess]:
    """The guesses that are not the beginning of another."""
    begun = {(guess.root, guess.tokens[:-1]) for guess in guesses if guess.tokens}
    return [guess for guess in guesses if (guess.root, guess.tokens) not in begun]
