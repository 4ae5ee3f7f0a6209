"""Batches that a decoding has finished, on the disk: the same command goes on behind them after a kill or bad audio.

Lines of JSON, appended and synced: the first says what the hypotheses depend on, each other one holds a batch.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from espnet_larm.recognize.output.results import Cost, Transcript

NAME = "finished.jsonl"


class Done(NamedTuple):
    """Utterances that were recognised together.

    Attributes:
        transcripts: By utterance.
        num_samples: Samples of all.
        cost: What they took.
        is_cut: Whether it is one long utterance, cut and joined.
    """

    transcripts: dict[str, Transcript]
    num_samples: int
    cost: Cost
    is_cut: bool = False


class FinishedBatches:
    """Finds and adds batches.

    Args:
        path: Path of the file; None keeps nothing. A file of another decoding is replaced at the first batch, and a
            batch that is not whole, the last one of a killed run, counts as not decoded.
        depends_on: What the hypotheses depend on.
    """

    def __init__(self, path: Path | None, depends_on: dict[str, object]) -> None:
        self._path = path
        self._head = json.dumps(depends_on, default=str) + "\n"
        self._batches = {tuple(done.transcripts): done for done in self._read()}

    def __len__(self) -> int:
        """The number of utterances of all batches."""
        return sum(map(len, self._batches))

    def _read(self) -> Iterator[Done]:
        if self._path is None or not self._path.is_file():
            return
        reader = TypeAdapter(Done)
        with self._path.open("rb+") as file:
            if file.readline() != self._head.encode():
                return
            end = file.tell()
            for line in file:
                try:
                    yield reader.validate_json(line)
                except ValidationError:
                    break
                end += len(line)
            # What is added must not follow half a line.
            file.truncate(end)

    def find(self, keys: Sequence[str]) -> Done | None:
        """What was decoded of these utterances, together and in this order; None if they were not."""
        return self._batches.get(tuple(keys))

    def add(self, done: Done) -> None:
        """Keep a batch: a kill after this does not lose it."""
        if self._path is None:
            return
        if not self._batches:
            self._append("w", self._head)
        self._batches[tuple(done.transcripts)] = done
        self._append("a", json.dumps(done) + "\n")

    def _append(self, mode: str, line: str) -> None:
        assert self._path is not None
        with self._path.open(mode, encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def forget(self) -> None:
        """Remove the file: all was decoded and written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


NOTHING_FINISHED = FinishedBatches(None, {})
