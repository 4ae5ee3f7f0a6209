"""What is wrong with a transcript, whatever the tokens are."""

import re
import unicodedata
from collections.abc import Iterator

from espnet_larm.recipe.validation.characters import check_characters
from espnet_larm.recipe.validation.report import Finding

SENTENCE_MARKS = frozenset(("<s>", "</s>"))
SPECIAL_TOKENS = frozenset(("<blank>", "<unk>", "<sos/eos>", "<space>", "<pad>"))
PLACEHOLDERS = frozenset(("nan", "NaN", "NULL", "null", "None", "#N/A", "N/A", "undefined"))
# UTF-8 that was read as Latin-1 or Windows-1252: the first byte of a letter, then a character that follows no letter.
MOJIBAKE = re.compile("[\u00c2\u00c3][\u0080-\u00bf\u2018-\u2122]|\u00e2\u20ac|\u00ef\u00bb\u00bf")
HTML_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{1,6}|#x[0-9a-f]{1,6});")
MAX_WORD_LENGTH = 60
MAX_TEXT_LENGTH = 5000
# Alphabets whose capitals look alike; a word of two of them was typed or converted wrongly.
SCRIPTS = ("LATIN", "GREEK", "CYRILLIC")


def check_transcript(key: str, text: str) -> Iterator[Finding]:
    """Look at one transcript.

    Args:
        key: Id of the utterance, named in the findings.
        text: What is said.
    """
    if not text:
        yield Finding("empty-text", f"{key} has no text")
        return
    yield from check_characters(key, text)
    words = text.split()
    yield from _check_marks(key, text, words)
    yield from _check_content(key, text, words)
    if not text.isascii():
        yield from _check_foreign(key, text, words)


def _check_marks(key: str, text: str, words: list[str]) -> Iterator[Finding]:
    """What belongs to file formats, not to speech."""
    if words[0] == key:
        yield Finding("id-in-text", f"{key}: the id stands in the text again")
    if words[-1] == f"({key})":
        yield Finding("id-at-end", f"{key}: the text ends with ({key}), as in sclite's trn files")
    if "<" in text and (marks := sorted(SENTENCE_MARKS.intersection(words))):
        yield Finding("sentence-marks", f"{key}: {' and '.join(marks)} in the text")
    if "<" in text and (tokens := sorted(SPECIAL_TOKENS.intersection(words))):
        yield Finding("special-token", f"{key}: the token {tokens[0]} in the text")
    if "&" in text and (entity := HTML_ENTITY.search(text)):
        yield Finding("html-entity", f"{key}: {entity[0]} in the text")


def _check_content(key: str, text: str, words: list[str]) -> Iterator[Finding]:
    if text in PLACEHOLDERS:
        yield Finding("placeholder", f"{key}: the whole text is {text!r}")
    elif not any(character.isalnum() for character in text) and "<" not in text:
        yield Finding("no-letters", f"{key}: {text!r} holds neither letters nor digits")
    if len(text) > MAX_TEXT_LENGTH:
        yield Finding("very-long-text", f"{key}: {len(text)} characters, more than {MAX_TEXT_LENGTH}")
    # Some scripts have no spaces between words.
    if text.isascii() and len(text) > MAX_WORD_LENGTH and (longest := max(map(len, words))) > MAX_WORD_LENGTH:
        yield Finding("very-long-word", f"{key}: a word of {longest} characters, more than {MAX_WORD_LENGTH}")


def _check_foreign(key: str, text: str, words: list[str]) -> Iterator[Finding]:
    if match := MOJIBAKE.search(text):
        yield Finding("mojibake", f"{key}: {match[0]!r} looks like UTF-8 that was read as Latin-1")
        return
    for word in words:
        scripts = {_script(character) for character in word if character.isalpha()} & set(SCRIPTS)
        if len(scripts) > 1:
            yield Finding("mixed-scripts", f"{key}: {word!r} is written in {' and '.join(sorted(scripts))} letters")
            return


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
