"""Text for a language model: files of one sentence a line, packed or not, or Kaldi's with ids."""

import gzip
import hashlib
import itertools
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

# Name of Kaldi's file, whose lines begin with the id of an utterance.
KALDI_NAME = "text"
# Overrides, embeddings and isolates of the direction of writing (U+202A to U+202E, U+2066 to U+2069).
DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def is_control(letter: str) -> bool:
    """Whether a terminal would obey a letter: control characters and directions; joiners are ordinary text."""
    return unicodedata.category(letter) == "Cc" or unicodedata.bidirectional(letter) in DIRECTIONS


def on_one_line(text: str) -> str:
    """A text with one space between words and without controls, which an LM's tokens may hold."""
    return " ".join("".join(letter for letter in text if letter.isspace() or not is_control(letter)).split())


def visible(token: str) -> str:
    """A token with its controls written out, so that it stands on a line."""
    if token.isprintable():
        return token
    return "".join(repr(letter)[1:-1] if is_control(letter) else letter for letter in token)


def read_sentences(paths: Sequence[Path], max_lines: int | None = None) -> list[str]:
    """Read the lines of all files, with one space between words; lines without words are left out.

    Args:
        paths: Files, plain or `.gz`. In a file called `text`, the first word of each line is an id and not read.
        max_lines: Number of first lines with words that are read of each file; all by default.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file has no words, is damaged or not UTF-8.
    """
    sentences: list[str] = []
    for path in paths:
        if not path.is_file():
            what = "is no regular file" if path.exists() else "is missing"
            raise FileNotFoundError(f"{path} {what}; name a file of one sentence a line, plain or .gz.")
        before = len(sentences)
        try:
            sentences.extend(itertools.islice(_sentences_of(path), max_lines))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not in UTF-8 ({error.reason}); convert it (iconv -t utf-8).") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is no whole gzip file; copy it again.") from error
        if len(sentences) == before:
            raise ValueError(f"{path} has no words; expected one sentence a line.")
    return sentences


def read_symbols(path: Path | None) -> tuple[str, ...]:
    """Read symbols that are no speech, such as `<noise>`; none without a file.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if path is None:
        return ()
    if not path.is_file():
        raise FileNotFoundError(f"--nlsyms {path} is missing; name a file of symbols, one a line.")
    return tuple(path.read_text(encoding="utf-8").split())


def fingerprint(path: Path) -> dict[str, str | int]:
    """Name, bytes and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _sentences_of(path: Path) -> Iterator[str]:
    num_ids = 1 if path.name == KALDI_NAME else 0
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            if words := line.split()[num_ids:]:
                yield " ".join(words)
