"""Characters that do not belong into ids and transcripts.

Most lines are printable ASCII, for which a few comparisons suffice.
"""

import unicodedata
from collections.abc import Iterator

from espnet_larm.recipe.validation.report import Finding

LINE_SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # where str.splitlines ends a line, beside LF and CR
# Written between letters of some scripts, where they change the word: ZERO WIDTH NON-JOINER and JOINER.
JOINERS = "\u200c\u200d"
_KINDS_OF_CATEGORY = {
    "Cc": "control-character",
    "Cf": "invisible-character",
    "Zs": "odd-space",
    "Co": "private-character",
    "Cn": "private-character",
}


def check_characters(key: str, value: str) -> Iterator[Finding]:
    """Look at every character of a transcript, once a kind.

    Args:
        key: Id of the utterance, named in the findings.
        value: The transcript.
    """
    if value.isascii() and value.isprintable():
        return
    seen = set()
    for column, character in enumerate(value, 1):
        kind = _kind_of(character)
        if kind and kind not in seen:
            seen.add(kind)
            yield Finding(kind, f"{key}: {describe(character)} is character {column} of the text")
    if not seen and not unicodedata.is_normalized("NFC", value):
        yield Finding("decomposed-letter", f"{key}: {_first_decomposed(value)} is written as letter and accent apart")


def check_id(name: str, what: str) -> Iterator[Finding]:
    """An id of an utterance or a speaker: visible characters, composed.

    Args:
        name: The id.
        what: `utterance` or `speaker`.
    """
    if name.isascii() and name.isprintable():
        return
    for character in name:
        if _kind_of(character) or character in JOINERS:
            yield Finding("odd-id", f"the {what}'s id {name!r} holds {describe(character)}")
            return
    if not unicodedata.is_normalized("NFC", name):
        yield Finding("odd-id", f"the {what}'s id {name!r} is not composed (NFC), others will spell it differently")


def describe(character: str) -> str:
    """`'É' (U+00C9 LATIN CAPITAL LETTER E WITH ACUTE)`, without the character itself if nobody would see it."""
    name = unicodedata.name(character, "a character without a name")
    shown = f"{character!r} " if character.isprintable() else ""
    return f"{shown}(U+{ord(character):04X} {name})" if shown else f"U+{ord(character):04X} {name}"


def _kind_of(character: str) -> str:
    """A kind of problem, or ""."""
    if " " <= character <= "~" or character in JOINERS:
        return ""
    if character == "\t":
        return "tab-in-text"
    if character in LINE_SEPARATORS:
        return "line-separator"
    if character == "\ufffd":
        return "replacement-character"
    return _KINDS_OF_CATEGORY.get(unicodedata.category(character), "")


def _first_decomposed(text: str) -> str:
    """The first letter that composing would change, composed."""
    composed = unicodedata.normalize("NFC", text)
    return next(describe(new) for old, new in zip(text, composed, strict=False) if old != new)
