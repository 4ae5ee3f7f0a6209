"""Guesses of how texts go on, several tokens ahead: a beam search over what draft heads say, without the LM.

Head k of a state predicts the token k places ahead, whatever stands between, so that a guess of several tokens has the
product of the heads' probabilities.
Shapes: R roots, K tokens a call, D model size, V tokens.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.multi_token import Adviser

NOTHING = float("-inf")


class Lookahead(NamedTuple):
    """Where guesses come from.

    Attributes:
        logits_of: States (R, D) to the logits of heads 2 to K (R, K - 1, V).
        least: Log-probability that a guessed token has at least.
    """

    logits_of: Callable[[torch.Tensor], torch.Tensor]
    least: float = NOTHING


class Root(NamedTuple):
    """A text that is gone on from.

    Attributes:
        utterance: Whose text it is.
        score: Of the text.
        room: Tokens that may be guessed behind it.
        advised: The adviser's row of the text; any number without an adviser.
    """

    utterance: int
    score: float
    room: int
    advised: int = 0


class Guess(NamedTuple):
    """How a text may go on.

    Attributes:
        root: Its index.
        tokens: Behind the root; none is the root itself.
        score: Of the root and, as heads see it, of the tokens.
        advised: The adviser's rows: of the root, and behind each token.
    """

    root: int
    tokens: tuple[int, ...]
    score: float
    advised: tuple[int, ...]


def look_ahead(
    roots: Sequence[Root],
    log_probs: torch.Tensor,
    width: int,
    eos: int,
    least: float = NOTHING,
    adviser: Adviser | None = None,
) -> list[Guess]:
    """Search.

    Args:
        roots: Of all utterances.
        log_probs: Of heads 2 to K at the states that the roots' last tokens were chosen from (R, K - 1, V).
        width: Guesses of a length that are kept of an utterance.
        eos: Is not guessed, and nothing behind it.
        least: As in `Lookahead`.
        adviser: Is heard on each token; has R rows, and gets one more for each guess.

    Returns:
        The roots as guesses of nothing, then the others, the shorter ones first.
    """
    frontier = [Guess(index, (), root.score, (root.advised,)) for index, root in enumerate(roots)]
    found, num_advised = list(frontier), len(roots)
    for place in range(log_probs.size(1)):
        frontier = [guess for guess in frontier if roots[guess.root].room > place]
        if not frontier:
            break
        scores = log_probs[torch.tensor([guess.root for guess in frontier]).to(log_probs.device), place]
        if adviser is not None:
            scores = adviser.combine(scores, torch.tensor([guess.advised[-1] for guess in frontier]))
        grown = _grown(frontier, roots, scores, width, eos, least)
        new = range(num_advised, num_advised + len(grown))
        if adviser is not None and grown:
            parents = torch.tensor([guess.advised[-1] for guess in grown])
            adviser.select(torch.cat([torch.arange(num_advised), parents]))
            adviser.take(torch.tensor([guess.tokens[-1] for guess in grown]), torch.tensor(new))
        frontier = [guess._replace(advised=(*guess.advised, row)) for guess, row in zip(grown, new, strict=True)]
        num_advised += len(grown)
        found += frontier
    return found


def _grown(
    frontier: Sequence[Guess], roots: Sequence[Root], scores: torch.Tensor, width: int, eos: int, least: float
) -> list[Guess]:
    """Guesses with a token more, the best of each utterance, from the scores of tokens behind each guess (F, V)."""
    values, tokens = scores.topk(min(width, scores.size(1)), dim=1)
    found: dict[int, list[Guess]] = {}
    for guess, some_values, some_tokens in zip(frontier, values.tolist(), tokens.tolist(), strict=True):
        found.setdefault(roots[guess.root].utterance, []).extend(
            guess._replace(tokens=(*guess.tokens, token), score=guess.score + value)
            for value, token in zip(some_values, some_tokens, strict=True)
            if token != eos and value > NOTHING and value >= least
        )
    ranked = (sorted(each, key=lambda guess: -guess.score)[:width] for each in found.values())
    return [guess for each in ranked for guess in each]


def longest(guesses: Sequence[Guess]) -> list[Guess]:
    """Those that no other goes on."""
    begun = {(guess.root, guess.tokens[:-1]) for guess in guesses if guess.tokens}
    return [guess for guess in guesses if (guess.root, guess.tokens) not in begun]
