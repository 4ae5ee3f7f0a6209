"""Sentences as one row of tokens, `<s> sentence </s>` one behind the other, cut into blocks.

Shapes: N tokens of a text, L positions of a block.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet_larm.llm.tokens import special_tokens

CHUNK = 4096
# Where more of a text is unknown, its perplexity says nothing: the LM is asked for `<unk>`.
MOST_UNKNOWN = 0.01


class PackedText(NamedTuple):
    """A text in tokens.

    Attributes:
        tokens: (N,), starts and ends of sentences included.
        lens: Tokens of each sentence, its start and end counted.
        num_sentences: Number of sentences of the text.
        num_words: Number of words of the text.
        num_unknown: How many tokens stand for what the tokenizer cannot spell.
    """

    tokens: torch.Tensor
    lens: list[int]
    num_sentences: int
    num_words: int
    num_unknown: int

    def __str__(self) -> str:
        """What stage 6 says of it."""
        return (
            f"{self.num_sentences} sentences, {self.num_words} words, {len(self.tokens)} tokens with starts and ends "
            f"({self.num_unknown} unknown)"
        )


def pack_sentences(tokenizer: Any, sentences: Sequence[str]) -> PackedText:
    """Tokens of a text; where the tokenizer has no token that begins a text, sentences only end.

    Args:
        tokenizer: HF's.
        sentences: One space between words.

    Raises:
        ValueError: A sentence holds a special token, or more than MOST_UNKNOWN of the text is unknown.
    """
    starts = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end, unknown = special_tokens(tokenizer).eos, tokenizer.unk_token_id
    if unknown in (end, *starts):
        # Of bytes, as SmolLM2's: nothing is unknown, and one token begins and ends texts and is named for the rest.
        unknown = None
    special = np.array(sorted({*tokenizer.all_special_ids} - {unknown}))
    parts: list[np.ndarray] = []
    lens: list[int] = []
    num_unknown, first_unknown = 0, None
    for begin in range(0, len(sentences), CHUNK):
        chunk = list(sentences[begin : begin + CHUNK])
        rows = tokenizer(chunk, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        found = np.fromiter(itertools.chain.from_iterable([*starts, *row, end] for row in rows), np.int32)
        if np.isin(found, special).sum() != len(rows) * (len(starts) + 1):
            raise _holds_special(tokenizer, chunk, rows, set(special.tolist()))
        if unknown is not None and (count := int((found == unknown).sum())):
            num_unknown += count
            first_unknown = first_unknown or next(text for text, row in zip(chunk, rows, strict=True) if unknown in row)
        parts.append(found)
        lens.extend(len(starts) + len(row) + 1 for row in rows)
    tokens = torch.from_numpy(np.concatenate(parts))
    if num_unknown > MOST_UNKNOWN * len(tokens):
        raise ValueError(
            f"the tokenizer cannot spell the text: {num_unknown} of {len(tokens)} tokens are unknown, first in "
            f"{first_unknown!r}; change the case or the characters of the text, or take another LM."
        )
    return PackedText(tokens, lens, len(sentences), sum(text.count(" ") + 1 for text in sentences), num_unknown)


def whole_blocks(text: PackedText, block_size: int) -> torch.Tensor:
    """Blocks to train on (n, L); the rest of the text is dropped.

    Raises:
        ValueError: The text is shorter than one block.
    """
    num_blocks = len(text.tokens) // block_size
    if num_blocks == 0:
        raise ValueError(
            f"--text has {len(text.tokens)} tokens, less than one block of --block_size {block_size}; give more text "
            "or take smaller blocks."
        )
    return text.tokens[: num_blocks * block_size].reshape(num_blocks, block_size)


def _holds_special(tokenizer: Any, chunk: list[str], rows: list[list[int]], special: set[int]) -> ValueError:
    sentence, token = next(
        (text, token) for text, row in zip(chunk, rows, strict=True) for token in row if token in special
    )
    return ValueError(
        f"the text holds {tokenizer.convert_ids_to_tokens(token)}, which is a special token of the tokenizer, in "
        f"{sentence!r}; remove it: starts and ends are added to each line."
    )
