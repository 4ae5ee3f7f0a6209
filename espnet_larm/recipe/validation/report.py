"""Collects problems and prints them by kind.

Memory does not grow with the number of problems: a kind keeps those that will be shown, and counts the rest.
"""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from espnet_larm.recipe.validation.kinds import KINDS


class Finding(NamedTuple):
    """What is wrong with one thing, wherever it stands.

    Attributes:
        kind: A name of `kinds.KINDS`.
        what: A sentence without its stop, which begins with the utterance or the token that it speaks of.
    """

    kind: str
    what: str


class Problem(NamedTuple):
    """A finding and where it stands.

    Attributes:
        kind: As in Finding.
        what: As in Finding.
        path: File or folder.
        line: Its number, 0 if the whole file is meant.
    """

    kind: str
    what: str
    path: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}{f':{self.line}' if self.line else ''}: {self.what}"


class Report:
    """The problems of one or several folders.

    Args:
        max_shown: Problems of a kind that are kept and printed; 0 for all.
        allowed: Kinds that are said without being errors.
        strict: Whether warnings are errors too, unless they are allowed.

    Raises:
        ValueError: A kind does not exist.
    """

    def __init__(self, max_shown: int = 0, allowed: Iterable[str] = (), strict: bool = False) -> None:
        self.max_shown = max_shown
        self.allowed = frozenset(allowed)
        self.strict = strict
        self.counts: dict[str, int] = {}
        self.kept: dict[str, list[Problem]] = {}
        for name in sorted(self.allowed - KINDS.keys()):
            near = difflib.get_close_matches(name, KINDS, n=3, cutoff=0.0)
            raise ValueError(f"--allow {name}: there is no such kind of problem; nearest: {', '.join(near)}.")

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it if it will be shown."""
        self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1
        kept = self.kept.setdefault(problem.kind, [])
        if not self.max_shown or len(kept) < self.max_shown:
            kept.append(problem)

    def add_findings(self, findings: Iterable[Finding], path: Path, line: int = 0) -> bool:
        """Add what was found at a place; returns whether there was anything."""
        found = False
        for finding in findings:
            self.add(Problem(*finding, str(path), line))
            found = True
        return found

    def forget(self, *kinds: str) -> None:
        """Drop all problems of some kinds, because another one explains them."""
        for kind in kinds:
            self.counts.pop(kind, None)
            self.kept.pop(kind, None)

    def is_error(self, kind: str) -> bool:
        """Whether this kind ends the program with status 1."""
        return (KINDS[kind].is_error or self.strict) and kind not in self.allowed

    @property
    def num_errors(self) -> int:
        """Problems that are errors here."""
        return sum(count for kind, count in self.counts.items() if self.is_error(kind))

    @property
    def num_warnings(self) -> int:
        """The others."""
        return sum(self.counts.values()) - self.num_errors

    def lines(self) -> Iterator[str]:
        """The report: errors first, kinds in the catalogue's order."""
        for wanted in (True, False):
            for kind in KINDS:
                if kind in self.counts and self.is_error(kind) == wanted:
                    yield from self._lines_of(kind, "error" if wanted else "warning")

    def _lines_of(self, kind: str, weight: str) -> Iterator[str]:
        count = self.counts[kind]
        yield f"{weight} {kind} ({count}): {KINDS[kind].remedy}"
        yield from (f"  {problem}" for problem in self.kept[kind])
        if (more := count - len(self.kept[kind])) > 0:
            yield f"  ... and {more} more (--show 0 lists all)"
