"""Frames of a frozen front end on the disk, so that an epoch costs what stands on top of it.

A folder of shards: `0000.npy` holds frames of many utterances, float16 (frames, features), and `0000.tsv` says which:
lines of utterance, first frame, number of frames, what its audio was, and the CRC-32 of its frames, below a line with
that of all lines. A shard without its table was not finished.
`store.json` says of which model, and is written last. `frames.scp` in the data folder, for ESPnet's data type `frames`,
has lines `utterance shard:first:number`.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_larm.files.atomic import write_beside, write_text

RECORD = "store.json"
SCP = "frames.scp"
DATA_TYPE = "frames"


class Place(NamedTuple):
    """Where an utterance's frames are.

    Attributes:
        shard: Path of the shard.
        first: Its first frame there.
        num_frames: Number of its frames.
    """

    shard: Path
    first: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.shard}:{self.first}:{self.num_frames}"

    @classmethod
    def parse(cls, text: str) -> "Place":
        """The place that `str` made a text of.

        Raises:
            ValueError: It is no such text.
        """
        path, _, rest = text.partition(".npy:")
        first, _, count = rest.partition(":")
        if not (path and first.isdecimal() and count.isdecimal()):
            raise ValueError(f"{text} is no place of frames (shard.npy:first:number); run store-frames again.")
        return cls(Path(f"{path}.npy"), int(first), int(count))


class Stored(NamedTuple):
    """An utterance of a finished shard.

    Attributes:
        place: Where its frames are.
        audio: What its audio was.
        checksum: CRC-32 of its frames.
    """

    place: Place
    audio: str
    checksum: str


def finished(folder: Path, size: int) -> Iterator[tuple[str, Stored]]:
    """Utterances of finished, undamaged shards; the others are removed, and made again by the next `add`.

    Args:
        folder: The store.
        size: Features of a frame.
    """
    for shard in _shards(folder):
        try:
            table, rows = _read_table(shard), _open(shard)
        except (OSError, ValueError):
            table, rows = {}, np.zeros((0, 0))
        is_whole = rows.ndim == 2 and rows.shape[1] == size and all(_holds(rows, each) for each in table.values())
        if table and is_whole:
            yield from table.items()
        else:
            shard.with_suffix(".tsv").unlink(missing_ok=True)
            shard.unlink(missing_ok=True)


def add(folder: Path, frames: Mapping[str, np.ndarray], audio: Mapping[str, str]) -> dict[str, Stored]:
    """Write a shard; it counts once its table is there.

    Args:
        folder: The store.
        frames: (T, F) by utterance.
        audio: What each utterance's audio was.

    Raises:
        ValueError: A frame does not fit into float16.
    """
    number = max((int(path.stem) for path in _shards(folder)), default=-1) + 1
    shard = folder / f"{number:04}.npy"
    rows, stored, first = [], {}, 0
    for key, each in frames.items():
        with np.errstate(over="ignore"):
            rows.append(each.astype(np.float16))
        if not np.isfinite(rows[-1]).all():
            raise ValueError(
                f"{key}: frames of the model are too large for float16, or no numbers; train without a store."
            )
        stored[key] = Stored(Place(shard, first, len(each)), audio[key], _crc(rows[-1]))
        first += len(each)
    with write_beside(shard) as beside, beside.open("wb") as file:
        np.save(file, np.concatenate(rows))
    fields = ((key, each.place.first, each.place.num_frames, each.audio, each.checksum) for key, each in stored.items())
    lines = "".join("\t".join(map(str, line)) + "\n" for line in fields)
    write_text(shard.with_suffix(".tsv"), f"{zlib.crc32(lines.encode()):08x}\n{lines}")
    return stored


def _shards(folder: Path) -> list[Path]:
    """Shards, finished or not; other files in the folder are none of ours."""
    named = {path.with_suffix(".npy") for path in folder.iterdir() if path.suffix in (".npy", ".tsv")}
    return sorted(path for path in named if path.stem.isdecimal())


def _read_table(shard: Path) -> dict[str, Stored]:
    """What a shard holds.

    Raises:
        FileNotFoundError: It has no table.
        ValueError: The table is damaged.
    """
    path = shard.with_suffix(".tsv")
    try:
        checksum, _, lines = path.read_bytes().partition(b"\n")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; run store-frames again.") from error
    if checksum != f"{zlib.crc32(lines):08x}".encode():
        raise ValueError(f"{path} is damaged; run store-frames again.")
    rows = (line.split("\t") for line in lines.decode().splitlines())
    return {key: Stored(Place(shard, int(first), int(count)), *rest) for key, first, count, *rest in rows}


def _open(shard: Path) -> np.ndarray:
    """Frames of a shard, left on the disk.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is damaged.
    """
    try:
        return np.load(shard, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{shard} is missing; run store-frames again.") from error
    except (ValueError, EOFError) as error:
        raise ValueError(f"{shard} is damaged ({error}); run store-frames again.") from error


def _holds(rows: np.ndarray, stored: Stored) -> bool:
    """Whether a shard holds the frames of an utterance as they were written."""
    first, count = stored.place.first, stored.place.num_frames
    return first + count <= len(rows) and _crc(rows[first : first + count]) == stored.checksum


def _crc(rows: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(rows).data):08x}"


def read_records(scp: Path) -> list[dict[str, Any]]:
    """What `store.json` says of each store that a `frames.scp` names.

    Raises:
        FileNotFoundError: The table or a store is missing.
        ValueError: One of them is damaged, or the table is empty.
    """
    folders = dict.fromkeys(place.shard.parent for place in _read_places(scp).values())
    return [_read_record(folder / RECORD, scp) for folder in folders]


def _read_places(scp: Path) -> dict[str, Place]:
    """Where the frames of each utterance of a `frames.scp` are.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no place, or there is none.
    """
    lines = scp.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise ValueError(f"{scp} is empty; run store-frames again.")
    return {key: Place.parse(text) for key, _, text in (line.partition(" ") for line in lines)}


def _read_record(path: Path, scp: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, so that the store of {scp} was not finished; run store-frames again."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); run store-frames again.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged: it holds no mapping; run store-frames again.")
    return record


class FramesReader(Mapping[str, np.ndarray]):
    """ESPnet's reader of the data type `frames`: utterance to frames (T, F), float32.

    Frames are compared with their checksum as they are read.

    Args:
        path: A `frames.scp`.

    Raises:
        FileNotFoundError: It, or a shard that it names, is missing.
        ValueError: A line is none, or a shard is damaged or holds something else.
    """

    def __init__(self, path: str) -> None:
        self.places = _read_places(Path(path))
        shards = dict.fromkeys(place.shard for place in self.places.values())
        tables = {shard: _read_table(shard) for shard in shards}
        self._shards = {shard: _open(shard) for shard in shards}
        self._stored: dict[str, Stored] = {}
        for key, place in self.places.items():
            found = tables[place.shard].get(key)
            if found is None or found.place != place:
                raise ValueError(f"{place.shard} does not hold {key} where {path} says; run store-frames again.")
            if place.first + place.num_frames > len(self._shards[place.shard]):
                raise ValueError(f"{place.shard} is cut short: it lacks frames of {key}; run store-frames again.")
            self._stored[key] = found

    def __getitem__(self, key: str) -> np.ndarray:
        place, rows = self.places[key], self._shards[self.places[key].shard]
        if not _holds(rows, self._stored[key]):
            raise ValueError(f"{place.shard} is damaged: it lost the frames of {key}; run store-frames again.")
        return rows[place.first : place.first + place.num_frames].astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
