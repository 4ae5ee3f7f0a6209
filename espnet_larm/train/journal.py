"""Record of a training, `training.jsonl` in the experiment's folder: its commits, machines and time.

There is a line for the start of each session, for each epoch, and for the unfinished epoch of a session that broke off.
Lines are appended and synced, so that a kill loses no earlier one. Every line has the seconds since the line before;
their sum is the time that was spent, repeated epochs included.
"""

import contextlib
import datetime as dt
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from espnet_larm.origin import commit, describe_machine, versions

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

JOURNAL = "training.jsonl"


class Journal:
    """Writes the lines of one session, in one process of a training.

    Args:
        path: Path of the file.
        is_resumed: Whether the training goes on from a checkpoint; otherwise readers ignore earlier lines.
        num_processes: Number of processes of the training.
    """

    def __init__(self, path: Path, is_resumed: bool, num_processes: int) -> None:
        self._path = path
        self._is_resumed = is_resumed
        self._num_processes = num_processes
        self._is_started = False
        self._epoch: int | None = None
        self._mark = 0.0

    def start_epoch(self, epoch: int, model: "torch.nn.Module") -> None:
        """Write the end of the previous epoch or, at the first epoch, the start of the session."""
        # Programs that only read do without torch.
        from espnet_larm.train.learning import learning_parts

        self.end_epoch()
        if not self._is_started:
            # Not earlier: a session that finds nothing left to train leaves no line.
            self._is_started, self._mark = True, time.perf_counter()
            self._append(
                event="start",
                epoch=epoch,
                resume=self._is_resumed,
                commit=commit(),
                versions=versions(),
                machine=describe_machine(next(model.parameters()).device),
                num_processes=self._num_processes,
                parameters=[part._asdict() for part in learning_parts(model)],
            )
        self._epoch = epoch

    def end_epoch(self) -> None:
        """Write that the epoch is finished, if there is one."""
        if self._epoch is not None:
            self._append(event="epoch", epoch=self._epoch)
            self._epoch = None

    def break_off(self) -> None:
        """Write the time spent on an unfinished epoch, if there is one."""
        if self._epoch is None:
            return
        try:
            self._append(event="broken off", epoch=self._epoch)
        except OSError:
            # The disk is full; the error that ended the training must be raised, not this one.
            logger.exception("The seconds of epoch %d are not in %s.", self._epoch, self._path)
        self._epoch = None

    def _append(self, **values: Any) -> None:
        now = time.perf_counter()
        stamp = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
        line = json.dumps({"time": stamp, **values, "seconds": round(now - self._mark, 3)}) + "\n"
        self._mark = now
        with self._path.open("a+b") as file:
            if file.tell() and not _ends_in_newline(file):
                # A power cut or a full disk has left half a line.
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def _ends_in_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


class Spent(NamedTuple):
    """Epochs and time of a training so far.

    Attributes:
        epochs: Finished epochs, ascending.
        seconds: Time of all sessions, without the unfinished epochs of killed ones.
        starts: The first line of each session, oldest first.
    """

    epochs: tuple[int, ...]
    seconds: float
    starts: tuple[dict[str, Any], ...]


def read_journal(path: Path) -> Spent | None:
    """Epochs and time in a record; None if there is no record."""
    lines = list(_whole_lines(path.read_text(encoding="utf-8"))) if path.is_file() else []
    anew = [index for index, line in enumerate(lines) if line["event"] == "start" and not line["resume"]]
    lines = lines[anew[-1] if anew else 0 :]
    starts = tuple(line for line in lines if line["event"] == "start")
    if not starts:
        return None
    epochs = sorted({line["epoch"] for line in lines if line["event"] == "epoch"})
    return Spent(tuple(epochs), sum(line["seconds"] for line in lines), starts)


def _whole_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        # Half a line: see Journal._append.
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)
