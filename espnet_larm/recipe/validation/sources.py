"""What can be said of the second column of `wav.scp` without opening the audio: a look at the name and at the disk."""

import functools
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from espnet_larm.data.audio import ARCHIVE_ENTRY, is_command
from espnet_larm.recipe.validation.report import Finding

# How a path that is not there may have been meant: form, kind of problem, words.
SPELLINGS = (
    (re.compile("['\"]"), "quoted-path", "stands in quotes"),
    (re.compile("~"), "tilde-path", "begins with ~"),
    (re.compile(r".*\$[\w{(]"), "variable-in-path", "names a shell variable"),
    (re.compile("file:"), "file-url", "is a URL of a file"),
    (re.compile("[a-z][a-z0-9+.-]*://"), "url", "is on another machine"),
    (re.compile(r"[A-Za-z]:\\|.*\\.*\\"), "windows-path", "is a path of Windows"),
    (re.compile("[^ ]*[*?]"), "wildcard-path", "holds a wildcard"),
)
AUDIO_EXTENSIONS = (".flac", ".wav", ".sph", ".mp3", ".ogg", ".opus", ".m4a", ".FLAC", ".WAV", ".SPH", ".MP3")


def find_source_problem(key: str, source: str, folder: Path) -> Finding | None:
    """The reason why a source cannot be read.

    Args:
        key: Id of the utterance, named in the finding.
        source: The second column.
        folder: Where `wav.scp` lies.
    """
    if not source:
        return Finding("no-path", f"{key} has no path")
    if source.startswith("|") and source != "|":
        return Finding("output-pipe", f"{key}: `{source}` begins with |, which is how Kaldi writes to a command")
    if is_command(source):
        return _find_command_problem(key, source[:-1].strip())
    try:
        return _find_file_problem(key, source, Path(source).stat())
    except (FileNotFoundError, NotADirectoryError):
        return _find_archive_problem(key, source, folder)
    except OSError as error:
        kind = "unreadable-audio" if isinstance(error, PermissionError) else "broken-link"
        return Finding(kind, f"{key}: {source} cannot be reached ({error.strerror})")


def _find_file_problem(key: str, source: str, status: os.stat_result) -> Finding | None:
    if stat.S_ISDIR(status.st_mode):
        return Finding("audio-is-a-folder", f"{key}: {source} is a folder")
    if not stat.S_ISREG(status.st_mode):
        return Finding("audio-is-no-file", f"{key}: {source} is a pipe, a socket or a device")
    if status.st_size == 0:
        return Finding("empty-audio-file", f"{key}: {source} has 0 bytes")
    if not os.access(source, os.R_OK):
        return Finding("unreadable-audio", f"{key}: you may not read {source}")
    if source.endswith(".ark"):
        return Finding("archive-without-offset", f"{key}: {source} is a Kaldi archive of many utterances")
    return None


def _find_command_problem(key: str, command: str) -> Finding | None:
    if not command:
        return Finding("empty-command", f"{key}: nothing stands before the |")
    program = command.split(maxsplit=1)[0]
    # Anything but a plain name or path is for the shell to understand.
    if re.fullmatch(r"[\w./+-]+", program) and not _is_known_program(program):
        return Finding("unknown-program", f"{key}: there is no program {program} on this machine")
    return None


@functools.cache
def _is_known_program(name: str) -> bool:
    return (
        subprocess.run(["sh", "-c", f"command -v {shlex.quote(name)}"], capture_output=True, check=False).returncode
        == 0
    )


def _find_archive_problem(key: str, source: str, folder: Path) -> Finding | None:
    """For what is no file's name: `archive:offset`, or the likeliest reason why no such file is there."""
    match = ARCHIVE_ENTRY.fullmatch(source)
    if match is None:
        return next(_reasons(key, source, folder))
    path, offset = Path(match["path"]), int(match["offset"])
    if not path.is_file():
        return Finding("missing-archive", f"{key}: the archive {path} is missing")
    if offset >= path.stat().st_size:
        return Finding("beyond-archive", f"{key}: {path} has {path.stat().st_size} bytes, the offset is {offset}")
    return None


def _reasons(key: str, source: str, folder: Path) -> Iterator[Finding]:
    path, first = Path(source), source.split(maxsplit=1)[0]
    for pattern, kind, what in SPELLINGS:
        if pattern.match(source):
            yield Finding(kind, f"{key}: {source} {what}")
    if path.is_symlink():
        yield Finding("broken-link", f"{key}: {source} is a link to {path.readlink()}, which is missing")
    if first != source and Path(first).is_file():
        yield Finding("words-after-path", f"{key}: {first} is there, but more words follow: {source}")
    if (folder / source).is_file():
        yield Finding("relative-to-folder", f"{key}: {source} is in {folder}, but paths count from {Path.cwd()}")
    for extension in AUDIO_EXTENSIONS:
        if extension != path.suffix and path.with_suffix(extension).is_file():
            yield Finding("other-extension", f"{key}: {source} is missing, {path.stem}{extension} is there")
    if not path.parent.is_dir():
        yield Finding("missing-audio-folder", f"{key}: the folder of {source} is missing")
    yield Finding("missing-audio", f"{key}: {source} is missing")
