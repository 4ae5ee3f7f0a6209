"""Validates data folders: first the files for themselves, then against each other, then what they speak of.

Files are merged in the order of their ids, so memory does not grow with the number of utterances.
"""

import enum
import functools
import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.audio import AudioError, read_audio
from espnet_larm.data.parallel import stream_chunks
from espnet_larm.recipe.validation.content import Bounds, check_duration, check_header, check_pace, check_samples
from espnet_larm.recipe.validation.report import Finding, Problem, Report
from espnet_larm.recipe.validation.sources import find_source_problem
from espnet_larm.recipe.validation.speakers import check_speaker, check_utterances, compare_speakers
from espnet_larm.recipe.validation.spelling import Spell, Tokens, check_spelling, load_speller
from espnet_larm.recipe.validation.table import Line, Table, scan_table
from espnet_larm.recipe.validation.transcripts import check_transcript

REQUIRED = ("wav.scp", "text", "utt2spk")
LENGTHS = "utt2num_samples"
LACKS = {
    "wav.scp": "no-audio-line",
    "text": "no-transcript",
    "utt2spk": "no-speaker-line",
    LENGTHS: "no-length",
}
AUDIO_FORMATS = ("ark", "flac", "wav", "sound", "mp3", "ogg", "nist", "mpeg")


class AudioCheck(enum.Enum):
    """How closely audio is looked at."""

    NONE = "none"  # not at all
    STAT = "stat"  # is the file there?
    DECODE = "decode"  # are its samples what they should be?


class Wanted(NamedTuple):
    """What is looked at besides the files themselves.

    Attributes:
        audio: How closely.
        bounds: Of the audio.
        tokens: Whether these can spell the transcripts; None if there are none yet.
    """

    audio: AudioCheck = AudioCheck.DECODE
    bounds: Bounds = Bounds()
    tokens: Tokens | None = None


class Entry(NamedTuple):
    """An utterance that all files know.

    Attributes:
        key: Id.
        line: Of `wav.scp`.
        source: Second column of `wav.scp`.
        text: Transcript.
        text_line: Of `text`.
        num_samples: Of `utt2num_samples`, 0 if it is not there.
    """

    key: str
    line: int
    source: str
    text: str
    text_line: int
    num_samples: int


class Totals(NamedTuple):
    """What was looked at.

    Attributes:
        num_utterances: Known to all files.
        num_decoded: Of which audio was decoded.
        decoded_s: Duration of that audio, in seconds.
    """

    num_utterances: int = 0
    num_decoded: int = 0
    decoded_s: float = 0.0

    def plus(self, other: "Totals") -> "Totals":
        """Both together."""
        return Totals(
            self.num_utterances + other.num_utterances,
            self.num_decoded + other.num_decoded,
            self.decoded_s + other.decoded_s,
        )


class _Decoded(NamedTuple):
    """What came of a chunk of entries: findings with their lines in `wav.scp`."""

    findings: list[tuple[int, Finding]]
    num_decoded: int
    seconds: float


def validate_folders(folders: Sequence[Path], wanted: Wanted, num_jobs: int, report: Report) -> Totals:
    """Validate each folder, and that none has an utterance of the first.

    Args:
        folders: Data folders, the training set first; plain or as stage 3 writes them.
        wanted: What is looked at.
        num_jobs: Processes that decode audio.
        report: Takes the problems.

    Returns:
        What was looked at.
    """
    spell = load_speller(wanted.tokens, report) if wanted.tokens else None
    totals = Totals()
    tables = []
    for folder in folders:
        scanned = _scan_folder(folder, report)
        if not all(name in scanned for name in REQUIRED):
            continue
        tables.append(scanned["wav.scp"])
        entries = _counted(_entries(folder, scanned, spell, report))
        for part in _examine(folder / "wav.scp", entries, wanted, num_jobs, report):
            totals = totals.plus(part)
        totals = totals.plus(Totals(entries.number))
    _compare_folders(tables, report)
    return totals


class _counted(Iterator[Entry]):  # noqa: N801
    """Counts what passes."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self.entries, self.number = entries, 0

    def __next__(self) -> Entry:
        entry = next(self.entries)
        self.number += 1
        return entry


def _scan_folder(folder: Path, report: Report) -> dict[str, Table]:
    """The files that can be read, every line of them checked for itself."""
    if not folder.is_dir():
        kind = "folder-is-a-file" if folder.exists() else "no-folder"
        report.add(Problem(kind, "it is a file" if folder.exists() else "it is missing", str(folder)))
        return {}
    if (folder / "segments").exists():
        report.add(Problem("segments", "utterances are cut out of recordings", str(folder / "segments"), 1))
    checks = {
        "wav.scp": lambda _: (),
        "text": lambda line: check_transcript(line.key, line.value),
        "utt2spk": check_speaker,
        "spk2utt": check_utterances,
    }
    if (folder / LENGTHS).exists():
        checks[LENGTHS] = _check_length
    scanned = {name: scan_table(folder / name, report, check) for name, check in checks.items()}
    found = {name: table for name, table in scanned.items() if table is not None}
    if "utt2spk" in found and "spk2utt" in found:
        compare_speakers(found["utt2spk"], found["spk2utt"], report)
    _check_audio_format(folder / "audio_format", report)
    return found


def _check_length(line: Line) -> Iterator[Finding]:
    if not line.value.isdecimal() or int(line.value) == 0:
        yield Finding("odd-length", f"{line.key}: {line.value!r} is no number of samples")


def _check_audio_format(path: Path, report: Report) -> None:
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if not any(name in text for name in AUDIO_FORMATS):
            report.add(Problem("odd-audio-format", f"{text!r} is not known", str(path), 1))


def _entries(folder: Path, scanned: Mapping[str, Table], spell: Spell | None, report: Report) -> Iterator[Entry]:
    """What all files know, in order; what only some know is reported."""
    num_common = 0
    for key, lines in _join({name: scanned[name] for name in (*REQUIRED, LENGTHS) if name in scanned}):
        if not _has_all(folder, key, lines, LENGTHS in scanned, report):
            continue
        num_common += 1
        wav, text, length = lines["wav.scp"], lines["text"], lines.get(LENGTHS)
        num_samples = int(length.value) if length and length.value.isdecimal() else 0
        if spell:
            report.add_findings(check_spelling(key, text.value, spell), folder / "text", text.number)
        yield Entry(key, wav.number, wav.value, text.value, text.number, num_samples)
    if num_common == 0:
        _explain_nothing_common(folder, scanned, report)


def _join(tables: Mapping[str, Table]) -> Iterator[tuple[str, dict[str, Line]]]:
    """Lines of one id together."""
    streams = [_labelled(name, table) for name, table in tables.items()]
    for key, group in itertools.groupby(heapq.merge(*streams), key=lambda item: item[0]):
        yield key, {name: line for _, name, line in group}


def _labelled(name: str, table: Table) -> Iterator[tuple[str, str, Line]]:
    return ((line.key, name, line) for line in table.lines())


def _has_all(folder: Path, key: str, lines: Mapping[str, Line], with_lengths: bool, report: Report) -> bool:
    """Whether all files have the id; reports the first reason why not."""
    for name in (*REQUIRED, LENGTHS):
        if name in lines or (name == LENGTHS and not with_lengths):
            continue
        kind, where = _place_of_lack(name, lines)
        report.add(Problem(kind, f"{key} is not in {name}", str(folder / where), lines[where].number))
        return False
    return True


def _place_of_lack(name: str, lines: Mapping[str, Line]) -> tuple[str, str]:
    """Kind of problem, and the file to show it in, when `name` lacks an id that `lines` have."""
    if name != "wav.scp":
        return LACKS[name], "wav.scp"
    if "text" in lines:
        return LACKS[name], "text"
    return ("speaker-of-nothing", "utt2spk") if "utt2spk" in lines else ("length-of-nothing", LENGTHS)


def _explain_nothing_common(folder: Path, scanned: Mapping[str, Table], report: Report) -> None:
    """One problem instead of one an utterance, where two files have no id in common."""
    first = {name: next(scanned[name].lines(), None) for name in REQUIRED}
    if not all(first.values()):
        return
    shown = ", ".join(f"{line.key} in {name}" for name, line in first.items() if line)
    report.forget(*LACKS.values(), "speaker-of-nothing", "length-of-nothing")
    report.add(Problem("no-common-ids", f"the files have no utterance in common; they begin with {shown}", str(folder)))


def _examine(path: Path, entries: Iterable[Entry], wanted: Wanted, num_jobs: int, report: Report) -> Iterator[Totals]:
    """Look at paths, durations and audio; the processes get what has a readable path."""
    if wanted.audio is AudioCheck.DECODE:
        readable = (entry for entry in entries if not _report_source(path, entry, report))
        decode = functools.partial(_decode, bounds=wanted.bounds)
        for done in stream_chunks(decode, readable, num_jobs, f"{path.parent}: decoded"):
            for line, finding in done.findings:
                report.add(Problem(*finding, str(path), line))
            yield Totals(0, done.num_decoded, done.seconds)
        return
    for entry in entries:
        if wanted.audio is AudioCheck.STAT:
            _report_source(path, entry, report)
        if entry.num_samples:
            duration_s = entry.num_samples / wanted.bounds.sample_rate
            report.add_findings(check_pace(entry.key, entry.text, duration_s), path.with_name("text"), entry.text_line)


def _report_source(path: Path, entry: Entry, report: Report) -> bool:
    finding = find_source_problem(entry.key, entry.source, path.parent)
    return report.add_findings([finding] if finding else [], path, entry.line)


def _decode(entries: Sequence[Entry], bounds: Bounds) -> _Decoded:
    """Runs in a process of its own."""
    findings: list[tuple[int, Finding]] = []
    num_decoded, seconds = 0, 0.0
    for entry in entries:
        try:
            header, samples = read_audio(entry.source)
        except AudioError as error:
            findings.append((entry.line, Finding(error.kind, f"{entry.key}: {error.what}")))
            continue
        duration_s = len(samples) / header.sample_rate
        num_decoded += 1
        seconds += duration_s
        found = itertools.chain(
            check_header(entry.key, header, bounds),
            check_samples(entry.key, header, samples),
            check_duration(entry.key, duration_s, bounds),
            check_pace(entry.key, entry.text, duration_s),
            _check_promised_length(entry, len(samples)),
        )
        findings += ((entry.line, finding) for finding in found)
    return _Decoded(findings, num_decoded, seconds)


def _check_promised_length(entry: Entry, num_samples: int) -> Iterator[Finding]:
    if entry.num_samples and entry.num_samples != num_samples:
        yield Finding("length-differs", f"{entry.key}: {num_samples} samples, {LENGTHS} says {entry.num_samples}")


def _compare_folders(tables: Sequence[Table], report: Report) -> None:
    """Report utterances of the first folder, the training set, that others have too."""
    streams = [_labelled(f"{index:06d}", table) for index, table in enumerate(tables)]
    for key, group in itertools.groupby(heapq.merge(*streams), key=lambda item: item[0]):
        (_, first, line), *others = group
        if int(first) == 0:
            for _, index, other in others:
                what = f"{key} stands in {tables[0].path}:{line.number} too"
                report.add(Problem("in-two-folders", what, str(tables[int(index)].path), other.number))
