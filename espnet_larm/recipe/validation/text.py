"""Checks of ids, transcripts and token lists, character by character."""

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from espnet_larm.recipe.make_tokens import BLANK, SOS_EOS, SPACE, UNKNOWN
from espnet_larm.recipe.validation.report import Finding, Report

# Scripts such as Persian's and Malayalam's write these between letters, where they change the word.
JOINERS = "\u200c\u200d"
# Unicode's categories of control, invisible, private and unassigned characters, of spaces and of ends of lines.
ODD_CATEGORIES = frozenset(("Cc", "Cf", "Co", "Cn", "Zs", "Zl", "Zp"))
REPLACEMENT = "\ufffd"
MARKS = frozenset(("<s>", "</s>", "<pad>", BLANK, UNKNOWN, SOS_EOS, SPACE))

Spell = Callable[[str], str]


class Tokens(NamedTuple):
    """The files that stage 5 writes.

    Attributes:
        token_list: File with a token a line.
        bpe_model: Sentencepiece model; None for characters.
        non_linguistic: Symbols that stay whole.
    """

    token_list: Path
    bpe_model: Path | None = None
    non_linguistic: tuple[str, ...] = ()


def check_id(name: str) -> Iterator[Finding]:
    """Find the first character that an id must not have."""
    if odd := next((each for each in name if _is_odd(each) or each in JOINERS), None):
        yield Finding("odd-character", f"the id {name!r} holds {describe(odd)}")


def check_transcript(key: str, text: str) -> Iterator[Finding]:
    """Find what is wrong with one transcript, whatever the tokens are."""
    if not text:
        yield Finding("empty-text", f"{key} has no text")
        return
    if "  " in text or "\t" in text:
        yield Finding("odd-spacing", f"{key}: two spaces or a tab stand between words")
    words = text.split()
    if key in {words[0], words[-1].strip("()")}:
        yield Finding("mark-in-text", f"{key}: the id stands in the text again")
    elif "<" in text and (marks := sorted(MARKS.intersection(words))):
        yield Finding("mark-in-text", f"{key}: the text holds {marks[0]}, which has a meaning of its own")
    if odd := next((each for each in text if each != "\t" and _is_odd(each)), None):
        yield Finding("odd-character", f"{key}: {describe(odd)} is character {text.index(odd) + 1} of the text")
    elif not unicodedata.is_normalized("NFC", text):
        yield _check_form(key, text)


def _check_form(key: str, text: str) -> Finding:
    """Say in which way a text is not in Unicode's form NFC, which takes some letters apart, and orders marks."""
    odd = [word for word in text.split() if not unicodedata.is_normalized("NFC", word)] or [text]
    word = next((word for word in odd if len(unicodedata.normalize("NFC", word)) < len(word)), odd[0])
    normal = unicodedata.normalize("NFC", word)
    place = next(i for i in range(len(word)) if word[i] != normal[i : i + 1])
    here, there = describe(word[place]), describe(normal[place])
    if len(normal) < len(word):
        return Finding(
            "odd-character", f"{key}: {here} has its mark behind it; one character, {there}, is in use (NFC)"
        )
    if len(unicodedata.normalize("NFC", word[place])) > 1:
        what = "is one character, which Unicode's form NFC takes apart: it has"
    elif sorted(normal) == sorted(word):
        what = "is a mark in another order than in Unicode's form NFC, where here stands"
    else:
        what = "is another character in Unicode's form NFC:"
    return Finding("not-normal", f"{key}: {here} {what} {there}")


def describe(character: str) -> str:
    """Name a character: `'É' (U+00C9 LATIN CAPITAL LETTER E WITH ACUTE)`, or its number alone if it is invisible."""
    name = f"U+{ord(character):04X} {unicodedata.name(character, 'a character without a name')}"
    return f"{character!r} ({name})" if character.isprintable() else name


def load_speller(tokens: Tokens, report: Report) -> Spell | None:
    """Check the files and make a function that returns the first part of a text that has no token, or "".

    Returns:
        The function; None if the files cannot be used, which the report then says.
    """
    for path in (tokens.token_list, tokens.bpe_model):
        if path is not None and not path.is_file():
            report.add("missing-file", "it is missing", path)
            return None
    listed = tokens.token_list.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    _check_list(listed, tokens, report)
    if tokens.bpe_model is not None:
        return _load_bpe(tokens.bpe_model, set(listed), report)
    known = {" " if token == SPACE else token for token in listed}

    def unknown(text: str) -> str:
        for symbol in tokens.non_linguistic:
            text = text.replace(symbol, "")
        return next((character for character in text if character not in known), "")

    return unknown


def check_spelling(key: str, text: str, spell: Spell) -> Iterator[Finding]:
    """Find the first part of a transcript that has no token."""
    if part := spell(text):
        shown = describe(part) if len(part) == 1 else repr(part)
        has_other_case = any(other != text and not spell(other) for other in (text.upper(), text.lower()))
        yield Finding("cannot-spell", f"{key}: {shown} has no token" + ", its other case has one" * has_other_case)


def _is_odd(character: str) -> bool:
    if " " <= character <= "~" or character in JOINERS:
        return False
    return character == REPLACEMENT or unicodedata.category(character) in ODD_CATEGORIES


def _check_list(listed: list[str], tokens: Tokens, report: Report) -> None:
    for index, token in ((0, BLANK), (1, UNKNOWN), (len(listed) - 1, SOS_EOS)):
        if listed[index : index + 1] != [token]:
            what = f"{token} belongs here, the token is {listed[min(index, len(listed) - 1)]!r}"
            report.add("bad-token-list", what, tokens.token_list, index + 1)
    first: dict[str, int] = {}
    for number, token in enumerate(listed, 1):
        if not token.strip():
            report.add("bad-token-list", "the line is blank", tokens.token_list, number)
        elif first.setdefault(token, number) != number:
            report.add("bad-token-list", f"{token!r} stands in line {first[token]} too", tokens.token_list, number)
    if tokens.bpe_model is None and SPACE not in first:
        report.add("bad-token-list", f"{SPACE} is not in the list: words would run together", tokens.token_list)


def _load_bpe(path: Path, listed: set[str], report: Report) -> Spell | None:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError:
        report.add("bad-token-list", "sentencepiece cannot read this model", path)
        return None
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    lost = [piece for i, piece in enumerate(pieces) if not (model.is_control(i) or piece in listed)]
    if lost:
        what = f"{len(lost)} of its pieces are not in the token list, {lost[0]!r} for one: they are of two runs"
        report.add("bad-token-list", what, path)
        return None

    def unknown(text: str) -> str:
        return next((piece for piece in model.encode(text, out_type=str) if piece not in listed), "").strip("\u2581")

    return unknown
