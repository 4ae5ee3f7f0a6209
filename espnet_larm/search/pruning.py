"""Which of many prefixes of different lengths a prefix beam keeps."""

import math
from collections.abc import Callable, Hashable, Sequence

from espnet_larm.search.lookahead import Guess

# Scores are compared a token to this power: above 1, long prefixes are believed more. On AN4's development set (LM
# alone, W = 4) 1, 1.5, 2 and 3 gave 38.7, 35.5, 38.1 and 47.4 % WER in 402, 368, 329 and 254 calls.
POWER = 1.5


def rank(score: float, length: int) -> float:
    """What prefixes of different lengths, in tokens, are compared by; the higher, the better."""
    return score / length**POWER


def prune(
    guesses: Sequence[Guess],
    begun: Sequence[Sequence[int]],
    width: int,
    string_of: Callable[[list[int]], Hashable] = tuple,
) -> list[tuple[Guess, float]]:
    """The best guesses of an utterance, none of them the beginning of another.

    Those that spell the same are merged before: the best of them stays, with the probability of all.

    Args:
        guesses: Of an utterance, the roots among them.
        begun: Tokens of each root.
        width: How many are kept at most.
        string_of: What tokens spell.

    Returns:
        From the best, each with what merging has added to its log-probability.
    """
    same: dict[Hashable, list[Guess]] = {}
    for guess in guesses:
        same.setdefault(string_of([*begun[guess.root], *guess.tokens]), []).append(guess)
    merged = []
    for some in same.values():
        best = max(some, key=lambda guess: guess.score)
        more = math.log(sum(math.exp(guess.score - best.score) for guess in some))
        merged.append((rank(best.score + more, len(begun[best.root]) + len(best.tokens)), best, more))
    chosen: list[tuple[Guess, float]] = []
    for _, guess, more in sorted(merged, key=lambda one: one[0], reverse=True):
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
