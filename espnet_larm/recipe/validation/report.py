"""Problems of data: their kinds with remedies, and the report that prints them by kind.

The kinds are those that real corpora had, or that cost hours of training when nobody finds them. Their names are
printed with the problems and taken by `--allow`; tests/recipe/validation/test_damages.py makes each of them.
"""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        remedy: What to do.
        is_error: Whether training and decoding must not begin; otherwise the report only warns.
    """

    remedy: str
    is_error: bool = True


_FORMAT = "run asr.sh --stage format"
_DROP = "replace the audio, or drop the utterance from all files of the folder"
_TOKENS = "make the tokens again (asr.sh --stage tokens)"
_SORT = "sort the file by code point: LC_ALL=C sort -o FILE FILE"

KINDS = {
    "missing-file": Kind("run the stage that makes it, or add it; wav.scp, text and utt2spk have a line an utterance"),
    "bad-segment": Kind("correct the line: `UTTERANCE RECORDING START END`, in seconds, within the recording"),
    "segment-past-end": Kind("nothing: it is cut at the end of the recording", False),
    "windows-text": Kind(r"convert the file: sed -i '1s/^\xEF\xBB\xBF//; s/\r$//' FILE"),
    "not-utf-8": Kind("convert the file: iconv -f LATIN1 -t UTF-8 FILE > FILE.txt && mv FILE.txt FILE"),
    "odd-spacing": Kind("put one space between words and remove blank lines: sed -i 's/[ \\t]\\+/ /g; /^ *$/d' FILE"),
    "odd-character": Kind("replace the character; compose accents by unicodedata.normalize('NFC', line) in Python"),
    "not-normal": Kind("nothing, where all texts are so; else unicodedata.normalize('NFC', line) in Python", False),
    "unsorted": Kind(_SORT),
    "sorted-by-number": Kind(f"{_SORT} (it is sorted by number), or fill numbers up with zeros"),
    "repeated-id": Kind("keep one of the lines, or give one utterance another id in all files"),
    "no-value": Kind("write the value behind the id"),
    "missing-line": Kind("add the line, or drop the utterance from the other files"),
    "in-two-folders": Kind("take the utterance out of one folder: nothing that is tested may be trained on", False),
    "wrong-length": Kind(f"{_FORMAT}, which writes utt2num_samples"),
    "speaker-order": Kind("begin the id of each utterance with its speaker's and '-' (in all files)"),
    "spk2utt-disagrees": Kind(f"correct the wrong file, or delete spk2utt: it is made of utt2spk ({_FORMAT})"),
    "missing-audio": Kind("correct the path or restore the file, or drop the utterance from all files of the folder"),
    "unknown-program": Kind("install the program, or write its whole path; `id COMMAND |` reads a command's output"),
    "empty-audio": Kind(_DROP),
    "unreadable-audio": Kind(_DROP),
    "truncated-audio": Kind("copy or download the file again, or repeat the stage that wrote the archive"),
    "bad-samples": Kind("make the audio again: samples are numbers from -1 to 1; divide 16-bit ones by 32768"),
    "silence": Kind(f"{_DROP}; take one channel where two cancel: sox FILE OUT remix 1"),
    "clipped": Kind("see whether a recording with a lower level exists", False),
    "wrong-format": Kind(f"{_FORMAT}, which converts it, or give the rate that is meant as --fs"),
    "odd-duration": Kind("nothing in training: asr.sh --stage filter leaves it out; or cut it", False),
    "too-much-text": Kind("see whether the transcript is another utterance's, or the audio was cut"),
    "empty-text": Kind("write what is said, or drop the utterance (asr.sh --stage filter does for training)"),
    "mark-in-text": Kind("remove it: the text holds spoken words only"),
    "bad-token-list": Kind(_TOKENS),
    "cannot-spell": Kind("correct the text (its case, too), or make tokens from a text that has it"),
}


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        kind: A name in KINDS.
        what: A sentence without its stop, beginning with the utterance or token in question.
    """

    kind: str
    what: str


class Problem(NamedTuple):
    """A finding with its place.

    Attributes:
        kind: A name in KINDS.
        what: The sentence of the finding.
        path: File or folder.
        line: Number of the line; 0 for the whole file.
    """

    kind: str
    what: str
    path: Path
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}{f':{self.line}' if self.line else ''}: {self.what}"


class Report:
    """The problems of one or several folders; memory does not grow with their number.

    Args:
        max_shown: Number of problems of a kind that are kept and printed; 0 keeps all.
        allowed: Kinds that are reported without being errors.
        strict: Whether warnings count as errors, unless they are allowed.

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

    def add(self, kind: str, what: str, path: Path, line: int = 0) -> None:
        """Count a problem, and keep it if it will be shown."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        kept = self.kept.setdefault(kind, [])
        if not self.max_shown or len(kept) < self.max_shown:
            kept.append(Problem(kind, what, path, line))

    def add_findings(self, findings: Iterable[Finding], path: Path, line: int = 0) -> bool:
        """Add findings at one place; return whether there were any."""
        found = False
        for finding in findings:
            self.add(*finding, path, line)
            found = True
        return found

    def is_error(self, kind: str) -> bool:
        """Whether problems of this kind end the program with status 1."""
        return (KINDS[kind].is_error or self.strict) and kind not in self.allowed

    @property
    def num_errors(self) -> int:
        """Number of problems that are errors here."""
        return sum(count for kind, count in self.counts.items() if self.is_error(kind))

    @property
    def num_warnings(self) -> int:
        """Number of problems that are no errors."""
        return sum(self.counts.values()) - self.num_errors

    def lines(self) -> Iterator[str]:
        """Lines of the report: errors first, kinds in the order of KINDS."""
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
