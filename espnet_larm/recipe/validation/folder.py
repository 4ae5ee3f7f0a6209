"""Validates data folders: first each file for itself, then the files against each other, then what they name."""

import enum
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.audio import read_audio
from espnet_larm.data.audio_error import AudioError
from espnet_larm.data.kaldi_dir import audio_table, source_of_segment
from espnet_larm.data.parallel import stream_chunks
from espnet_larm.recipe.validation.audio import (
    Bounds,
    check_duration,
    check_header,
    check_pace,
    check_samples,
    check_segment,
    check_source,
)
from espnet_larm.recipe.validation.report import Finding, Report
from espnet_larm.recipe.validation.table import Table, scan_table
from espnet_larm.recipe.validation.text import Spell, Tokens, check_spelling, check_transcript, load_speller

REQUIRED = ("wav.scp", "text", "utt2spk")
LENGTHS = "utt2num_samples"


class AudioCheck(enum.Enum):
    """How closely audio is looked at."""

    NONE = "none"  # not at all
    STAT = "stat"  # is the file there?
    DECODE = "decode"  # are its samples what they should be?


class Wanted(NamedTuple):
    """What is looked at besides the files themselves.

    Attributes:
        audio: How closely audio is looked at.
        bounds: What audio should be.
        tokens: Tokens that must be able to spell the transcripts; None if there are none yet.
    """

    audio: AudioCheck = AudioCheck.DECODE
    bounds: Bounds = Bounds()
    tokens: Tokens | None = None


class Entry(NamedTuple):
    """An utterance that all files know.

    Attributes:
        key: Its id.
        line: Number of its line in `wav.scp`.
        source: Second column of `wav.scp`.
        text: Its transcript.
        text_line: Number of its line in `text`.
        num_samples: Length by `utt2num_samples`; 0 if that says nothing.
    """

    key: str
    line: int
    source: str
    text: str
    text_line: int
    num_samples: int


class Totals(NamedTuple):
    """How much was looked at.

    Attributes:
        num_utterances: Number of utterances that all files know.
        num_decoded: Number of utterances whose audio was decoded.
        decoded_s: Duration of that audio, in seconds.
    """

    num_utterances: int = 0
    num_decoded: int = 0
    decoded_s: float = 0.0

    def plus(self, other: "Totals") -> "Totals":
        """Add another's numbers."""
        num_utterances, num_decoded, decoded_s = (ours + theirs for ours, theirs in zip(self, other, strict=True))
        return Totals(int(num_utterances), int(num_decoded), decoded_s)


class _Decoded(NamedTuple):
    """What came of a chunk of entries: findings with their lines in `wav.scp`, and how much was decoded."""

    findings: list[tuple[int, Finding]]
    totals: Totals


def validate_folders(folders: Sequence[Path], wanted: Wanted, num_jobs: int, report: Report) -> Totals:
    """Validate each folder, and that none has an utterance of the first.

    Args:
        folders: Data folders, the training set first; plain or as stage 3 writes them.
        wanted: What is looked at.
        num_jobs: Number of processes that decode audio.
        report: Takes the problems.
    """
    spell = load_speller(wanted.tokens, report) if wanted.tokens else None
    totals = Totals()
    first: tuple[Path, Table] | None = None
    for folder in folders:
        tables = _scan_folder(folder, report)
        if not all(name in tables for name in REQUIRED):
            continue
        path, wav_scp = audio_table(folder), tables["wav.scp"]
        if first is None:
            first = path, wav_scp
        else:
            for key in sorted(wav_scp.keys() & first[1].keys()):
                what = f"{key} stands in {first[0]}:{first[1][key].number} too"
                report.add("in-two-folders", what, path, wav_scp[key].number)
        entries = list(_entries(folder, tables, spell, report))
        totals = totals.plus(Totals(len(entries)))
        for part in _examine(path, entries, wanted, num_jobs, report):
            totals = totals.plus(part)
    return totals


def _scan_folder(folder: Path, report: Report) -> dict[str, Table]:
    """Check every line of every file for itself; return the files that can be read."""
    if not folder.is_dir():
        report.add("missing-file", "there is no such folder", folder)
        return {}
    names = [*REQUIRED, *(name for name in (LENGTHS, "spk2utt") if (folder / name).exists())]
    scanned = {name: scan_table(folder / name, report) for name in names}
    tables = {name: table for name, table in scanned.items() if table is not None}
    for name, table in tables.items():
        for line in table.values():
            report.add_findings(_check_value(name, line.key, line.value), folder / name, line.number)
    if audio_table(folder).name == "segments" and "wav.scp" in tables:
        tables["wav.scp"] = _scan_segments(folder / "segments", tables["wav.scp"], report)
    if "utt2spk" in tables:
        _check_speakers(folder, tables["utt2spk"], tables.pop("spk2utt", None), report)
    return tables


def _scan_segments(path: Path, recordings: Table, report: Report) -> Table:
    """Read which parts of recordings are utterances, as lines that name them."""
    sources = {line.key: line.value for line in recordings.values()}
    parts: Table = {}
    for line in (scan_table(path, report) or {}).values():
        try:
            parts[line.key] = line._replace(value=source_of_segment(line.value, sources))
        except ValueError as error:
            report.add("bad-segment", f"{line.key}: {error}", path, line.number)
    return parts


def _check_value(name: str, key: str, value: str) -> Iterator[Finding]:
    if name == "text":
        yield from check_transcript(key, value)
    elif not value:
        yield Finding("no-value", f"{key} has no value")
    elif name == LENGTHS and (not value.isdecimal() or int(value) == 0):
        yield Finding("wrong-length", f"{key}: {value!r} is no number of samples")


def _check_speakers(folder: Path, utt2spk: Table, spk2utt: Table | None, report: Report) -> None:
    """Report speakers out of order, and where utt2spk and spk2utt disagree."""
    path = folder / "utt2spk"
    for before, line in itertools.pairwise(sorted(utt2spk.values())):
        if line.value and line.value < before.value:
            what = f"speaker {line.value} of {line.key} comes after speaker {before.value} of {before.key}"
            report.add("speaker-order", what, path, line.number)
    if spk2utt is None:
        return
    listed = {key: line for line in spk2utt.values() for key in line.value.split()}
    for line in utt2spk.values():
        theirs = listed.pop(line.key, None)
        if theirs is None and line.value:
            report.add("spk2utt-disagrees", f"{line.key} of {line.value} is not in spk2utt", path, line.number)
        elif theirs and theirs.key != line.value:
            what = f"{line.key} is of {line.value} here, of {theirs.key} in spk2utt:{theirs.number}"
            report.add("spk2utt-disagrees", what, path, line.number)
    for key, line in listed.items():
        what = f"{key} is listed for {line.key}, utt2spk does not know it"
        report.add("spk2utt-disagrees", what, folder / "spk2utt", line.number)


def _entries(folder: Path, tables: Mapping[str, Table], spell: Spell | None, report: Report) -> Iterator[Entry]:
    """Yield the utterances that all files know, in order; report those that a file lacks."""
    for key in sorted(set().union(*tables.values())):
        lacking = next((name for name, table in tables.items() if key not in table), None)
        if lacking is not None:
            name = next(name for name, table in tables.items() if key in table)
            files = {"wav.scp": audio_table(folder).name}
            place, what = folder / files.get(name, name), f"{key} is not in {files.get(lacking, lacking)}"
            report.add("missing-line", what, place, tables[name][key].number)
            continue
        wav, text = tables["wav.scp"][key], tables["text"][key]
        length = tables[LENGTHS][key].value if LENGTHS in tables else ""
        if spell:
            report.add_findings(check_spelling(key, text.value, spell), folder / "text", text.number)
        num_samples = int(length) if length.isdecimal() else 0
        yield Entry(key, wav.number, wav.value, text.value, text.number, num_samples)


def _examine(path: Path, entries: Iterable[Entry], wanted: Wanted, num_jobs: int, report: Report) -> Iterator[Totals]:
    """Look at paths and audio; the processes get the entries whose paths are readable."""
    if wanted.audio is not AudioCheck.NONE:
        entries = [
            entry
            for entry in entries
            if not report.add_findings(check_source(entry.key, entry.source), path, entry.line) and entry.source
        ]
    if wanted.audio is AudioCheck.DECODE:
        decode = functools.partial(_decode, bounds=wanted.bounds)
        for done in stream_chunks(decode, entries, num_jobs, f"{path.parent}: decoded"):
            for line, finding in done.findings:
                report.add(*finding, path, line)
            yield done.totals
        return
    for entry in entries:
        if entry.num_samples:
            duration_s = entry.num_samples / wanted.bounds.sample_rate
            report.add_findings(check_pace(entry.key, entry.text, duration_s), path.with_name("text"), entry.text_line)


def _decode(entries: Sequence[Entry], bounds: Bounds) -> _Decoded:
    """Decode and check entries, in a process of its own."""
    findings: list[tuple[int, Finding]] = []
    totals = Totals()
    for entry in entries:
        try:
            header, samples = read_audio(entry.source)
        except AudioError as error:
            findings.append((entry.line, Finding(error.kind, f"{entry.key}: {error.what}")))
            continue
        duration_s = len(samples) / header.sample_rate
        totals = totals.plus(Totals(0, 1, duration_s))
        found = itertools.chain(
            check_header(entry.key, header, bounds),
            check_segment(entry.key, entry.source, header, samples),
            check_samples(entry.key, header, samples),
            check_duration(entry.key, duration_s, bounds),
            check_pace(entry.key, entry.text, duration_s),
        )
        findings += ((entry.line, finding) for finding in found)
        if entry.num_samples not in {0, len(samples)}:
            what = f"{entry.key}: {len(samples)} samples, {LENGTHS} says {entry.num_samples}"
            findings.append((entry.line, Finding("wrong-length", what)))
    return _Decoded(findings, totals)
