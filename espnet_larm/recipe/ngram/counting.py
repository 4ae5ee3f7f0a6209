"""N-grams of tokenized sentences, counted as Kneser-Ney smoothing wants them.

Source: Heafield et al., "Scalable Modified Kneser-Ney Language Model Estimation" (ACL 2013), section 3.1.
Departures: everything is held in memory; nothing is pruned.
Shapes: T tokens of the text, starts and ends of sentences included; G n-grams of one order; V words.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

START, END, UNKNOWN = "<s>", "</s>", "<unk>"


class Ngrams(NamedTuple):
    """All n-grams of one order, in the order of their words' indices.

    Attributes:
        heads: Of each (G,), where it is without its last word among those of the order below; 0 for single words.
        words: The last word (G,).
        tails: Where it is without its first word among those of the order below (G,); 0 for single words.
        counts: Adjusted (G,): of the highest order, and of what begins a sentence, how often it stands in the text; of
            others how many different words stand before it. The start of a sentence itself is predicted by nothing.
    """

    heads: np.ndarray
    words: np.ndarray
    tails: np.ndarray
    counts: np.ndarray


def vocabulary_of(tokens: Iterable[str], end: str) -> list[str]:
    """Words of an n-gram over a token list: `<unk>`, `<s>`, `</s>`, then the others once each.

    Args:
        tokens: Names.
        end: That of the token that ends a text, which is `</s>` here.
    """
    return list(dict.fromkeys([UNKNOWN, START, END, *(END if token == end else token for token in tokens)]))


def count_ngrams(sentences: Iterable[Sequence[str]], vocabulary: Sequence[str], order: int) -> list[Ngrams]:
    """Count those of 1 to `order` words.

    Args:
        sentences: Of words of the vocabulary, without starts and ends.
        vocabulary: As `vocabulary_of` gives it.
        order: 2 or more.

    Returns:
        By order; the single words are the whole vocabulary.
    """
    index_of = {word: index for index, word in enumerate(vocabulary)}
    start, end, num_words = index_of[START], index_of[END], len(vocabulary)
    indices = (index for words in sentences for index in (start, *(index_of[word] for word in words), end))
    text = np.fromiter(indices, dtype=np.int64)
    places = np.arange(len(text))
    # Words of the same sentence before each (T,).
    before = places - np.maximum.accumulate(np.where(text == start, places, 0))
    everything = np.arange(num_words)
    raw = np.bincount(text, minlength=num_words)
    found = [Ngrams(np.zeros_like(everything), everything, np.zeros_like(everything), raw)]
    begins = [everything == start]
    ids = text
    for length in range(2, order + 1):
        last = np.flatnonzero(before >= length - 1)
        keys, first, inverse, raw = np.unique(
            ids[last - 1] * num_words + text[last], return_index=True, return_inverse=True, return_counts=True
        )
        heads = keys // num_words
        found.append(Ngrams(heads, keys % num_words, ids[last[first]], raw))
        begins.append(begins[-1][heads])
        ids = np.full(len(text), -1)
        ids[last] = inverse
    for lower, (shorter, longer) in enumerate(itertools.pairwise(found)):
        num_before = np.bincount(longer.tails, minlength=len(shorter.words))
        found[lower] = shorter._replace(counts=np.where(begins[lower], shorter.counts, num_before))
    found[0].counts[start] = 0
    return found
