"""Stage 5: the token list, and for BPE its sentencepiece model, from the training text; or the tokens of an LM.

Examples:
    python -m espnet_larm make-tokens --text dump/raw/train/text --token_type char --out_dir data/token_list/char
    python -m espnet_larm make-tokens --text dump/raw/train/text --token_type hugging_face --llm models/SmolLM2 \
        --out_dir data/token_list/smollm2
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recipe.tokens import BPE_MODES, MAX_SENTENCES, character_tokens, train_bpe


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="`text` files of Kaldi folders")
    parser.add_argument("--token_type", choices=("char", "bpe", "hugging_face"), required=True)
    parser.add_argument("--out_dir", type=Path, required=True, help="gets tokens.txt, and bpe.model for bpe")
    parser.add_argument("--nbpe", type=int, default=30, help="bpe: pieces of the model")
    parser.add_argument("--bpemode", choices=BPE_MODES, default="unigram", help="bpe: kind of model")
    parser.add_argument("--bpe_char_cover", type=float, default=1.0, help="bpe: share of characters with a piece")
    sentences_help = "bpe: sentences to train from at most; more are drawn from"
    parser.add_argument("--bpe_input_sentence_size", type=int, default=MAX_SENTENCES, help=sentences_help)
    nlsyms_help = "bpe: symbols that get a piece each, separated by commas, or a file of them, one a line"
    parser.add_argument("--bpe_nlsyms", help=nlsyms_help)
    parser.add_argument("--nlsyms", type=Path, help="char: file of symbols that stay whole, one a line")
    parser.add_argument("--llm", help="hugging_face: folder or hub id of the LM, whose tokenizer must spell the text")
    checked_help = "hugging_face: further texts that the tokenizer must spell, such as the development set's"
    parser.add_argument("--check_text", type=Path, nargs="*", default=[], help=checked_help)
    parser.add_argument("--revision", help="hugging_face: of the LM on the hub; the newest by default")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the token list and print its size."""
    args = get_parser().parse_args(cmd)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out_dir, prefix=".part") as part:
        tokens = _make(args, Path(part))
        (Path(part) / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
        for path in sorted(Path(part).iterdir()):
            path.replace(args.out_dir / path.name)
    print(f"{' '.join(map(str, args.text))} -> {args.out_dir}/tokens.txt: {len(tokens)} tokens ({args.token_type})")
    return 0


def _make(args: argparse.Namespace, part: Path) -> list[str]:
    if args.token_type == "hugging_face":  # noqa: S105  # no password
        return _tokens_of_lm(args)
    texts = [text for path in args.text for text in _read(path)]
    if args.token_type == "char":  # noqa: S105  # no password
        symbols = args.nlsyms.read_text(encoding="utf-8").split() if args.nlsyms else []
        return character_tokens(texts, symbols)
    (part / "train.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return train_bpe(
        part / "train.txt",
        part / "bpe",
        args.nbpe,
        args.bpemode,
        args.bpe_char_cover,
        args.bpe_input_sentence_size,
        _symbols(args.bpe_nlsyms),
    )


def _symbols(named: str | None) -> list[str]:
    """Those of a list separated by commas, or of a file that begins its lines with them."""
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
