"""What `transcribe` shows: texts on stdout, files in a folder, progress on a terminal."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_larm.cli.listen.recordings import Recording
from espnet_larm.files.atomic import write_beside
from espnet_larm.listen.formats import FORMATS, Written

if TYPE_CHECKING:
    from espnet_larm.listen import transcriber
    from espnet_larm.listen.segments import Segment

# Back to the line's start, and clear it.
CLEAR = "\r\x1b[K"


def parse_formats(word: str) -> tuple[str, ...]:
    """The formats that a word names, each once.

    Raises:
        argparse.ArgumentTypeError: One is unknown.
    """
    names = tuple(dict.fromkeys(word.split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or word}; allowed: {', '.join(FORMATS)}")
    return names


class Writer:
    """Makes what files say, and writes them.

    Args:
        folder: Where they go; None writes none.
        formats: Formats, by name.
        words: Whether to write times of words.
        model: Name of the model.
        language: The language that was asked for.
    """

    def __init__(
        self, folder: Path | None, formats: tuple[str, ...], words: bool, model: str, language: str | None
    ) -> None:
        self.folder, self.formats, self.words, self.model, self.language = folder, formats, words, model, language

    def write(self, recording: Recording, found: "transcriber.Transcription") -> list[Written]:
        """Write the files of a recording.

        Returns:
            What they say, by loop.

        Raises:
            OSError: A file cannot be written.
        """
        texts: dict[int | None, tuple[str, tuple[Segment, ...]]] = {
            loop: (each.text, each.segments) for loop, each in found.loops.items()
        }
        written = [
            Written(
                *(recording.name, self.model, loop, found.duration_s, self.language, text, segments, self.words),
                found.mean_loops,
            )
            for loop, (text, segments) in (texts or {None: (found.text, found.segments)}).items()
        ]
        for each in written if self.folder is not None else []:
            assert self.folder is not None
            mark = f".loop{each.loop}" if len(written) > 1 else ""
            for name in self.formats:
                target = self.folder / recording.stem.with_name(f"{recording.stem.name}{mark}.{name}")
                with write_beside(target) as beside:
                    beside.write_text(FORMATS[name](each), encoding="utf-8")
        return written


class Printer:
    """Prints texts on stdout.

    Args:
        form: The format.
        names: Whether the recording's name comes first.
        compares: Whether to print loops with their seconds.
    """

    def __init__(self, form: str, names: bool, compares: bool) -> None:
        self.form, self.names, self.compares = form, names, compares

    def show(self, name: str, found: "transcriber.Transcription", written: list[Written]) -> None:
        """Print a recording: one line of text, or one a loop."""
        if self.compares:
            print(f"{name}: {found.duration_s:.1f} s")
            for loop, said in found.loops.items():
                print(f"  loop {loop:>3}  {found.seconds[loop]:8.2f} s  {said.text}")
        else:
            for each in written:
                mark = f"loop {each.loop}: " if len(written) > 1 and self.form == "txt" else ""
                start = f"{name}: " if self.names else ""
                print(f"{start}{mark}{FORMATS[self.form](each)}", end="")
        # A reader of a pipe sees each recording as soon as it is there.
        sys.stdout.flush()


class Progress:
    """Shows on a terminal how far a recording is, and how fast that was; silent where stderr is none."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty()
        self.start, self.audio_s = time.perf_counter(), 0.0

    def shown(self, name: str, following: "Iterable[transcriber.Progress]") -> "Iterator[transcriber.Progress]":
        """Yield the same while it is shown."""
        start, end_s = time.perf_counter(), 0.0
        for each in following:
            end_s = each.end_s
            self._write(f"{CLEAR}{name}: {_speed(end_s, time.perf_counter() - start)}")
            yield each
        self.audio_s += end_s

    def clear(self) -> None:
        """Clear the line, for what is printed."""
        self._write(CLEAR)

    def sum_up(self) -> None:
        """Show what all recordings took together."""
        self._write(f"{_speed(self.audio_s, time.perf_counter() - self.start)}\n")

    def _write(self, text: str) -> None:
        if self.is_shown:
            print(text, end="", file=sys.stderr, flush=True)


def _speed(audio_s: float, seconds: float) -> str:
    factor = f", real-time factor {seconds / audio_s:.2f}" if audio_s else ""
    return f"{audio_s:.0f} s of audio in {seconds:.0f} s{factor}"
