"""Brings a data folder's audio to one rate, mono, in a form that ESPnet reads; audio that already fits keeps its path.

A set is either all plain files (data type `sound`) or FLAC files and archive entries mixed (`kaldi_ark`).
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.archive import Rendered, Rendering, write_archive
from espnet_larm.data.audio import is_archive_entry, is_command, read_audio
from espnet_larm.data.kaldi_dir import Utterance
from espnet_larm.data.parallel import map_chunks

NUM_ERRORS_SHOWN = 20


class Checked(NamedTuple):
    """What a source turned out to be.

    Attributes:
        id: Of the utterance.
        kind: `archived` or a plain file's `FLAC`, `WAV`, ... if it fits as it is; `other` if it must be converted.
        num_samples: If it fits, otherwise 0.
        error: Why it could not be read, or "".
    """

    id: str
    kind: str
    num_samples: int
    error: str


class Formatted(NamedTuple):
    """A set that ESPnet reads.

    Attributes:
        sources: Utterance id -> path or archive entry.
        num_samples: Utterance id -> length.
        audio_format: `flac.ark` if there are archive entries, else the plain files' form in lower case.
        num_converted: Utterances that were written anew.
    """

    sources: dict[str, str]
    num_samples: dict[str, int]
    audio_format: str
    num_converted: int


def format_audio(utterances: Sequence[Utterance], archive_dir: Path, sample_rate: int, num_jobs: int) -> Formatted:
    """Check every utterance's audio by decoding it, and convert what does not fit.

    Args:
        utterances: With unique ids.
        archive_dir: Archives are written here; nothing is if all audio fits.
        sample_rate: Wanted, in Hz.
        num_jobs: Processes.

    Returns:
        Where the audio is now.

    Raises:
        ValueError: Audio is missing, truncated or unreadable; names every such utterance (20 in the message).
    """
    items = [Rendering(utterance.id, utterance.audio) for utterance in utterances]
    checked = map_chunks(functools.partial(_check_chunk, sample_rate=sample_rate), items, num_jobs, "checked")
    raise_if_bad((entry.id, entry.error) for entry in checked)
    plain = {entry.kind for entry in checked} - {"archived", "other"}
    all_plain = all(entry.kind in plain for entry in checked)
    keep = {entry.id: entry for entry in checked if entry.kind in (plain if all_plain else {"archived", "FLAC"})}
    convert = [item for item in items if item.id not in keep]
    rendered = write_archives(archive_dir, convert, sample_rate, num_jobs)
    kept_sources = {item.id: item.source for item in items if item.id in keep}
    kept_lengths = {utterance: entry.num_samples for utterance, entry in keep.items()}
    return Formatted(
        sources=kept_sources | {entry.id: entry.source for entry in rendered},
        num_samples=kept_lengths | {entry.id: entry.num_samples for entry in rendered},
        audio_format="_".join(sorted(plain)).lower() if all_plain else "flac.ark",
        num_converted=len(rendered),
    )


def write_archives(folder: Path, renderings: Sequence[Rendering], sample_rate: int, num_jobs: int) -> list[Rendered]:
    """Write renderings as archives; all of them, or, on an error, none.

    Archives are named by a digest of what they hold, so that a folder which still uses earlier ones stays whole.

    Raises:
        ValueError: As `format_audio`.
    """
    if not renderings:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(repr((list(renderings), sample_rate)).encode()).hexdigest()[:8]
    write = functools.partial(_write_chunk, stem=folder / digest, sample_rate=sample_rate)
    rendered = map_chunks(write, renderings, num_jobs, "converted")
    parts = sorted(folder.glob(f".{digest}.*.part"))
    bad = [(entry.id, entry.error) for entry in rendered]
    if any(error for _, error in bad):
        for part in parts:
            part.unlink()
        raise_if_bad(bad)
    for part in parts:
        part.replace(_final_name(part))
    return [entry._replace(source=_final_source(entry.source)) for entry in rendered]


def remove_unused_archives(folder: Path, sources: Sequence[str]) -> None:
    """Remove archives that earlier runs of `write_archives` left in `folder` and that no source names."""
    used = {source.rpartition(":")[0] for source in sources}
    for path in folder.glob("????????.*.flac.ark"):
        if str(path) not in used:
            path.unlink()


def raise_if_bad(errors: Iterable[tuple[str, str]]) -> None:
    """Raise one ValueError for all (id, error) pairs whose error is not ""."""
    bad = [f"  {utterance}: {error}" for utterance, error in errors if error]
    if bad:
        more = f"\n  ... and {len(bad) - NUM_ERRORS_SHOWN} more" if len(bad) > NUM_ERRORS_SHOWN else ""
        shown = "\n".join(bad[:NUM_ERRORS_SHOWN])
        raise ValueError(f"{len(bad)} utterances have unusable audio; nothing was written:\n{shown}{more}")


def _check_chunk(_number: int, items: Sequence[Rendering], sample_rate: int) -> list[Checked]:
    return [_check_one(item, sample_rate) for item in items]


def _check_one(item: Rendering, sample_rate: int) -> Checked:
    """Decode what might stay; a command runs only once, when it is converted."""
    if is_command(item.source):
        return Checked(item.id, "other", 0, "")
    try:
        header, samples = read_audio(item.source)
    except (OSError, ValueError) as error:
        return Checked(item.id, "other", 0, str(error))
    if (header.sample_rate, header.num_channels) != (sample_rate, 1):
        return Checked(item.id, "other", 0, "")
    return Checked(item.id, "archived" if is_archive_entry(item.source) else header.form, len(samples), "")


def _write_chunk(number: int, items: Sequence[Rendering], stem: Path, sample_rate: int) -> list[Rendered]:
    return write_archive(stem.with_name(f".{stem.name}.{number:05d}.flac.ark.part"), items, sample_rate)


def _final_source(source: str) -> str:
    path, _, offset = source.rpartition(":")
    return f"{_final_name(Path(path))}:{offset}"


def _final_name(part: Path) -> Path:
    return part.with_name(part.name.removeprefix(".").removesuffix(".part"))
