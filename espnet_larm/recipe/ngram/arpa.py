"""ARPA files: n-grams with the logarithms, to base 10, of probability and backoff."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from espnet_larm.recipe.ngram.counting import UNKNOWN, Ngrams
from espnet_larm.recipe.ngram.kneser_ney import Smoothed

# What stands for a probability of 0.
NEVER = -99.0
CHUNK = 1 << 16


def write_arpa(path: Path, vocabulary: Sequence[str], orders: Sequence[Ngrams], smoothed: Sequence[Smoothed]) -> None:
    """Write a file; n-grams as `count_ngrams` and `smooth` give them."""
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
    """Copy a file, with all words of the vocabulary: those that it lacks and `<unk>` share the probability of `<unk>`.

    Args:
        source: Of `lmplz`, whose single words are those of its text.
        target: The copy.
        vocabulary: Words.

    Returns:
        How many were added.
    """
    with source.open(encoding="utf-8") as file:
        missing = dict.fromkeys(vocabulary)
        for line in _single_words(file):
            missing.pop(line.split("\t")[1].rstrip("\n"), None)
    share = math.log10(len(missing) + 1)
    in_words = False
    with source.open(encoding="utf-8") as file, target.open("w", encoding="utf-8") as copy:
        for line in file:
            prob, _, rest = line.partition("\t")
            if line.startswith("ngram 1="):
                copy.write(f"ngram 1={int(line.partition('=')[2]) + len(missing)}\n")
            elif in_words and rest.split("\t")[0].rstrip("\n") == UNKNOWN:
                each = f"{float(prob) - share:.7g}"
                copy.writelines(f"{each}\t{word}\t0\n" for word in missing)
                copy.write(f"{each}\t{rest}")
            else:
                copy.write(line)
            in_words = line.startswith("\\1-grams:") or (in_words and not line.startswith("\\"))
    return len(missing)


def _lines(names: np.ndarray, estimate: Smoothed, has_backoffs: bool) -> Iterator[str]:
    """Of n-grams (G,)."""
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
