"""How a text in the LM's tokens is spelled in those of a CTC head that has its own."""

from collections.abc import Callable, Sequence
from typing import Any

# What a tokenizer of bytes gives for a character whose bytes are not all there yet.
INCOMPLETE = "\ufffd"


class Spelling:
    """A `search.ctc_adviser.Spell`.

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

    def __call__(self, token_ids: Sequence[int], is_complete: bool) -> list[int]:
        """The CTC head's tokens that a text begins with for sure, whatever follows; all of them if nothing does."""
        text = " ".join(self.tokenizer.decode(list(token_ids), skip_special_tokens=True).split())
        if not is_complete:
            text = text.rstrip(INCOMPLETE).rstrip()
            if self.is_by_words:
                text = text.rpartition(" ")[0]
        return self.to_ids(text) if text else []
