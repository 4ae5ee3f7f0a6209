"""Splits text into the tokens that a model was trained on, for token error rates.

ESPnet's tokenizers do the same; importing them takes 10 s.
"""

from collections.abc import Callable
from pathlib import Path

from espnet_larm.scoring.alignment import split_characters, split_words


def token_splitter(token_type: str, bpemodel: str | None) -> Callable[[str], list[str]]:
    """Text to tokens.

    Args:
        token_type: `char`, `bpe` or `word`.
        bpemodel: Path of the sentencepiece model, for `bpe`.

    Raises:
        ValueError: The type is not known here, or has no model.
        FileNotFoundError: The model is not there.
    """
    plain = {"char": split_characters, "word": split_words}
    if token_type in plain:
        return plain[token_type]
    if token_type != "bpe":  # noqa: S105
        raise ValueError(f"token_type is {token_type}; allowed for token error rates: char, bpe, word.")
    if bpemodel is None:
        raise ValueError("token_type bpe needs a sentencepiece model; give it as --bpemodel.")
    if not Path(bpemodel).is_file():
        raise FileNotFoundError(f"bpemodel {bpemodel} is missing; run stage tokens, or name it with --bpemodel.")
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=bpemodel).encode_as_pieces
