"""Files of `id value` lines: read once, with everything reported that keeps Kaldi's and ESPnet's tools from them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from espnet_larm.recipe.validation.report import Report
from espnet_larm.recipe.validation.text import check_id

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line that can be used.

    Attributes:
        key: The id.
        number: Number of the line, from 1.
        value: The rest of the line; "" if there is none.
    """

    key: str
    number: int
    value: str


Table = dict[str, Line]


def scan_table(path: Path, report: Report) -> Table | None:
    """Read a file and report what is wrong with its bytes, ids and order.

    Returns:
        Id -> line, the first of lines with one id; None if there is nothing to read.
    """
    if not path.is_file() or path.stat().st_size == 0:
        report.add("missing-file", "it is empty" if path.is_file() else "it is missing", path)
        return None
    table: Table = {}
    last, has_windows_ends = None, False
    with path.open("rb") as raw_lines:
        for number, raw in enumerate(raw_lines, 1):
            if raw.endswith(b"\r\n") and not has_windows_ends:
                has_windows_ends = True
                report.add("windows-text", "lines from here on end with CR LF", path, number)
            _check_bytes(raw, path, number, report)
            line = _parse_line(raw, number)
            if line is None:
                report.add("odd-spacing", "the line is blank", path, number)
                continue
            report.add_findings(check_id(line.key), path, number)
            if line.key in table:
                report.add("repeated-id", f"{line.key} stands in line {table[line.key].number} too", path, number)
                continue
            table[line.key] = line
            if last is not None and line.key < last:
                is_by_number = _numbers(last) < _numbers(line.key)
                reason = ", as its number is" if is_by_number else ""
                kind = "sorted-by-number" if is_by_number else "unsorted"
                report.add(kind, f"{line.key} stands after {last}{reason}", path, number)
            last = line.key
    return table


def _parse_line(raw: bytes, number: int) -> Line | None:
    """Read a line as ESPnet does, id and value separated by any white space; None if it is blank."""
    if number == 1:
        raw = raw.removeprefix(BYTE_ORDER_MARK)
    words = raw.decode("utf-8", "backslashreplace").split(None, 1)
    return Line(words[0], number, words[1].rstrip() if len(words) > 1 else "") if words else None


def find_lines(path: Path, keys: Iterable[str]) -> dict[str, int]:
    """Map each of `keys` that is in the file to the number of its line."""
    wanted = set(keys)
    with path.open("rb") as raw_lines:
        lines = (_parse_line(raw, number) for number, raw in enumerate(raw_lines, 1))
        return {line.key: line.number for line in lines if line and line.key in wanted}


def _check_bytes(raw: bytes, path: Path, number: int, report: Report) -> None:
    if number == 1 and raw.startswith(BYTE_ORDER_MARK):
        report.add("windows-text", "the file begins with a byte order mark (U+FEFF)", path, number)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"byte {error.start + 1} of the line (0x{raw[error.start]:02X}) is no UTF-8"
        report.add("not-utf-8", what, path, number)


def _numbers(key: str) -> list[tuple[int, str]]:
    """Sort key that puts `a-9` before `a-10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", key)]
