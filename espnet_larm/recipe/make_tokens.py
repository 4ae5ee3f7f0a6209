r"""Stage 5: the token list, and for BPE its sentencepiece model, from the training text; or the tokens of an LM.

Examples:
    espnet-larm make-tokens --text dump/raw/train/text --token_type char --output_dir data/token_list/char
    espnet-larm make-tokens --text dump/raw/train/text --token_type hugging_face --llm models/SmolLM2 \
        --output_dir data/token_list/smollm2

Lists are in ESPnet's order: `<blank>` first (CTC hard-wires it to 0), `<unk>`, the tokens, `<sos/eos>` last.
"""

import argparse
import functools
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.data.text import read_symbols
from espnet_larm.files.atomic import folder_beside, move_synced
from espnet_larm.files.locks import locked

BLANK, UNKNOWN, SOS_EOS, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
BPE_MODES = ("unigram", "bpe")
MAX_SENTENCES = 100_000_000


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="`text` files of Kaldi folders")
    type_help = "characters, sentencepiece's pieces, or the tokens of an LM"
    parser.add_argument("--token_type", choices=("char", "bpe", "hugging_face"), required=True, help=type_help)
    parser.add_argument("--output_dir", type=Path, required=True, help="gets tokens.txt, and bpe.model for bpe")
    parser.add_argument("--nbpe", type=int, default=30, help="bpe: number of pieces of the model (30)")
    parser.add_argument("--bpemode", choices=BPE_MODES, default="unigram", help="bpe: kind of model (unigram)")
    cover_help = "bpe: fraction of the characters that get a piece (1)"
    parser.add_argument("--bpe_char_cover", type=float, default=1.0, help=cover_help)
    sentences_help = "bpe: largest number of sentences to train from; of more, so many are drawn"
    parser.add_argument("--bpe_input_sentence_size", type=int, default=MAX_SENTENCES, help=sentences_help)
    nlsyms_help = "bpe: symbols that get a piece each, separated by commas, or a file of them, one a line"
    parser.add_argument("--bpe_nlsyms", help=nlsyms_help)
    parser.add_argument("--nlsyms", type=Path, help="char, bpe: file of symbols that stay whole, one a line")
    parser.add_argument("--llm", help="hugging_face: folder or hub id of the LM, whose tokenizer must spell the text")
    checked_help = "hugging_face: further texts that the tokenizer must spell, such as the development set's"
    parser.add_argument("--check_text", type=Path, nargs="*", default=[], help=checked_help)
    revision_help = "hugging_face: revision of the LM on the hub; the newest by default"
    parser.add_argument("--revision", help=revision_help)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the token list and print its size."""
    args = get_parser().parse_args(cmd)
    with locked(args.output_dir):
        return _make_list(args)


def _make_list(args: argparse.Namespace) -> int:
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with folder_beside(args.output_dir / "tokens.txt") as part:
        tokens = _make(args, part)
        (part / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
        for path in sorted(part.iterdir()):
            move_synced(path, args.output_dir / path.name)
    print(f"{' '.join(map(str, args.text))} -> {args.output_dir}/tokens.txt: {len(tokens)} tokens ({args.token_type})")
    return 0


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
    """List the characters of the texts, the most frequent first; a space is `<space>`.

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
    texts: Iterable[str],
    model_path: Path,
    num_pieces: int,
    mode: str,
    coverage: float = 1.0,
    max_sentences: int = MAX_SENTENCES,
    symbols: Iterable[str] = (),
) -> list[str]:
    """Train a sentencepiece model.

    Args:
        texts: Transcripts.
        model_path: Written.
        num_pieces: Size of its vocabulary, <unk>, <s> and </s> included.
        mode: `unigram` or `bpe`.
        coverage: Fraction of the characters that get a piece; 1 is right for alphabets.
        max_sentences: Largest number of transcripts to train from; of more, so many are drawn.
        symbols: Strings such as `<noise>` that get a piece each and are never cut.

    Returns:
        The token list of its pieces.

    Raises:
        ValueError: The mode is unknown, or the text is too small for so many pieces.
    """
    import sentencepiece

    if mode not in BPE_MODES:
        raise ValueError(f"--bpemode {mode} is not known; allowed: {', '.join(BPE_MODES)}.")
    written = io.BytesIO()
    try:
        # A model that is trained from a file holds its path, and so do packs.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
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
    model_path.write_bytes(written.getvalue())
    return _bpe_tokens(model_path)


def _bpe_tokens(model_path: Path) -> list[str]:
    """List the tokens of a sentencepiece model, without its control pieces."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    pieces = range(model.get_piece_size())
    return token_list(model.id_to_piece(i) for i in pieces if not (model.is_unknown(i) or model.is_control(i)))


def _make(args: argparse.Namespace, part: Path) -> list[str]:
    if args.token_type == "hugging_face":  # noqa: S105  # no password
        return _tokens_of_lm(args)
    texts = [text for path in args.text for text in _read(path)]
    non_linguistic = read_symbols(args.nlsyms)
    if args.token_type == "char":  # noqa: S105  # no password
        return character_tokens(texts, non_linguistic)
    return train_bpe(
        texts,
        part / "bpe.model",
        args.nbpe,
        args.bpemode,
        args.bpe_char_cover,
        args.bpe_input_sentence_size,
        dict.fromkeys([*non_linguistic, *_symbols(args.bpe_nlsyms)]),
    )


def _symbols(named: str | None) -> list[str]:
    """Read symbols from a list separated by commas, or from a file with one at the start of each line."""
    if not named:
        return []
    if Path(named).is_file():
        return [line.split()[0] for line in Path(named).read_text(encoding="utf-8").splitlines() if line.strip()]
    if "/" in named and "," not in named:
        raise FileNotFoundError(f"--bpe_nlsyms {named}: no such file; name one, or symbols separated by commas.")
    return named.split(",")


def _read(path: Path) -> list[str]:
    return [text for text in read_table(path).values() if text]


def _tokens_of_lm(args: argparse.Namespace) -> list[str]:
    # transformers takes seconds to import.
    from espnet_larm.llm.backbone import load_tokenizer, num_rows_of
    from espnet_larm.llm.tokens import special_tokens, token_list_of

    if args.nlsyms is not None:
        raise ValueError(
            "--nlsyms does not go with --token_type hugging_face, whose tokens are the LM's; leave it out."
        )
    if args.llm is None:
        raise ValueError("--token_type hugging_face needs --llm, a folder or hub id.")
    tokenizer = load_tokenizer(args.llm, args.revision)
    special_tokens(tokenizer)
    for path in (*args.text, *args.check_text):
        _check_spelling(tokenizer, path)
    return token_list_of(tokenizer, num_rows_of(args.llm, args.revision))


def _check_spelling(tokenizer: Any, path: Path) -> None:
    from espnet_larm.llm.tokens import check_spelling

    try:
        check_spelling(tokenizer, _read(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
