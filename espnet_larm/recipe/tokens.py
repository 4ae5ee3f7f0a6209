"""Token lists: characters, or pieces of a sentencepiece model.

ESPnet's order: `<blank>` first (CTC hard-wires it to 0), `<unk>`, the tokens, `<sos/eos>` last.
"""

import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

BLANK, UNKNOWN, SOS_EOS, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
BPE_MODES = ("unigram", "bpe")
MAX_SENTENCES = 100_000_000


def token_list(tokens: Iterable[str]) -> list[str]:
    """Put the special tokens around the others.

    Raises:
        ValueError: A special token is among them.
    """
    listed = list(tokens)
    if clash := {BLANK, UNKNOWN, SOS_EOS} & set(listed):
        raise ValueError(f"{', '.join(sorted(clash))} stands in the text as a token; remove it from the text.")
    return [BLANK, UNKNOWN, *listed, SOS_EOS]


def character_tokens(texts: Iterable[str], non_linguistic: Iterable[str] = ()) -> list[str]:
    """The characters of the texts, the most frequent first; a space is `<space>`.

    Args:
        texts: Transcripts.
        non_linguistic: Symbols that stay whole, such as `<noise>`; listed first.

    Raises:
        ValueError: There is no text.
    """
    symbols = list(non_linguistic)
    counts: Counter[str] = Counter()
    for text in texts:
        plain = functools.reduce(lambda rest, symbol: rest.replace(symbol, ""), symbols, text)
        counts.update(SPACE if character == " " else character for character in plain)
    if not counts:
        raise ValueError("the training text has no characters; a token list needs text (stage 4 writes it).")
    by_frequency = sorted(counts, key=lambda token: (-counts[token], token))
    return token_list([*symbols, *by_frequency])


def train_bpe(
    texts_path: Path,
    model_prefix: Path,
    num_pieces: int,
    mode: str,
    coverage: float = 1.0,
    max_sentences: int = MAX_SENTENCES,
    symbols: Iterable[str] = (),
) -> list[str]:
    """Train a sentencepiece model.

    Args:
        texts_path: A transcript a line.
        model_prefix: Written as `<prefix>.model` and `<prefix>.vocab`.
        num_pieces: Size of its vocabulary, <unk>, <s> and </s> included.
        mode: `unigram` or `bpe`.
        coverage: Share of the characters that get a piece; 1 is right for alphabets.
        max_sentences: Transcripts that the model is trained from; of more, so many are drawn.
        symbols: Strings such as `<noise>` that get a piece each and are never cut.

    Returns:
        The token list of its pieces.

    Raises:
        ValueError: The mode is unknown, or the text is too small for so many pieces.
    """
    import sentencepiece

    if mode not in BPE_MODES:
        raise ValueError(f"--bpemode {mode} is not known; allowed: {', '.join(BPE_MODES)}.")
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=str(texts_path),
            model_prefix=str(model_prefix),
            vocab_size=num_pieces,
            model_type=mode,
            character_coverage=coverage,
            input_sentence_size=max_sentences,
            user_defined_symbols=list(symbols),
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"--nbpe {num_pieces} does not fit the training text: {error}") from error
    return bpe_tokens(model_prefix.with_name(model_prefix.name + ".model"))


def bpe_tokens(model_path: Path) -> list[str]:
    """The token list of a sentencepiece model, its control pieces left out."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    pieces = range(model.get_piece_size())
    return token_list(model.id_to_piece(i) for i in pieces if not (model.is_unknown(i) or model.is_control(i)))
