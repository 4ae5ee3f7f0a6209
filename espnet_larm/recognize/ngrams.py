"""The n-gram of a search: whether a file is one over the model's tokens, and its weight."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.search.kenlm_ngram import KenlmNgram

# Of the model's tokens; an n-gram of a small text, made by other programs, lacks some.
LEAST_KNOWN = 0.5
REMEDY = "train one over this model's tokens: stage 9 (--use_ngram true), or python -m espnet_larm train-ngram"


class Fused(NamedTuple):
    """An n-gram whose score is added.

    Attributes:
        name: Name of its file.
        weight: Weight of its logarithms to base 10, 0 or more; 0 leaves it out.
        ngram: The n-gram.
    """

    name: str
    weight: float
    ngram: KenlmNgram


def load_ngram(path: Path, weight: float, tokens: Sequence[str], eos: int, special: Collection[int]) -> Fused:
    """Read a file, and compare its words with a model's tokens.

    Args:
        path: A file of ARPA's format, or kenlm's binary one.
        weight: Weight of the n-gram's logarithms to base 10, as ESPnet has it.
        tokens: The model's tokens.
        eos: The token that ends a hypothesis.
        special: Tokens that stand in no hypothesis.

    Raises:
        ValueError: The file is no n-gram, or of another vocabulary or case.
        FileNotFoundError: It is not there.
        ImportError: kenlm is not installed.
    """
    ngram = KenlmNgram(path, tokens, eos)
    check_vocabulary(ngram, path, [token for index, token in enumerate(tokens) if index not in special])
    return Fused(path.name, weight, ngram)


def check_vocabulary(ngram: KenlmNgram, path: Path, tokens: Sequence[str]) -> None:
    """Refuse an n-gram that knows too few of a model's tokens.

    Raises:
        ValueError: With how many it knows, and whether it knows them in the other case.
    """
    num_known = sum(ngram.knows(tokens))
    if num_known >= LEAST_KNOWN * len(tokens):
        return
    head = f"ngram_file {path} knows {num_known} of the model's {len(tokens)} tokens"
    swapped = sum(map(any, zip(ngram.knows(tokens), ngram.knows(map(str.swapcase, tokens)), strict=True)))
    if swapped >= LEAST_KNOWN * len(tokens):
        raise ValueError(
            f"{head}, and {swapped} if capitals and small letters are exchanged: its text is of the other case. "
            f"Convert the text, and {REMEDY}."
        )
    raise ValueError(f"{head}: it is of other tokens, words perhaps. Instead, {REMEDY}.")
