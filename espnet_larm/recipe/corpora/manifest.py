"""Manifests: a table of one's own recordings, TSV with a header line or JSONL, an utterance a line.

Columns or keys: `audio` (a path, relative to the manifest), `text`, and `speaker`, which may be left out, as may `id`.
JSONL of NeMo's form is read, too: it has `audio_filepath` for `audio`.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from espnet_larm.data.kaldi_dir import Utterance

NEEDED, OPTIONAL = ("audio", "text"), ("speaker", "id")
NEMO_AUDIO = "audio_filepath"
SUFFIXES = (".tsv", ".jsonl")


def read_manifests(paths: Iterable[Path]) -> list[Utterance]:
    """Read manifests as one set.

    Returns:
        Utterances in sorted order. Ids begin with the speaker's; without speakers, each utterance is its own.

    Raises:
        FileNotFoundError: A manifest is missing.
        ValueError: A line lacks a value, or has one too many or of the wrong kind; two utterances have one id; a file
            is not in UTF-8.
    """
    utterances: dict[str, Utterance] = {}
    for path in paths:
        for number, row in _rows(path):
            utterance = _utterance(f"{path}:{number}", path.parent, row)
            if (other := utterances.get(utterance.id)) is not None:
                raise ValueError(
                    f"{path}:{number}: the id {utterance.id} is that of {other.audio}, too; give both an id."
                )
            utterances[utterance.id] = utterance
    return sorted(utterances.values())


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is neither .tsv nor .jsonl; allowed: {', '.join(SUFFIXES)}.")
    try:
        file = io.StringIO(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from error
    if path.suffix == ".tsv":
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        _check_columns(path, table.fieldnames or ())
        for row in table:
            if None in row:
                raise ValueError(
                    f"{path}:{table.line_num}: more fields than columns; a text must not have tabs, make them spaces."
                )
            yield table.line_num, row
        return
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _parsed(f"{path}:{number}", line)


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if twice := [name for name in (*NEEDED, *OPTIONAL) if names.count(name) > 1]:
        raise ValueError(f"{path}:1: {names.count(twice[0])} columns are called {twice[0]}; keep one.")
    if lacking := [name for name in NEEDED if name not in names]:
        raise ValueError(
            f"{path}:1: no column {' or '.join(lacking)}; the first line names the columns, by tabs: "
            f"{', '.join(NEEDED)}, and if there are any {', '.join(OPTIONAL)}."
        )


def _parsed(where: str, line: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON ({error}).") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: no JSON object; one has the keys {', '.join(NEEDED)}.")
    return {"audio": row.get(NEMO_AUDIO), **row}


def _utterance(where: str, folder: Path, row: Mapping[str, object]) -> Utterance:
    for name in NEEDED:
        if not isinstance(row.get(name), str | None):
            raise ValueError(f"{where}: {name} is {json.dumps(row[name])}; allowed: a text in quotation marks.")
    # Ids and speakers may be numbers.
    given = {name: row.get(name) for name in (*NEEDED, *OPTIONAL)}
    values = {name: "" if value is None else " ".join(str(value).split()) for name, value in given.items()}
    if not values["audio"] or row.get("text") is None:
        raise ValueError(f"{where}: no {'text' if values['audio'] else 'audio'}; leave the line out, or complete it.")
    audio = folder / values["audio"]
    stem = _as_id(values["id"] or Path(values["audio"]).with_suffix("").as_posix())
    speaker = _as_id(values["speaker"]) or stem
    is_named = stem == speaker or stem.startswith(f"{speaker}-")
    return Utterance(stem if is_named else f"{speaker}-{stem}", speaker, str(audio), values["text"])


def _as_id(text: str) -> str:
    """Letters, digits and signs that ids may have."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_")
