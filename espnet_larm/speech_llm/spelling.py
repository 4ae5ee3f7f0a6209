"""How a text in the LM's tokens is spelled in those of a CTC head that has its own, and such tokens in the LM's.

Shapes: V tokens of the CTC head, P tokens of the LM.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.search.ctc_scorer import Spelled

# What ESPnet's tokenizers write for a space: in front of a piece, and among characters.
WORD_START, SPACE = "\u2581", "<space>"
# What a tokenizer of bytes writes for a space.
WORD_START_OF_BYTES = "\u0120"
NO_TEXT = ("<blank>", "<unk>", "<sos/eos>")

# What a tokenizer of bytes gives for a character whose bytes are not all there yet.
INCOMPLETE = "\ufffd"


class Spelling:
    """A `search.ctc_scorer.Spell`.

    Args:
        tokenizer: HF's, of the LM.
        to_ids: A text to the CTC head's tokens.
        is_by_words: Whether a word's tokens are known only when it has ended, as with pieces of words; with characters
            they are known at once.
    """

    def __init__(self, tokenizer: Any, to_ids: Callable[[str], list[int]], is_by_words: bool) -> None:
        self.tokenizer = tokenizer
        self.to_ids = to_ids
        self.is_by_words = is_by_words

    def __call__(self, token_ids: Sequence[int], is_complete: bool) -> Spelled:
        """How a text is spelled that nothing follows, or that may go on."""
        text = " ".join(self.tokenizer.decode(list(token_ids), skip_special_tokens=True).split())
        if is_complete:
            return Spelled(self._ids(text), [])
        text = text.rstrip(INCOMPLETE).rstrip()
        spelled = self._ids(text)
        if not self.is_by_words:
            return Spelled(spelled, [])
        sure = self._ids(text.rpartition(" ")[0])
        # Pieces of a word do not depend on the words around it.
        return Spelled(sure, spelled[len(sure) :])

    def _ids(self, text: str) -> list[int]:
        return self.to_ids(text) if text else []


class Pieces(NamedTuple):
    """The LM's tokens that spell the tokens of a CTC head.

    Attributes:
        ids: The LM's tokens (P,).
        shares: How much of a token of the CTC head each of them has (V, P): equal shares, which sum to one, and none
            for blank, unknown and end.
        none: The LM's token that stands where nothing is said. Behind embeddings of zero the norm of an LM's first
            layer has huge gradients: with Gemma 3 270M 37,000 in the first steps, beside 219 with a space.
    """

    ids: torch.Tensor
    shares: torch.Tensor
    none: int


def pieces_of(tokens: Sequence[str], tokenizer: Any) -> Pieces:
    """How the tokens of a CTC head are spelled in the LM's: a piece of a word is mostly one of the LM's too.

    Args:
        tokens: The CTC head's (V,), characters or pieces of words.
        tokenizer: HF's, of the LM.
    """
    texts = texts_of(tokens)
    spelled = [tokenizer.encode(text, add_special_tokens=False) if text else [] for text in texts]
    ids = sorted({token_id for each in spelled for token_id in each})
    columns = {token_id: column for column, token_id in enumerate(ids)}
    shares = torch.zeros(len(tokens), len(ids))
    for row, each in enumerate(spelled):
        for token_id in each:
            shares[row, columns[token_id]] += 1 / len(each)
    return Pieces(torch.tensor(ids, dtype=torch.long), shares, token_of_none(tokenizer))


def texts_of(tokens: Sequence[str]) -> list[str]:
    """The text of each of a CTC head's tokens, with its spaces; none for blank, unknown and end."""
    return ["" if token in NO_TEXT else token.replace(SPACE, " ").replace(WORD_START, " ") for token in tokens]


def spell_with(tokenizer: Any) -> Callable[[int], str]:
    """The characters of a token, with a space in front where it begins a word; none for a special token.

    Args:
        tokenizer: HF's: of pieces, or of bytes, whose characters are names of theirs.
    """
    special = set(tokenizer.all_special_ids)

    def spell(token: int) -> str:
        if token in special:
            return ""
        # Rows of an LM that its tokenizer does not know have no name.
        piece: str = tokenizer.convert_ids_to_tokens(token) or ""
        return piece.replace(WORD_START, " ").replace(WORD_START_OF_BYTES, " ")

    return spell


def token_of_none(tokenizer: Any) -> int:
    """The token that stands where nothing is said: a space if it is one token, else the end of a text."""
    ids = tokenizer.encode(" ", add_special_tokens=False)
    return int(ids[0] if len(ids) == 1 else tokenizer.eos_token_id)
