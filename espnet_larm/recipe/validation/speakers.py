"""`utt2spk` against `spk2utt`.

One speaker's utterances are in memory at a time, as long as speakers come in the order of their utterances.
"""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from espnet_larm.recipe.validation.report import Finding, Problem, Report
from espnet_larm.recipe.validation.table import Line, Table


class Spoken(NamedTuple):
    """That a speaker said an utterance, according to one of the files.

    Attributes:
        speaker: Id.
        utterance: Id.
        line: Where it stands.
    """

    speaker: str
    utterance: str
    line: int


def check_speaker(line: Line) -> Iterator[Finding]:
    """A line of `utt2spk`."""
    if not line.value:
        yield Finding("no-speaker", f"{line.key} has no speaker")
    elif line.value.split() != [line.value]:
        yield Finding("two-speakers", f"{line.key}: {line.value!r} is more than one word")


def check_utterances(line: Line) -> Iterator[Finding]:
    """A line of `spk2utt`."""
    ids = line.value.split()
    if not ids:
        yield Finding("speaker-without-utterances", f"{line.key} has no utterances")
    for first, second in itertools.pairwise(ids):
        if first == second:
            yield Finding("repeated-in-spk2utt", f"{line.key}: {first} is listed twice")
        elif first > second:
            yield Finding("unsorted-in-spk2utt", f"{line.key}: {second} stands after {first}")


def compare_speakers(utt2spk: Table, spk2utt: Table, report: Report) -> None:
    """Report where the files disagree, each disagreement once."""
    lacking: dict[str, Spoken] = {}
    extra: dict[str, Spoken] = {}
    sides = heapq.merge(
        ((spoken, 0) for spoken in _of_utt2spk(utt2spk, report)), ((spoken, 1) for spoken in _of_spk2utt(spk2utt))
    )
    for speaker, group in itertools.groupby(sides, key=lambda pair: pair[0].speaker):
        ours: dict[str, Spoken] = {}
        theirs: dict[str, Spoken] = {}
        for spoken, side in group:
            (theirs if side else ours).setdefault(spoken.utterance, spoken)
        if not theirs:
            first = next(iter(ours.values()))
            what = f"{speaker} ({len(ours)} utterance(s)) has no line in spk2utt"
            report.add(Problem("speaker-not-in-spk2utt", what, str(utt2spk.path), first.line))
        elif not ours:
            first = next(iter(theirs.values()))
            what = f"{speaker} is the speaker of no utterance in utt2spk"
            report.add(Problem("speaker-not-in-utt2spk", what, str(spk2utt.path), first.line))
        else:
            lacking |= {key: spoken for key, spoken in ours.items() if key not in theirs}
            extra |= {key: spoken for key, spoken in theirs.items() if key not in ours}
    _report_utterances(lacking, extra, (utt2spk.path, spk2utt.path), report)


def _report_utterances(
    lacking: dict[str, Spoken], extra: dict[str, Spoken], paths: tuple[Path, Path], report: Report
) -> None:
    for key, ours in lacking.items():
        if theirs := extra.pop(key, None):
            what = f"{key} is of {ours.speaker} here, of {theirs.speaker} in spk2utt:{theirs.line}"
            report.add(Problem("speakers-disagree", what, str(paths[0]), ours.line))
        else:
            what = f"{key} is not in spk2utt's line of {ours.speaker}"
            report.add(Problem("utterance-not-in-spk2utt", what, str(paths[0]), ours.line))
    for key, theirs in extra.items():
        what = f"{key} is listed for {theirs.speaker}, utt2spk does not say so"
        report.add(Problem("utterance-not-in-utt2spk", what, str(paths[1]), theirs.line))


def _of_utt2spk(table: Table, report: Report) -> Iterator[Spoken]:
    """In the order of speakers, then utterances."""
    if _are_speakers_in_order(table, report):
        return (Spoken(line.value, line.key, line.number) for line in table.lines() if line.value)
    return iter(sorted(Spoken(line.value, line.key, line.number) for line in table.lines() if line.value))


def _are_speakers_in_order(table: Table, report: Report) -> bool:
    last: Line | None = None
    in_order = True
    for line in table.lines():
        if last is not None and line.value < last.value and line.value:
            in_order = False
            what = f"speaker {line.value} of {line.key} comes after speaker {last.value} of {last.key}"
            report.add(Problem("speaker-order", what, str(table.path), line.number))
        last = line
    return in_order


def _of_spk2utt(table: Table) -> Iterable[Spoken]:
    for line in table.lines():
        yield from (Spoken(line.key, utterance, line.number) for utterance in sorted(line.value.split()))
