"""Manifests: a table of one's own recordings, TSV with a header line or JSONL, an utterance a line.

Columns or keys: `audio` (a path, relative to the manifest), `text`, and `speaker`, which may be left out, as may `id`.
JSONL of NeMo's form is read, too: it has `audio_filepath` for `audio`.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
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
        ValueError: A line lacks a value, or two utterances have one id.
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
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".tsv":
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            _check_columns(path, table.fieldnames or ())
            yield from ((table.line_num, row) for row in table)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parsed(f"{path}:{number}", line)


def _check_columns(path: Path, names: Iterable[str]) -> None:
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
    values = {name: " ".join(str(row.get(name) or "").split()) for name in (*NEEDED, *OPTIONAL)}
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
