"""Interpolated modified Kneser-Ney smoothing, as `lmplz --discount_fallback` does it.

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (TR-10-98, 1998), with the
counts and the interpolation of single words with the uniform distribution of Heafield et al. (ACL 2013).
Departures: every word of the vocabulary has a probability, the same for all that the text does not hold, where lmplz
gives one to `<unk>` for them all together. Over the words of the text the numbers are lmplz's
(test_over_the_words_of_a_text_the_numbers_are_those_of_lmplz), whose discounts, though, take the last n-gram of each
sorted list to be as frequent as it stands in the text (adjust_counts.cc, "outputs the last n-grams").
Shapes: G n-grams of one order, H of the order below.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from espnet_larm.recipe.ngram.counting import Ngrams

# What lmplz takes off n-grams of counts 1, 2 and more where a text is too small to estimate it.
FALLBACK = (0.5, 1.0, 1.5)


class Smoothed(NamedTuple):
    """Of the n-grams of one order.

    Attributes:
        probs: Of the last word (G,), that of the order below mixed in; 0 for the start of a sentence.
        backoffs: What probabilities of the order below are multiplied by (G,) where a word was not seen after them.
        discounts: What was taken off counts of 1, 2, and 3 and more.
    """

    probs: np.ndarray
    backoffs: np.ndarray
    discounts: tuple[float, ...]


def smooth(orders: Sequence[Ngrams], start: int) -> list[Smoothed]:
    """Estimate, by order.

    Args:
        orders: As `count_ngrams` gives them.
        start: Index of the word that starts a sentence.
    """
    num_words = len(orders[0].words)
    # Before single words: nothing, of which all words but the start of a sentence are equally probable.
    below = np.full(1, 1 / (num_words - 1))
    found: list[Smoothed] = []
    for ngrams in orders:
        discounts = discounts_of(ngrams.counts)
        taken = np.array([0.0, *discounts])[np.minimum(ngrams.counts, 3)]  # (G,)
        totals = np.bincount(ngrams.heads, ngrams.counts, len(below))  # (H,)
        is_context = totals > 0
        kept = np.where(is_context, totals, 1.0)
        weights = np.where(is_context, np.bincount(ngrams.heads, taken, len(below)) / kept, 1.0)
        if found:
            found[-1] = found[-1]._replace(backoffs=weights)
        probs = (ngrams.counts - taken) / kept[ngrams.heads] + weights[ngrams.heads] * below[ngrams.tails]
        if not found:
            probs[start] = 0.0
        found.append(Smoothed(probs, np.ones(len(probs)), discounts))
        below = probs
    return found


def discounts_of(counts: np.ndarray) -> tuple[float, ...]:
    """Of counts 1, 2, and 3 and more, from how many n-grams have counts of 1 to 4; FALLBACK where that says nothing.

    Args:
        counts: Adjusted (G,).
    """
    one, two, three, four = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if not (one and two and three):
        return FALLBACK
    share = one / (one + 2 * two)
    found = 1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three
    # A discount of 0 would leave nothing for what was not seen.
    is_sound = all(0 < discount <= count for count, discount in enumerate(found, 1))
    return found if is_sound else FALLBACK
