"""Kaldi data folders: `wav.scp`, `text`, `utt2spk`, `spk2utt`, a line an utterance (a speaker), sorted by key.

Where `segments` stands beside them, `wav.scp` has a line a recording, and `segments` says which part is an utterance.

Sorting is by code point, which is what `LC_ALL=C sort` does with UTF-8.
"""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.source import Part
from espnet_larm.errors import name_some
from espnet_larm.files.atomic import write_beside

logger = logging.getLogger(__name__)

SECONDS = re.compile(r"-?\d+(\.\d*)?")


class Utterance(NamedTuple):
    """An utterance: one line of each file of a data folder.

    Attributes:
        id: Id, which begins with the speaker's, so that sorting utterances sorts speakers too.
        speaker: Id of the speaker.
        audio: Path, `archive.ark:offset`, or shell command that ends in `|`; or a part of one, as source.py writes it.
        text: Transcript, "" if there is none.
    """

    id: str
    speaker: str
    audio: str
    text: str


def read_table(path: Path, allowed: Collection[str] = ()) -> dict[str, str]:
    """Read `key value...` lines, separated by any white space as in Kaldi and ESPnet; the value may be empty.

    Args:
        path: The file.
        allowed: Kinds of problems (recipe/validation/report.py) that are repaired: `windows-text`, `odd-spacing`,
            `repeated-id` (the first line stays), `not-utf-8` (each wrong byte becomes U+FFFD).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is blank, or its key was there before, or the file begins with a byte order mark.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run the stage that makes it, or add the file.")
    table: dict[str, str] = {}
    with path.open(encoding="utf-8", errors="replace" if "not-utf-8" in allowed else "strict") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1 and line.startswith("\ufeff") and "windows-text" not in allowed:
                # ESPnet, which reads these files too, would take it for a part of the id.
                raise ValueError(
                    f"{path}:1: the file begins with a byte order mark (U+FEFF); cut it off: "
                    rf"sed -i '1s/^\xEF\xBB\xBF//' {path}"
                )
            key, value = [*line.removeprefix("\ufeff").split(None, 1), "", ""][:2]
            if not key and "odd-spacing" in allowed:
                continue
            if not key:
                raise ValueError(f"{path}:{number}: the line is blank; remove it.")
            if key in table and "repeated-id" in allowed:
                continue
            if key in table:
                raise ValueError(f"{path}:{number}: {key} was there before; keys must be unique, keep one line.")
            table[key] = value.strip()
    return table


def write_tables(folder: Path, tables: Mapping[str, Mapping[str, object]]) -> None:
    """Write the files of a folder: all beside their targets, then all moved, so that nobody reads half a file.

    Args:
        folder: Folder, made if it is not there; its other files stay.
        tables: File name -> key -> value, written in sorted order of the keys.
    """
    with ExitStack() as stack:
        for name, table in tables.items():
            part = stack.enter_context(write_beside(folder / name))
            with part.open("w", encoding="utf-8") as file:
                file.writelines(f"{key} {table[key]}".rstrip() + "\n" for key in sorted(table))


def read_dir(folder: Path, allowed: Collection[str] = ()) -> list[Utterance]:
    """Read a data folder, and check that its files speak of the same utterances.

    With `segments`, utterances are parts of the recordings in `wav.scp`.

    Args:
        folder: The folder.
        allowed: Kinds of problems that are repaired as in `read_table`, or whose utterances are left out, with a
            warning: `missing-line`, `no-value`, `bad-segment`.

    Returns:
        Utterances in sorted order.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: The files disagree, a line is damaged, or there is nothing in them.
    """
    audio = read_sources(folder / "wav.scp", allowed)
    text, speaker = read_table(folder / "text", allowed), read_table(folder / "utt2spk", allowed)
    if "no-value" in allowed:
        speaker = {key: value for key, value in speaker.items() if value}
    if {"missing-line", "no-value", "bad-segment"} & set(allowed):
        audio, text, speaker = _of_common_keys(folder, audio, text, speaker)
    _check_same_keys(folder, {"text": text, "utt2spk": speaker}, audio)
    _check_no_empty_value(folder / "utt2spk", speaker)
    if not audio:
        raise ValueError(f"{audio_table(folder)} is empty; a data folder needs an utterance at least.")
    return [Utterance(key, speaker[key], audio[key], text[key]) for key in sorted(audio)]


def audio_table(folder: Path) -> Path:
    """The file with a line for the audio of each utterance: `segments` if there is one, otherwise `wav.scp`."""
    segments = folder / "segments"
    return segments if segments.exists() else folder / "wav.scp"


def read_sources(wav_scp: Path, allowed: Collection[str] = ()) -> dict[str, str]:
    """Read where the audio of each utterance is; a part of a recording if `segments` stands beside `wav.scp`.

    Args:
        wav_scp: The file.
        allowed: Kinds of problems, as in `read_dir`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is damaged, or `wav.scp` lacks a recording.
    """
    recordings = read_table(wav_scp, allowed)
    if "no-value" in allowed:
        recordings = {key: value for key, value in recordings.items() if value}
    _check_no_empty_value(wav_scp, recordings)
    segments = audio_table(wav_scp.parent)
    if segments.name == wav_scp.name or wav_scp.name != "wav.scp":
        return recordings
    sources = {}
    for number, (key, value) in enumerate(read_table(segments, allowed).items(), 1):
        try:
            sources[key] = source_of_segment(value, recordings)
        except ValueError as error:
            if "bad-segment" in allowed:
                continue
            raise ValueError(f"{segments}:{number}: {key}: {error}.") from error
    return sources


def source_of_segment(value: str, recordings: Mapping[str, str]) -> str:
    """Make the source of an utterance from its line in `segments`.

    Args:
        value: Recording, start and end in seconds; an end below zero is the recording's, as in Kaldi.
        recordings: Recording -> its source.

    Raises:
        ValueError: The line has another form, or there is no such recording.
    """
    words = value.split()
    if len(words) != 3 or not all(SECONDS.fullmatch(word) for word in words[1:]):
        raise ValueError(f"{value!r} is no segment; expected `RECORDING START END`, in seconds")
    start_s, end_s = map(float, words[1:])
    end_s = end_s if end_s >= 0 else float("inf")
    if not 0 <= start_s < end_s:
        raise ValueError(f"the segment from {words[1]} to {words[2]} s is empty")
    if words[0] not in recordings:
        raise ValueError(f"the recording {words[0]} is not in wav.scp")
    return str(Part(recordings[words[0]], start_s, end_s))


def write_dir(folder: Path, utterances: Iterable[Utterance]) -> None:
    """Write the four files of a data folder.

    Raises:
        ValueError: Two utterances have one id, an id or speaker has white space, or there are no utterances.
    """
    listed = list(utterances)
    _check_ids(folder, listed)
    write_tables(
        folder,
        {
            "wav.scp": {utterance.id: utterance.audio for utterance in listed},
            "text": {utterance.id: utterance.text for utterance in listed},
            "utt2spk": {utterance.id: utterance.speaker for utterance in listed},
            "spk2utt": _spk2utt(listed),
        },
    )


def _spk2utt(utterances: Iterable[Utterance]) -> dict[str, str]:
    by_speaker: dict[str, list[str]] = {}
    for utterance in utterances:
        by_speaker.setdefault(utterance.speaker, []).append(utterance.id)
    return {speaker: " ".join(sorted(ids)) for speaker, ids in by_speaker.items()}


def _of_common_keys(folder: Path, *tables: dict[str, str]) -> list[dict[str, str]]:
    """Leave out what not all tables have, and say so."""
    common = set.intersection(*(set(table) for table in tables))
    if lost := sorted(set().union(*tables) - common):
        logger.warning("%s: %d utterances are not in all files, and left out: %s", folder, len(lost), name_some(lost))
    return [{key: value for key, value in table.items() if key in common} for table in tables]


def _check_same_keys(folder: Path, tables: Mapping[str, Mapping[str, str]], audio: Mapping[str, str]) -> None:
    wanted, path = audio.keys(), audio_table(folder)
    for name, table in tables.items():
        if missing := sorted(wanted - table.keys()):
            raise ValueError(
                f"{folder}/{name} lacks {name_some(missing)} of {path.name} there; add the lines, or drop those."
            )
        if extra := sorted(table.keys() - wanted):
            number = list(table).index(extra[0]) + 1
            raise ValueError(
                f"{folder}/{name}:{number}: {name_some(extra)} not in {path}; add the audio or drop the lines."
            )


def _check_no_empty_value(path: Path, table: Mapping[str, str]) -> None:
    for number, (key, value) in enumerate(table.items(), 1):
        if not value:
            raise ValueError(f"{path}:{number}: {key} has no value; expected `{key} VALUE`.")


def _check_ids(folder: Path, utterances: list[Utterance]) -> None:
    if not utterances:
        raise ValueError(f"{folder}: no utterances to write; check the corpus and the options that select from it.")
    seen = set()
    for utterance in utterances:
        for field in (utterance.id, utterance.speaker):
            if not field or field.split() != [field]:
                raise ValueError(f"{folder}: {field!r} cannot be an id; ids are words without white space.")
        if utterance.id in seen:
            raise ValueError(f"{folder}: two utterances are called {utterance.id}; ids must be unique.")
        seen.add(utterance.id)
