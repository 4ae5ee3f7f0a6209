"""Files of `id value` lines: scanned once for damage, then read in the order of their ids as often as wanted.

A sorted file is read line by line, so memory does not grow with it; one that is not is sorted in memory, after the
problem was reported.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from espnet_larm.recipe.validation.characters import check_id
from espnet_larm.recipe.validation.report import Finding, Problem, Report

CLEAN = re.compile(rb"[!-~]+(?: [!-~]+)*\n")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# First bytes of what is no table, and what it is then.
FOREIGN = {
    b"\xff\xfe": Finding("utf-16", "it is written in UTF-16"),
    b"\xfe\xff": Finding("utf-16", "it is written in UTF-16"),
    b"\x1f\x8b": Finding("compressed-file", "it is packed with gzip"),
    b"version https://git-lfs": Finding("lfs-pointer-file", "it is a Git LFS pointer, the content was not fetched"),
}
MISSING = {"wav.scp": "no-wav-scp", "text": "no-text", "utt2spk": "no-utt2spk", "spk2utt": "no-spk2utt"}


class Line(NamedTuple):
    """A line that can be used.

    Attributes:
        key: Id.
        number: From 1.
        value: What follows the id, "" if nothing does.
    """

    key: str
    number: int
    value: str


CheckLine = Callable[[Line], Iterable[Finding]]


class Table:
    """A scanned file.

    Attributes:
        path: Of the file.
        is_sorted: Whether ids come in order.
    """

    def __init__(self, path: Path, is_sorted: bool) -> None:
        self.path = path
        self.is_sorted = is_sorted

    def lines(self) -> Iterator[Line]:
        """Lines in the order of their ids; of lines with one id the first."""
        listed: Iterable[Line] = self._in_file_order() if self.is_sorted else sorted(self._in_file_order())
        last = None
        for line in listed:
            if line.key != last:
                yield line
            last = line.key

    def repeated(self) -> Iterator[tuple[Line, Line]]:
        """Neighbours in order with one id, for a file that is not sorted."""
        last = None
        for line in sorted(self._in_file_order()):
            if last is not None and line.key == last.key:
                yield last, line
            last = line

    def _in_file_order(self) -> Iterator[Line]:
        with self.path.open("rb") as raw_lines:
            for number, raw in enumerate(raw_lines, 1):
                if line := parse_line(raw, number):
                    yield line


def parse_line(raw: bytes, number: int) -> Line | None:
    """Read a line as ESPnet does: id and value separated by any white space. None if it is blank."""
    if number == 1:
        raw = raw.removeprefix(BYTE_ORDER_MARK)
    words = raw.decode("utf-8", "backslashreplace").split(None, 1)
    return Line(words[0], number, words[1].rstrip() if len(words) > 1 else "") if words else None


def scan_table(path: Path, report: Report, check_line: CheckLine) -> Table | None:
    """Report everything that is wrong with a file and its lines.

    Args:
        path: Of the file.
        report: Takes the problems.
        check_line: Finds what is wrong with a line of this kind of file.

    Returns:
        The table, or None if it cannot be read at all.
    """
    if finding := find_file_problem(path):
        report.add(Problem(*finding, str(path)))
        return None
    scan = _Scan(path, report, check_line)
    with path.open("rb") as raw_lines:
        for number, raw in enumerate(raw_lines, 1):
            scan.add(raw, number)
    scan.finish()
    return Table(path, scan.is_sorted)


def find_lines(path: Path, keys: Iterable[str]) -> dict[str, int]:
    """Id -> number of its line, for those of `keys` that are in the file."""
    wanted = set(keys)
    with path.open("rb") as raw_lines:
        lines = (parse_line(raw, number) for number, raw in enumerate(raw_lines, 1))
        return {line.key: line.number for line in lines if line and line.key in wanted}


def find_file_problem(path: Path) -> Finding | None:
    """What keeps a file from being read as lines."""
    if path.is_symlink() and not path.exists():
        return Finding("broken-file-link", f"it is a link to {path.readlink()}, which is missing")
    if path.is_dir():
        return Finding("file-is-a-folder", "it is a folder")
    if not path.exists():
        return Finding(MISSING.get(path.name, "no-token-list"), "it is missing")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except PermissionError:
        return Finding("unreadable-file", "you may not read it")
    if not head:
        return Finding("empty-file", "it is empty")
    return next((finding for magic, finding in FOREIGN.items() if head.startswith(magic)), None)


class _Scan:
    """One pass over a file."""

    def __init__(self, path: Path, report: Report, check_line: CheckLine) -> None:
        self.path, self.report, self.check_line = path, report, check_line
        self.is_sorted = True
        self.last: Line | None = None
        self.num_windows_ends, self.first_windows_end = 0, 0

    def add(self, raw: bytes, number: int) -> None:
        """Check a line."""
        if not CLEAN.fullmatch(raw):
            raw = self._check_bytes(raw, number)
        line = parse_line(raw, number)
        if line is None:
            self._report("blank-line", "the line is blank", number)
            return
        self._check_order(line)
        self.report.add_findings(
            check_id(line.key, "speaker" if self.path.name == "spk2utt" else "utterance"), self.path, number
        )
        self.report.add_findings(self.check_line(line), self.path, number)
        self.last = line

    def finish(self) -> None:
        """Report what only the whole file shows."""
        if self.num_windows_ends:
            what = f"{self.num_windows_ends} line(s) from here on end with CR LF"
            self._report("windows-line-ends", what, self.first_windows_end)
        if not self.is_sorted:
            for first, second in Table(self.path, False).repeated():
                self._report_repeated(first, second)

    def _check_bytes(self, raw: bytes, number: int) -> bytes:
        """Report damage below the level of words; returns the line without it."""
        if number == 1 and raw.startswith(BYTE_ORDER_MARK):
            self._report("byte-order-mark", "the file begins with a byte order mark (U+FEFF)", number)
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        if not raw.endswith(b"\n"):
            self._report("no-final-newline", "the last line does not end with a newline", number)
        if raw.endswith(b"\r\n"):
            self.first_windows_end = self.first_windows_end or number
            self.num_windows_ends += 1
            raw = raw[:-2]
        elif b"\r" in raw:
            self._report("old-mac-line-ends", "lines end with CR alone", number)
            return raw.replace(b"\r", b" ")
        raw = raw.removesuffix(b"\n")
        if b"\0" in raw:
            self._report("nul-byte", f"byte {raw.index(0) + 1} of the line is 0", number)
            raw = raw.replace(b"\0", b"")
        self._check_encoding(raw, number)
        self._check_spaces(raw, number)
        return raw

    def _check_encoding(self, raw: bytes, number: int) -> None:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"byte {error.start + 1} of the line (0x{raw[error.start]:02X}) is no UTF-8"
            self._report("not-utf-8", what, number)

    def _check_spaces(self, raw: bytes, number: int) -> None:
        words = raw.split()
        if not words:
            return
        if raw[:1].isspace():
            self._report("leading-space", "white space stands before the id", number)
        if raw[-1:].isspace() and len(words) > 1:
            self._report("trailing-space", "white space stands at the end of the line", number)
        after = raw.lstrip()[len(words[0]) :].rstrip()
        if after.startswith(b"\t"):
            self._report("tab-after-id", "a tab stands after the id", number)
        # A path may hold two spaces, a text may not.
        elif after.startswith(b"  ") or (self.path.name != "wav.scp" and b"  " in after):
            self._report("double-space", "two spaces stand together", number)

    def _check_order(self, line: Line) -> None:
        last = self.last
        if last is None or last.key < line.key:
            return
        if last.key == line.key:
            if self.is_sorted:
                self._report_repeated(last, line)
            return
        self.is_sorted = False
        kind, reason = "unsorted", ""
        if _numbers(last.key) < _numbers(line.key):
            kind, reason = "sorted-by-number", ", as its number is"
        elif _letters(last.key) < _letters(line.key):
            kind, reason = "sorted-by-locale", ", as in a locale that ignores case or punctuation"
        self._report(kind, f"{line.key} stands after {last.key}{reason}", line.number)

    def _report_repeated(self, first: Line, second: Line) -> None:
        if first.value == second.value:
            self._report(
                "repeated-line", f"{second.key} stands in line {first.number} too, with the same value", second.number
            )
        else:
            self._report(
                "repeated-id", f"{second.key} stands in line {first.number} too, with another value", second.number
            )

    def _report(self, kind: str, what: str, line: int) -> None:
        self.report.add(Problem(kind, what, str(self.path), line))


def _numbers(key: str) -> list[tuple[int, str]]:
    """Sorts `a-9` before `a-10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", key)]


def _letters(key: str) -> str:
    """Sorts as common locales do."""
    return "".join(character for character in key.casefold() if character.isalnum())
