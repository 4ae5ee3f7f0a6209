r"""Leaves lines out of a text for LMs that test sets share: an LM that has read a test set's book knows its answers.

A line that shares --ngram words in a row with a test set goes. Where --book_hits different ones lie within --book_lines
lines, the text holds a book of the test set: all of these lines go, and as many before and behind them. Prints how much
of each test set the text held before and holds now, by n-grams of several lengths.

Examples:
    espnet-larm remove-overlap --text novels.txt.gz --held_out_text dump/raw/other/text dump/raw/cv/text \
        --outpath exp/novels_without_tests.txt.gz
"""

import argparse
import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from espnet_larm.options import Option, number
from espnet_larm.recipe.text_lm.options import HelpWithDefaults

COUNT = Option("a number", least=1)
SHOWN = (4, 6, 8)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="a sentence a line, plain or .gz")
    held_out_help = "transcripts of test sets; in files called `text`, the first word is an id"
    parser.add_argument("--held_out_text", type=Path, nargs="+", required=True, help=held_out_help)
    parser.add_argument("--ngram", type=number(int, COUNT), default=6, help="words in a row that a line may not share")
    parser.add_argument("--book_hits", type=number(int, COUNT), default=3, help="different ones that make a book")
    parser.add_argument("--book_lines", type=number(int, COUNT), default=5000, help="lines among which they lie")
    parser.add_argument("--outpath", type=Path, required=True, help="file to write, plain or .gz")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the text that is left, and print the overlap."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.data.text import read_sentences
    from espnet_larm.files.atomic import check_no_folder, write_beside

    check_no_folder(args.outpath)
    # Case makes no difference: the novels are in capitals, transcripts perhaps not.
    tests = {path: [line.lower().split() for line in read_sentences([path])] for path in args.held_out_text}
    lines = read_sentences(args.text)
    hits = _hits_of(lines, [words for test in tests.values() for words in test], args.ngram)
    left_out = _lines_to_leave_out(hits, len(lines), args.book_hits, args.book_lines)
    kept = [line for place, line in enumerate(lines) if place not in left_out]
    if not kept:
        raise ValueError("--text shares all of its lines with --held_out_text; take another text.")
    num_books = len(left_out) - len(hits.keys() & left_out)
    print(f"{len(lines)} lines: {len(hits)} share {args.ngram} words in a row, {num_books} more are of a test's book")
    header = "".join(f" | {size} words, before | after" for size in SHOWN)
    print(f"| test set{header} |\n|{' --- |' * (1 + 2 * len(SHOWN))}")
    for path, test in tests.items():
        cells = (
            f"{100 * share:.2f} %" for size in SHOWN for share in (shared(test, lines, size), shared(test, kept, size))
        )
        print(f"| {path} | {' | '.join(cells)} |")
    content = "".join(f"{line}\n" for line in kept).encode()
    with write_beside(args.outpath) as part:
        part.write_bytes(gzip.compress(content) if args.outpath.suffix == ".gz" else content)
    print(f"{len(kept)} lines -> {args.outpath}")
    return 0


def ngrams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Words in a row."""
    return zip(*(words[start:] for start in range(size)), strict=False)


def _hits_of(lines: Sequence[str], tests: Iterable[Sequence[str]], size: int) -> dict[int, set[tuple[str, ...]]]:
    """By the number of a line, n-grams that it shares with a test; lines without are left out."""
    wanted = {each for words in tests for each in ngrams(words, size)}
    found = {}
    for place, line in enumerate(lines):
        if shared := wanted.intersection(ngrams(line.lower().split(), size)):
            found[place] = shared
    return found


def _lines_to_leave_out(
    hits: Mapping[int, set[tuple[str, ...]]], num_lines: int, book_hits: int, book_lines: int
) -> set[int]:
    """Numbers of the lines that go: those with hits, and stretches around many."""
    places = sorted(hits)
    left_out = set(places)
    for start, first in enumerate(places):
        within = [place for place in places[start:] if place < first + book_lines]
        if len(set().union(*(hits[place] for place in within))) >= book_hits and len(within) > 1:
            left_out.update(range(max(0, first - book_lines), min(num_lines, within[-1] + book_lines + 1)))
    return left_out


def shared(test: Sequence[Sequence[str]], lines: Iterable[str], size: int) -> float:
    """The fraction of a test's n-grams that lines hold; 0 for a test without any."""
    wanted = {each for words in test for each in ngrams(words, size)}
    found: set[tuple[str, ...]] = set()
    for line in lines:
        found.update(wanted.intersection(ngrams(line.lower().split(), size)))
    return len(found) / len(wanted) if wanted else 0.0
