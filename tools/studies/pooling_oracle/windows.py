"""Windows of words among the speech tokens of an LM, and the tokens that a reduction leaves of each.

A window ends in the middle between two words' frames: CTC marks a token by a peak of a frame or two, so that what lies
between two words is their ends and beginnings at least as much as silence. What is before the first word is in the
window of the first, what is behind the last in that of the last.
Source: the oracle study of Xiang et al., arXiv:2604.06871.
Departure: silence has no window of its own, so that R tokens a word are R tokens a word.
Shapes: T frames of an utterance, S speech tokens, R tokens that are left of a window.
"""

import itertools
import zlib
from collections.abc import Sequence

import torch

MERGE, DROP, RANDOM = METHODS = ("uniform merge", "uniform drop", "random drop")


def word_edges(spans: Sequence[tuple[int, int]]) -> list[int]:
    """First frame of each word's window; the first window begins at 0.

    Args:
        spans: First frame of each word, and the frame behind its last.
    """
    return [0, *((end + start) // 2 for (_, end), (start, _) in itertools.pairwise(spans))]


def window_starts(edges: Sequence[int], num_tokens: int, kind: str, frames: int) -> list[int]:
    """The first token of each window, ascending: a token belongs to the window that its middle frame lies in.

    Args:
        edges: First frames of the windows, ascending from 0.
        num_tokens: Number of speech tokens (S).
        kind: Kind of the projector: a token of `conv` is centred at the first of its frames, others at the middle one.
        frames: Encoder frames a token, 1 or more.

    Returns:
        At most as many as edges: a window that no token's middle lies in has none.
    """
    middle = 0 if kind == "conv" else (frames - 1) // 2
    starts = (max(0, edge - middle + frames - 1) // frames for edge in edges)
    return list(dict.fromkeys(start for start in starts if start < num_tokens))


def windows_of(starts: Sequence[int], num_tokens: int) -> list[range]:
    """Tokens of each window, which lie one behind the other."""
    return [range(*pair) for pair in itertools.pairwise((*starts, num_tokens))]


def parts_of(window: range, num_parts: int) -> list[range]:
    """R parts whose sizes differ by at most one token; a window of fewer than R tokens gives a part a token."""
    num_parts = min(num_parts, len(window))
    edges = (window.start + len(window) * index // num_parts for index in range(num_parts + 1))
    return [range(*pair) for pair in itertools.pairwise(edges)]


def reduction_mask(
    starts: Sequence[int], num_tokens: int, tokens_per_word: int, method: str, seed: int = 0, name: str = ""
) -> torch.Tensor:
    """Mask (S,) that reduces each window to R tokens, for `merge` or `select` of `pooling`.

    Args:
        starts: First tokens of the windows.
        num_tokens: Number of speech tokens (S).
        tokens_per_word: Tokens left of a word (R); a window of no more tokens stays as it is.
        method: MERGE: True where a part of a window begins, of which the mean is left. DROP: True at the middle token
            of each part. RANDOM: True at R tokens of each window, drawn anew of every utterance.
        seed: Seed of RANDOM, 0 or more.
        name: Name of the utterance, for RANDOM: the same tokens are dropped behind all layers, whatever the batch.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + zlib.crc32(name.encode())) % 2**32)
    mask = torch.zeros(num_tokens, dtype=torch.bool)
    for window in windows_of(starts, num_tokens):
        if method == RANDOM:
            chosen = torch.randperm(len(window), generator=generator)[:tokens_per_word] + window.start
            mask[chosen] = True
            continue
        for part in parts_of(window, tokens_per_word):
            mask[part.start if method == MERGE else part[(len(part) - 1) // 2]] = True
    return mask
