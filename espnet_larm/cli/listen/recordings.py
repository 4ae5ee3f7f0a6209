"""What a user names to be transcribed: files, folders, stdin."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.audio_error import AudioError

STDIN = "-"


class Recording(NamedTuple):
    """A recording.

    Attributes:
        name: Its name for people.
        path: Its file; None for stdin.
        stem: Path of its outputs in their folder, without a suffix; no other recording has it.
    """

    name: str
    path: Path | None
    stem: Path

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """A file that holds it; stdin is copied to the disk, since most containers must be read back and forth."""
        if self.path is not None:
            yield self.path
            return
        with tempfile.NamedTemporaryFile(prefix="recording") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
            try:
                yield Path(file.name)
            except AudioError as error:
                # Its user does not know the copy.
                raise AudioError(error.kind, error.what.replace(file.name, self.name), error.remedy) from error


def find_recordings(names: Sequence[str]) -> tuple[list[Recording], list[str]]:
    """The recordings that arguments name, and a sentence for each argument that names none."""
    from espnet_larm.data.media import SUFFIXES

    found: list[tuple[str, Path | None, Path]] = []
    missing = []
    for name in names:
        path = Path(name)
        if name == STDIN:
            found.append(("stdin", None, Path("stdin")))
        elif path.is_dir():
            inside = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in SUFFIXES and each.is_file()]
            found += [(str(each), each, each.relative_to(path)) for each in inside]
            if not inside:
                missing.append(
                    f"{name} holds no recordings, that is no files that end in {', '.join(sorted(SUFFIXES))}."
                )
        elif path.exists():
            found.append((name, path, Path(path.name)))
        else:
            missing.append(f"{name} is missing; name a file, a folder, or - for stdin.")
    return list(_with_stems(found)), missing


def _with_stems(found: Sequence[tuple[str, Path | None, Path]]) -> Iterator[Recording]:
    taken: set[Path] = set()
    for name, path, inside in found:
        # talk.m4a is talk, unless talk.wav was before it; then its whole name, then numbers.
        choices = [inside.with_suffix(""), inside, *(inside.with_name(f"{inside.name}_{n}") for n in range(2, 10_000))]
        stem = next(choice for choice in choices if choice not in taken)
        taken.add(stem)
        yield Recording(name, path, stem)
