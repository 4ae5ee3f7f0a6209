"""The choice of the prefixes, of different lengths, that a prefix beam keeps."""

import math
from collections.abc import Callable, Hashable, Sequence

from espnet_larm.search.lookahead import Guess

# Scores are compared a token to this power: above 1, long prefixes are favoured. On AN4's development set (LM
# alone, W = 4) 1, 1.5, 2 and 3 gave 38.7, 35.5, 38.1 and 47.4 % WER in 402, 368, 329 and 254 calls.
POWER = 1.5


def rank(score: float, length: int) -> float:
    """The figure by which prefixes of different lengths, in tokens, are compared; the higher, the better."""
    return score / length**POWER


def merge[Item](
    candidates: Sequence[tuple[list[int], float, Item]], string_of: Callable[[list[int]], Hashable]
) -> list[tuple[Item, float]]:
    """Let the best of the candidates that spell the same stand for all of them.

    Args:
        candidates: Tokens, log-probability and item of each.
        string_of: The string that tokens spell.

    Returns:
        From the best by `rank`, each with what the others have added to its log-probability.
    """
    same: dict[Hashable, list[tuple[list[int], float, Item]]] = {}
    for candidate in candidates:
        same.setdefault(string_of(candidate[0]), []).append(candidate)
    ranked = []
    for some in same.values():
        tokens, score, item = max(some, key=lambda one: one[1])
        more = math.log(sum(math.exp(other - score) for _, other, _ in some))
        ranked.append((rank(score + more, len(tokens)), item, more))
    return [(item, more) for _, item, more in sorted(ranked, key=lambda one: one[0], reverse=True)]


def prune(
    guesses: Sequence[Guess],
    begun: Sequence[Sequence[int]],
    width: int,
    string_of: Callable[[list[int]], Hashable] = tuple,
) -> list[tuple[Guess, float]]:
    """The best guesses of an utterance, merged, none of them the beginning of another.

    Args:
        guesses: Guesses of one utterance, its roots among them.
        begun: Tokens of each root.
        width: Most guesses to keep.
        string_of: The string that tokens spell.

    Returns:
        From the best, each with what merging has added to its log-probability.
    """
    candidates = [([*begun[guess.root], *guess.tokens], guess.score, guess) for guess in guesses]
    chosen: list[tuple[Guess, float]] = []
    for guess, more in merge(candidates, string_of):
        for place, (other, _) in enumerate(chosen):
            if guess.root == other.root and _begins(guess.tokens, other.tokens):
                # The longer one is read at no call more, and its beginning with it.
                if len(guess.tokens) > len(other.tokens):
                    chosen[place] = guess, more
                break
        else:
            if len(chosen) < width:
                chosen.append((guess, more))
    return chosen


def _begins(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether one of them is the beginning of the other."""
    return all(one == other for one, other in zip(some, others))  # noqa: B905  # of different lengths
