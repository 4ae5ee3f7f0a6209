"""Sentences as lines of tokens, and whether they are spelled as the tokens are: in capitals, or not."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# Largest numbers of sentences that are tried in the other case, and of letters that are counted.
NUM_TRIED, NUM_LETTERS = 1000, 100_000
# Transcripts are of one case if this fraction of their letters is.
OF_ONE_CASE = 0.95

# Function from a sentence to its tokens; None if one of its characters has none.
Spell = Callable[[str], list[str] | None]


class Written(NamedTuple):
    """Contents of a file of tokens.

    Attributes:
        num_sentences: Number of sentences that were written, one a line.
        num_tokens: Number of their tokens, without starts and ends.
        num_left_out: Number of sentences that the tokens cannot spell, or that have none.
    """

    num_sentences: int
    num_tokens: int
    num_left_out: int

    def __str__(self) -> str:
        """Line for the log."""
        left_out = f", {self.num_left_out} left out that the tokens cannot spell" if self.num_left_out else ""
        return f"{self.num_sentences} sentences, {self.num_tokens} tokens{left_out}"


def write_tokens(sentences: Iterable[str], spell: Spell, path: Path, name: str) -> Written:
    """Write sentences, one a line, with a space between tokens.

    Args:
        sentences: Sentences with one space between words.
        spell: Function from a sentence to its tokens.
        path: File to write.
        name: Option that names the sentences.

    Raises:
        ValueError: The tokens cannot spell most sentences; the message says so if the case is the reason.
    """
    left_out: list[str] = []
    num_sentences = num_tokens = num_left_out = 0
    with path.open("w", encoding="utf-8") as file:
        for sentence in sentences:
            tokens = spell(sentence)
            if not tokens:
                num_left_out += 1
                left_out += [sentence] if num_left_out <= NUM_TRIED else []
                continue
            num_sentences, num_tokens = num_sentences + 1, num_tokens + len(tokens)
            file.write(" ".join(tokens) + "\n")
    written = Written(num_sentences, num_tokens, num_left_out)
    if num_left_out <= num_sentences:
        return written
    total = num_left_out + num_sentences
    head = f"{name}: the tokens cannot spell {num_left_out} of {total} sentences, {left_out[0]!r} for example"
    for case in (str.upper, str.lower):
        if 2 * sum(spell(case(sentence)) is not None for sentence in left_out) > len(left_out):
            raise ValueError(
                f"{head}, but they can in {_name_of(case is str.upper)}: convert the text "
                f"({_command(case is str.upper)})."
            )
    raise ValueError(f"{head}; name text in the characters of the token list, or clean it.")


def read_tokens(path: Path) -> Iterable[list[str]]:
    """Read what `write_tokens` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n").split(" ")


def check_case(sentences: Sequence[str], transcripts: Sequence[str], name: str) -> None:
    """Refuse text in small letters for transcripts in capitals, and the reverse: tokens may have both.

    Args:
        sentences: Text of the n-gram.
        transcripts: Transcripts of the speech that it shall help to recognise.
        name: Option that names the sentences.

    Raises:
        ValueError: Where transcripts are of one case, most of the text is of the other.
    """
    wanted, found = _fraction_of_capitals(transcripts), _fraction_of_capitals(sentences)
    if wanted is None or found is None:
        return
    for is_upper, fraction, other in ((True, wanted, found), (False, 1 - wanted, 1 - found)):
        if fraction >= OF_ONE_CASE and other < 0.5:
            raise ValueError(
                f"{name} is in {_name_of(not is_upper)} ({other:.0%} of its letters are not), but the transcripts of "
                f"--dev_text are in {_name_of(is_upper)}: convert the text ({_command(is_upper)})."
            )


def _fraction_of_capitals(sentences: Sequence[str]) -> float | None:
    """Fraction of capitals among letters that have two cases; None if there are none."""
    letters = (each for sentence in sentences for each in sentence if each.lower() != each.upper())
    first = list(itertools.islice(letters, NUM_LETTERS))
    return sum(each == each.upper() for each in first) / len(first) if first else None


def _name_of(is_upper: bool) -> str:
    return "capitals" if is_upper else "small letters"


def _command(is_upper: bool) -> str:
    return f"{'tr a-z A-Z' if is_upper else 'tr A-Z a-z'}, if it is ASCII"
