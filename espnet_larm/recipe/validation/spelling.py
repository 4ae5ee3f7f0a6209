"""Whether the tokens can spell the transcripts, and whether the token list itself is one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from espnet_larm.recipe.tokens import BLANK, SOS_EOS, SPACE, UNKNOWN
from espnet_larm.recipe.validation.characters import describe
from espnet_larm.recipe.validation.report import Finding, Problem, Report
from espnet_larm.recipe.validation.table import find_file_problem

Spell = Callable[[str], str]


class Tokens(NamedTuple):
    """Files of stage 5.

    Attributes:
        token_list: A token a line.
        bpe_model: Sentencepiece's, None for characters.
        non_linguistic: Symbols that stay whole.
    """

    token_list: Path
    bpe_model: Path | None = None
    non_linguistic: tuple[str, ...] = ()


def load_speller(tokens: Tokens, report: Report) -> Spell | None:
    """Check the files and make a function that returns the first part of a text which has no token, or "".

    Returns:
        None if the files cannot be used, which is then in the report.
    """
    if finding := find_file_problem(tokens.token_list):
        kind = "no-token-list" if finding.kind == "empty-file" else finding.kind
        report.add(Problem(kind, finding.what, str(tokens.token_list)))
        return None
    listed = tokens.token_list.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    _check_list(listed, tokens, report)
    if tokens.bpe_model is None:
        return _CharacterSpeller(listed, tokens.non_linguistic).unknown
    return _load_bpe(tokens.bpe_model, set(listed), report)


def check_spelling(key: str, text: str, spell: Spell) -> Iterator[Finding]:
    """A transcript that cannot be spelled.

    Args:
        key: Id of the utterance, named in the finding.
        text: What is said.
        spell: As `load_speller` makes it.
    """
    if part := spell(text):
        shown = describe(part) if len(part) == 1 else repr(part)
        if any(other != text and not spell(other) for other in (text.upper(), text.lower())):
            yield Finding("other-case", f"{key}: {shown} has no token, its other case has one")
        else:
            yield Finding("cannot-spell", f"{key}: {shown} has no token")


class _CharacterSpeller:
    """A character a token; a space is `<space>`; symbols stay whole."""

    def __init__(self, listed: list[str], non_linguistic: tuple[str, ...]) -> None:
        self.symbols = non_linguistic
        self.known = {" " if token == SPACE else token for token in listed}

    def unknown(self, text: str) -> str:
        for symbol in self.symbols:
            text = text.replace(symbol, "")
        missing = set(text) - self.known
        return next((character for character in text if character in missing), "") if missing else ""


def _load_bpe(path: Path, listed: set[str], report: Report) -> Spell | None:
    import sentencepiece

    if not path.is_file():
        report.add(Problem("no-bpe-model", "it is missing", str(path)))
        return None
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError:
        report.add(Problem("damaged-bpe-model", "sentencepiece cannot read it", str(path)))
        return None
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    lost = [piece for i, piece in enumerate(pieces) if not (model.is_control(i) or piece in listed)]
    if lost:
        what = f"{len(lost)} of its pieces are not in the token list, {lost[0]!r} for one"
        report.add(Problem("other-bpe-model", what, str(path)))
        return None

    def unknown(text: str) -> str:
        return next((piece for piece in model.encode(text, out_type=str) if piece not in listed), "").strip("\u2581")

    return unknown


def _check_list(listed: list[str], tokens: Tokens, report: Report) -> None:
    path = tokens.token_list
    wanted = (
        (0, BLANK, "blank-not-first"),
        (1, UNKNOWN, "unk-not-second"),
        (len(listed) - 1, SOS_EOS, "sos-eos-not-last"),
    )
    for index, token, kind in wanted:
        if listed[index] != token:
            report.add(Problem(kind, f"the token is {listed[index]!r}, {token} belongs here", str(path), index + 1))
    seen: dict[str, int] = {}
    for number, token in enumerate(listed, 1):
        if not token.strip():
            report.add(Problem("blank-token", "the line is blank", str(path), number))
        elif token in seen:
            report.add(Problem("repeated-token", f"{token!r} stands in line {seen[token]} too", str(path), number))
        seen.setdefault(token, number)
    if tokens.bpe_model is None and SPACE not in seen:
        report.add(Problem("no-space-token", f"{SPACE} is not in the list", str(path)))
