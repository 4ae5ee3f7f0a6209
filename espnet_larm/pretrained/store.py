"""Frames of a frozen front end on the disk, so that an epoch costs what stands on top of it.

A folder of shards: `0000.npy` holds frames of many utterances, float16 (frames, features), and `0000.tsv` says which:
lines of utterance, first frame, number of frames, and what its audio was. A shard without its table was not finished.
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
    """An utterance of a finished shard: its place, and what its audio was."""

    place: Place
    audio: str


def finished(folder: Path, size: int) -> Iterator[tuple[str, Stored]]:
    """Utterances of finished, undamaged shards; what is damaged is removed, and made again by the next `add`.

    Args:
        folder: The store.
        size: Features of a frame.
    """
    for table in sorted(folder.glob("*.tsv")):
        shard = table.with_suffix(".npy")
        checksum, *lines = table.read_text(encoding="utf-8").splitlines() or [""]
        if not _is_whole(shard, checksum, size):
            table.unlink()
            shard.unlink(missing_ok=True)
            continue
        for line in lines:
            key, first, count, audio = line.split("\t")
            yield key, Stored(Place(shard, int(first), int(count)), audio)


def add(folder: Path, frames: Mapping[str, np.ndarray], audio: Mapping[str, str]) -> dict[str, Stored]:
    """Write a shard; it counts once its table is there.

    Args:
        folder: The store.
        frames: (T, F) by utterance.
        audio: What each utterance's audio was.

    Raises:
        ValueError: A frame does not fit into float16.
    """
    number = max((int(path.stem) for path in folder.glob("*.npy")), default=-1) + 1
    shard = folder / f"{number:04}.npy"
    rows, stored, first = [], {}, 0
    for key, each in frames.items():
        with np.errstate(over="ignore"):
            rows.append(each.astype(np.float16))
        if not np.isfinite(rows[-1]).all():
            raise ValueError(
                f"{key}: frames of the model are too large for float16, or no numbers; train without a store."
            )
        stored[key] = Stored(Place(shard, first, len(each)), audio[key])
        first += len(each)
    whole = np.concatenate(rows)
    with write_beside(shard) as beside, beside.open("wb") as file:
        np.save(file, whole)
    lines = (f"{key}\t{each.place.first}\t{each.place.num_frames}\t{each.audio}\n" for key, each in stored.items())
    write_text(shard.with_suffix(".tsv"), f"{zlib.crc32(whole.data):08x}\n{''.join(lines)}")
    return stored


def _is_whole(shard: Path, checksum: str, size: int) -> bool:
    try:
        rows = np.load(shard, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return rows.ndim == 2 and rows.shape[1] == size and f"{zlib.crc32(np.ascontiguousarray(rows).data):08x}" == checksum


def read_records(scp: Path) -> list[dict[str, Any]]:
    """What `store.json` says of each store that a `frames.scp` names.

    Raises:
        FileNotFoundError: The table or a store is missing.
        ValueError: One of them is damaged, or the table is empty.
    """
    folders = dict.fromkeys(place.shard.parent for place in read_places(scp).values())
    return [_read_record(folder / RECORD, scp) for folder in folders]


def read_places(scp: Path) -> dict[str, Place]:
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

    Args:
        path: A `frames.scp`.

    Raises:
        FileNotFoundError: It, or a shard that it names, is missing.
        ValueError: A line is none, or a shard is damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.places = read_places(self.path)
        self._shards: dict[Path, np.ndarray] = {}
        for key, place in self.places.items():
            if place.first + place.num_frames > len(self._shard(place.shard)):
                raise ValueError(f"{place.shard} is cut short: it lacks frames of {key}; run store-frames again.")

    def _shard(self, path: Path) -> np.ndarray:
        if path not in self._shards:
            try:
                self._shards[path] = np.load(path, mmap_mode="r", allow_pickle=False)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{path} is missing, which {self.path} names; run store-frames again."
                ) from error
            except (ValueError, EOFError) as error:
                raise ValueError(f"{path} is damaged ({error}); run store-frames again.") from error
        return self._shards[path]

    def __getitem__(self, key: str) -> np.ndarray:
        place = self.places[key]
        return self._shard(place.shard)[place.first : place.first + place.num_frames].astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
