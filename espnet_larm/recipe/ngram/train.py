r"""Stage 9: an n-gram over a model's tokens or over words, for beam searches (`--ngram_file` of decoding), in ARPA.

An LM's search reads one over the LM's tokens, CTC's prefix beam one over words (--token_type word), whose vocabulary is
the words that stand in the text at least --min_count times; all others are `<unk>`.

Interpolated modified Kneser-Ney: by KenLM's `lmplz` where it is on PATH, which sorts on disk; otherwise in numpy, by
the same formulas, with all n-grams in memory: 400 bytes a token for 4-grams (4 million tokens take 24 s and 1.8 GB).
Each token of the list gets a probability. Nothing is pruned. kenlm's Python package, which reads the file, cannot make
binaries of it; KenLM's `build_binary` can, and decoding takes those too. Prints how many n-grams there are, and the
perplexity per token of the development text, where ends of sentences are tokens.

Examples:
    espnet-larm train-ngram --text novels.txt.gz data/train/text --dev_text data/dev/text \
        --token_type char --token_list data/token_list/char/tokens.txt --ngram_num 4 --outpath exp/ngram_char/4gram.arpa
    espnet-larm train-ngram --text novels.txt.gz --dev_text data/dev/text \
        --token_type word --min_count 2 --ngram_num 3 --outpath exp/ngram_word/3gram.arpa
"""

import argparse
import itertools
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from espnet_larm.data.text import read_sentences
from espnet_larm.files.atomic import check_no_folder, folder_beside, move_synced
from espnet_larm.files.locks import locked
from espnet_larm.recipe.make_tokens import SOS_EOS, UNKNOWN
from espnet_larm.recipe.ngram.tokenizing import Spell, check_case, read_tokens, write_tokens
from espnet_larm.recipe.text_lm.options import HelpWithDefaults

AUTO, LMPLZ, NUMPY = "auto", "lmplz", "numpy"
WORD = "word"
# Orders that kenlm reads, as pip builds it.
LEAST_ORDER, MOST_ORDER = 2, 6

# ESPnet's, which refuses others at the first sentence.
CLEANERS = ("none", "tacotron", "jaconv", "vietnamese", "whisper_en", "whisper_basic")


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    text_help = "plain or .gz, a sentence a line; in files called `text`, Kaldi's, the first word is an id and not read"
    parser.add_argument("--text", type=Path, nargs="+", required=True, help=text_help)
    dev_help = "text, read alike, whose perplexity is measured, and whose case --text must have"
    parser.add_argument("--dev_text", type=Path, nargs="*", default=[], help=dev_help)
    list_help = "the model's tokens, as stage 5 makes them; not for words"
    parser.add_argument("--token_list", type=Path, help=list_help)
    types = ("char", "bpe", "hugging_face", WORD)
    type_help = "characters, sentencepiece's pieces, the tokens of an LM, or words"
    parser.add_argument("--token_type", choices=types, required=True, help=type_help)
    count_help = "word: how often a word must stand in the text to be known"
    parser.add_argument("--min_count", type=int, default=1, help=count_help)
    parser.add_argument("--bpemodel", help="bpe: its sentencepiece model; hugging_face: folder or hub id of the LM")
    revision_help = "hugging_face: revision of the LM on the hub; the newest by default"
    parser.add_argument("--revision", help=revision_help)
    parser.add_argument("--nlsyms", type=Path, help="char and bpe: file of symbols that stay whole, one a line")
    parser.add_argument("--cleaner", choices=CLEANERS, help="ESPnet's text cleaner, the one of the training")
    order_help = f"words of the longest n-grams, {LEAST_ORDER} to {MOST_ORDER}"
    parser.add_argument("--ngram_num", type=int, default=4, help=order_help)
    estimator_help = "program that estimates; auto takes lmplz if it is on PATH"
    parser.add_argument("--estimator", choices=(AUTO, LMPLZ, NUMPY), default=AUTO, help=estimator_help)
    parser.add_argument("--outpath", type=Path, required=True, help="ARPA file to write")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Train the n-gram and measure it."""
    args = get_parser().parse_args(cmd)
    with locked(args.outpath.parent):
        return _train(args)


def _train(args: argparse.Namespace) -> int:
    if not LEAST_ORDER <= args.ngram_num <= MOST_ORDER:
        raise ValueError(f"--ngram_num {args.ngram_num}; allowed: {LEAST_ORDER} to {MOST_ORDER}.")
    check_no_folder(args.outpath)
    _check_words(args)
    estimate = _estimator_of(NUMPY if args.min_count > 1 else args.estimator)
    # Imports numpy.
    from espnet_larm.search.kenlm_ngram import KenlmNgram, import_kenlm

    # Checked before the work, since nothing reads its result without kenlm.
    import_kenlm()
    sentences, dev_sentences = read_sentences(args.text), read_sentences(args.dev_text)
    tokens, eos, spell = _words_of(args, sentences) if args.token_type == WORD else _tokens_of(args)
    check_case(sentences, dev_sentences, "--text")
    args.outpath.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(args.outpath) as part:
        print(f"text: {write_tokens(sentences, spell, part / 'train', '--text')}")
        estimate(part / "train", part / "arpa", tokens, tokens[eos], args.ngram_num)
        ngram = KenlmNgram(part / "arpa", tokens, eos)
        print(f"{args.outpath}: {_counts_of(part / 'arpa')}")
        if args.dev_text:
            written = write_tokens(dev_sentences, spell, part / "dev", "--dev_text")
            perplexity, number = ngram.perplexity(read_tokens(part / "dev"))
            print(f"development text: {written}\nperplexity: {perplexity:.3f} per token, of {number} with ends")
        move_synced(part / "arpa", args.outpath)
    return 0


def _check_words(args: argparse.Namespace) -> None:
    """Refuse options that do not go with a token type."""
    if args.min_count < 1:
        raise ValueError(f"--min_count {args.min_count}; allowed: 1 or more.")
    if args.nlsyms is not None and not args.nlsyms.is_file():
        # ESPnet warns, and takes the name for a symbol.
        raise FileNotFoundError(f"--nlsyms {args.nlsyms} is not there.")
    if args.token_type != WORD:
        if args.token_list is None:
            raise ValueError(f"--token_type {args.token_type} needs --token_list, which stage 5 makes.")
        if args.min_count > 1:
            raise ValueError(f"--min_count {args.min_count} is for --token_type {WORD}; leave it out.")
        return
    for name in ("token_list", "bpemodel", "revision", "nlsyms"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name} does not go with --token_type {WORD}, whose words are the text's; leave it out."
            )
    if args.min_count > 1 and args.estimator == LMPLZ:
        raise ValueError(f"--min_count {args.min_count} makes words <unk>, which lmplz refuses; allowed: numpy.")


def _words_of(args: argparse.Namespace, sentences: Sequence[str]) -> tuple[list[str], int, Spell]:
    """Take the vocabulary from the text; return it, the index of its end of texts, and a function that splits."""
    from espnet2.text.cleaner import TextCleaner

    from espnet_larm.recipe.ngram.kneser_ney import END, START

    clean = TextCleaner(None if args.cleaner in (None, "none") else args.cleaner)
    counts = Counter(word for sentence in sentences for word in clean(sentence).split())
    known = {word for word, count in counts.items() if count >= args.min_count} - {START, END, UNKNOWN}
    num_unknown = sum(count for word, count in counts.items() if word not in known)
    print(f"words: {len(known)} known; {num_unknown} of {counts.total()} in the text are not")

    def spell(sentence: str) -> list[str] | None:
        return [word if word in known else UNKNOWN for word in clean(sentence).split()]

    return [*sorted(known), END], len(known), spell


def _tokens_of(args: argparse.Namespace) -> tuple[list[str], int, Spell]:
    """Read the token list; return it, the index of its end of texts, and a function that spells a sentence in it."""
    from espnet2.text.cleaner import TextCleaner

    if not args.token_list.is_file():
        raise FileNotFoundError(f"--token_list {args.token_list} is missing; stage 5 makes it.")
    # Not by splitlines, which ends lines at characters that may be tokens.
    tokens = args.token_list.read_text(encoding="utf-8").rstrip("\n").split("\n")
    if tokens == [""]:
        raise ValueError(f"--token_list {args.token_list} is empty; make it again (stage 5).")
    clean = TextCleaner(None if args.cleaner in (None, "none") else args.cleaner)
    if args.token_type != "char" and args.bpemodel is None:  # noqa: S105  # no password
        raise ValueError(f"--token_type {args.token_type} needs --bpemodel; --help says what it is.")
    if args.token_type == "hugging_face":  # noqa: S105  # no password
        eos, ids_of = _hugging_face(args, tokens)
    else:
        if tokens[-1] != SOS_EOS:
            raise ValueError(
                f"--token_list {args.token_list} ends with {tokens[-1]}; expected {SOS_EOS}, as stage 5 has it."
            )
        eos, ids_of = len(tokens) - 1, _espnets(args, tokens)

    def spell(sentence: str) -> list[str] | None:
        ids = ids_of(clean(sentence))
        return None if ids is None else [tokens[index] for index in ids]

    return tokens, eos, spell


def _espnets(args: argparse.Namespace, tokens: list[str]) -> Callable[[str], list[int] | None]:
    """Make a function that spells a text by a tokenizer of ESPnet's."""
    from espnet2.text.build_tokenizer import build_tokenizer

    tokenizer = build_tokenizer(args.token_type, args.bpemodel, non_linguistic_symbols=args.nlsyms)
    ids = {token: index for index, token in enumerate(tokens) if token != UNKNOWN}

    def ids_of(text: str) -> list[int] | None:
        found = [ids.get(token) for token in tokenizer.text2tokens(text)]
        known = [index for index in found if index is not None]
        return known if len(known) == len(found) else None

    return ids_of


def _hugging_face(args: argparse.Namespace, tokens: list[str]) -> tuple[int, Callable[[str], list[int] | None]]:
    """Find the end of texts, and make a function that spells a text by the LM's tokenizer."""
    # transformers takes seconds to import.
    from espnet_larm.llm.backbone import load_tokenizer
    from espnet_larm.llm.tokens import special_tokens

    tokenizer = load_tokenizer(args.bpemodel, args.revision)
    if len(tokens) <= max(tokenizer.get_vocab().values()):
        raise ValueError(
            f"--token_list {args.token_list} has {len(tokens)} tokens, fewer than the tokenizer of --bpemodel "
            f"{args.bpemodel}; name those that belong together."
        )
    special = set(tokenizer.all_special_ids)

    def ids_of(text: str) -> list[int] | None:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return None if special & set(ids) else ids

    return special_tokens(tokenizer).eos, ids_of


def _estimator_of(name: str) -> Callable[[Path, Path, list[str], str, int], None]:
    is_there = shutil.which("lmplz") is not None
    if name == LMPLZ and not is_there:
        raise ValueError("--estimator lmplz: no program lmplz is on PATH (KenLM's); allowed: numpy.")
    return _by_lmplz if is_there and name != NUMPY else _by_numpy


def _by_numpy(text: Path, arpa: Path, tokens: list[str], end: str, order: int) -> None:
    from espnet_larm.recipe.ngram.kneser_ney import START, count_ngrams, smooth, vocabulary_of, write_arpa

    vocabulary = vocabulary_of(tokens, end)
    orders = count_ngrams(read_tokens(text), vocabulary, order)
    smoothed = smooth(orders, vocabulary.index(START))
    write_arpa(arpa, vocabulary, orders, smoothed)
    listed = "; ".join(" ".join(f"{each:.3f}" for each in one.discounts) for one in smoothed)
    print(f"estimated in numpy; discounts of 1, 2, 3 and more: {listed}")


def _by_lmplz(text: Path, arpa: Path, tokens: list[str], end: str, order: int) -> None:
    from espnet_larm.recipe.ngram.kneser_ney import add_words, vocabulary_of

    raw = arpa.with_name("lmplz.arpa")
    command = ["lmplz", "-o", str(order), "--discount_fallback", "-T", str(arpa.parent), "--text", str(text)]
    done = subprocess.run([*command, "--arpa", str(raw)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join(done.stderr.split("\n")[-4:]).strip()
        raise ValueError(f"lmplz ended with status {done.returncode}: {last} (--estimator numpy does without it).")
    num_added = add_words(raw, arpa, vocabulary_of(tokens, end))
    print(f"estimated by {shutil.which('lmplz')}; {num_added} tokens that the text lacks were added")


def _counts_of(arpa: Path) -> str:
    with arpa.open(encoding="utf-8") as file:
        lines: Any = itertools.takewhile(lambda line: not line.startswith("\\1-grams:"), file)
        counts = [line.partition("=")[2].strip() for line in lines if line.startswith("ngram ")]
    return ", ".join(f"{count} {length}-grams" for length, count in enumerate(counts, 1))
