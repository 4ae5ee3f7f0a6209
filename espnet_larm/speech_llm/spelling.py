"""How a text in the LM's tokens is spelled in those of a CTC head that has its own."""

from collections.abc import Callable, Sequence
from typing import Any

from espnet_larm.search.ctc_scorer import Spelled

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
