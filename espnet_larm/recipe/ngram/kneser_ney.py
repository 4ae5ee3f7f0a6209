"""N-grams by interpolated modified Kneser-Ney smoothing, as `lmplz --discount_fallback` makes them, into ARPA files.

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (TR-10-98, 1998), with the
counts (section 3.1) and the interpolation of single words with the uniform distribution of Heafield et al., "Scalable
Modified Kneser-Ney Language Model Estimation" (ACL 2013).
It is our own because lmplz needs Boost, which pip does not bring; its values are tested against a calculation by hand.
Departures: everything is held in memory; nothing is pruned; every word of the vocabulary has a probability, the same
for all that the text does not hold, where lmplz gives one to `<unk>` for them all together. Over the words of the text
the numbers are lmplz's (test_over_the_words_of_a_text_the_numbers_are_those_of_lmplz), whose discounts, though, take
the last n-gram of each sorted list to be as frequent as it stands in the text (adjust_counts.cc, "outputs the last
n-grams").
Shapes: T tokens of the text, starts and ends of sentences included; G n-grams of one order, H of the order below;
V words.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
# Discounts that lmplz takes off counts 1, 2 and more where a text is too small to estimate them.
FALLBACK = (0.5, 1.0, 1.5)
# Logarithm that stands for a probability of 0.
NEVER = -99.0
CHUNK = 1 << 16


class Ngrams(NamedTuple):
    """All n-grams of one order, in the order of their words' indices.

    Attributes:
        heads: Index of each without its last word, among the n-grams of the order below (G,); 0 for single words.
        words: The last word of each (G,).
        tails: Index of each without its first word, among the n-grams of the order below (G,); 0 for single words.
        counts: Adjusted counts (G,): for the highest order, and for what begins a sentence, how often it stands in the
            text; for others how many different words stand before it. Nothing predicts the start of a sentence.
    """

    heads: np.ndarray
    words: np.ndarray
    tails: np.ndarray
    counts: np.ndarray


class Smoothed(NamedTuple):
    """Estimates for the n-grams of one order.

    Attributes:
        probs: Probability of the last word (G,), that of the order below mixed in; 0 for the start of a sentence.
        backoffs: Factors (G,) for probabilities of the order below where a word was not seen after the n-gram.
        discounts: Amounts that were taken off counts of 1, 2, and 3 and more.
    """

    probs: np.ndarray
    backoffs: np.ndarray
    discounts: tuple[float, ...]


def vocabulary_of(tokens: Iterable[str], end: str) -> list[str]:
    """List the words of an n-gram over a token list: `<unk>`, `<s>`, `</s>`, then the others once each.

    Args:
        tokens: Names of the tokens.
        end: Name of the token that ends a text, which is `</s>` here.
    """
    return list(dict.fromkeys([UNKNOWN, START, END, *(END if token == end else token for token in tokens)]))


def count_ngrams(sentences: Iterable[Sequence[str]], vocabulary: Sequence[str], order: int) -> list[Ngrams]:
    """Count n-grams of 1 to `order` words.

    Args:
        sentences: Sentences of words of the vocabulary, without starts and ends.
        vocabulary: List that `vocabulary_of` makes.
        order: Words of the longest n-grams, 2 or more.

    Returns:
        N-grams by order; the single words are the whole vocabulary.
    """
    index_of = {word: index for index, word in enumerate(vocabulary)}
    start, end, num_words = index_of[START], index_of[END], len(vocabulary)
    indices = (index for words in sentences for index in (start, *(index_of[word] for word in words), end))
    text = np.fromiter(indices, dtype=np.int64)
    places = np.arange(len(text))
    # Number of words of the same sentence before each (T,).
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


def smooth(orders: Sequence[Ngrams], start: int) -> list[Smoothed]:
    """Estimate probabilities and backoffs, by order.

    Args:
        orders: N-grams that `count_ngrams` gives.
        start: Index of the word that starts a sentence.
    """
    num_words = len(orders[0].words)
    # The order below single words: all words but the start of a sentence are equally probable.
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
    """Estimate the discounts of adjusted counts (G,) of 1, 2, and 3 and more; FALLBACK where they say nothing."""
    one, two, three, four = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if not (one and two and three):
        return FALLBACK
    scale = one / (one + 2 * two)
    found = 1 - 2 * scale * two / one, 2 - 3 * scale * three / two, 3 - 4 * scale * four / three
    # A discount of 0 would leave nothing for what was not seen.
    is_sound = all(0 < discount <= count for count, discount in enumerate(found, 1))
    return found if is_sound else FALLBACK


def write_arpa(path: Path, vocabulary: Sequence[str], orders: Sequence[Ngrams], smoothed: Sequence[Smoothed]) -> None:
    """Write an ARPA file: logarithms, to base 10, of the probability and backoff of each n-gram."""
    with path.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {length}={len(ngrams.words)}\n" for length, ngrams in enumerate(orders, 1))
        words = np.array(vocabulary, dtype=object)
        heads = words[:0]
        for length, (ngrams, estimate) in enumerate(zip(orders, smoothed, strict=True), 1):
            file.write(f"\n\\{length}-grams:\n")
            last = words[ngrams.words]
            names = last if length == 1 else heads[ngrams.heads] + " " + last
            file.writelines(_lines(names, estimate, has_backoffs=length < len(orders)))
            heads = names
        file.write("\n\\end\\\n")


def add_words(source: Path, target: Path, vocabulary: Sequence[str]) -> int:
    """Copy an ARPA file with all words of a vocabulary: new ones and `<unk>` share the probability of `<unk>`.

    Args:
        source: File of `lmplz`, whose single words are those of its text.
        target: The copy.
        vocabulary: Words that the copy must have.

    Returns:
        Number of words that were added.
    """
    with source.open(encoding="utf-8") as file:
        missing = dict.fromkeys(vocabulary)
        for line in _single_words(file):
            missing.pop(line.split("\t")[1].rstrip("\n"), None)
    part = math.log10(len(missing) + 1)
    in_words = False
    with source.open(encoding="utf-8") as file, target.open("w", encoding="utf-8") as copy:
        for line in file:
            prob, _, rest = line.partition("\t")
            if line.startswith("ngram 1="):
                copy.write(f"ngram 1={int(line.partition('=')[2]) + len(missing)}\n")
            elif in_words and rest.split("\t")[0].rstrip("\n") == UNKNOWN:
                each = f"{float(prob) - part:.7g}"
                copy.writelines(f"{each}\t{word}\t0\n" for word in missing)
                copy.write(f"{each}\t{rest}")
            else:
                copy.write(line)
            in_words = line.startswith("\\1-grams:") or (in_words and not line.startswith("\\"))
    return len(missing)


def _lines(names: np.ndarray, estimate: Smoothed, has_backoffs: bool) -> Iterator[str]:
    """Yield the lines of n-grams (G,)."""
    with np.errstate(divide="ignore"):
        probs = np.maximum(np.log10(estimate.probs), NEVER)
        backoffs = np.log10(estimate.backoffs)
    for start in range(0, len(names), CHUNK):
        part = slice(start, start + CHUNK)
        rows = zip(names[part], probs[part].tolist(), backoffs[part].tolist(), strict=True)
        for name, prob, backoff in rows:
            yield f"{prob:.7g}\t{name}\t{backoff:.7g}\n" if has_backoffs else f"{prob:.7g}\t{name}\n"


def _single_words(lines: Iterator[str]) -> Iterator[str]:
    is_there = False
    for line in lines:
        if line.startswith("\\"):
            if is_there:
                return
            is_there = line.startswith("\\1-grams:")
        elif is_there and "\t" in line:
            yield line
