"""Brings a data folder's audio to one rate, mono, in a form that ESPnet reads; audio that already fits keeps its path.

A set is either all plain files (data type `sound`) or all archive entries (`kaldi_ark`): ESPnet reads a plain file
under `kaldi_ark`, too, but as integers, 32768 times louder than an entry.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.audio import AudioError, is_archive_entry, is_command, read_audio
from espnet_larm.data.kaldi_dir import Utterance
from espnet_larm.data.parallel import map_chunks
from espnet_larm.recipe.archive import Rendered, Rendering, finding_of, write_archive
from espnet_larm.recipe.validation.content import check_samples
from espnet_larm.recipe.validation.report import Finding

NUM_ERRORS_SHOWN = 20


class UnusableAudioError(ValueError):
    """Audio of some utterances cannot be used.

    Args:
        bad: Utterance id and what is wrong with it.
        others: What was found besides.
    """

    def __init__(self, bad: Sequence[tuple[str, Finding]], others: Sequence[tuple[str, Finding]] = ()) -> None:
        shown = "".join(f"\n  {finding.what}" for _, finding in bad[:NUM_ERRORS_SHOWN])
        more = f"\n  ... and {len(bad) - NUM_ERRORS_SHOWN} more" if len(bad) > NUM_ERRORS_SHOWN else ""
        super().__init__(f"{len(bad)} utterances have unusable audio; nothing was written:{shown}{more}")
        self.findings = [*bad, *others]


class Checked(NamedTuple):
    """What a source turned out to be.

    Attributes:
        id: Of the utterance.
        kind: `archived` or a plain file's `FLAC`, `WAV`, ... if it fits as it is; `other` if it must be converted.
        num_samples: If it fits, otherwise 0.
        findings: What is wrong with it.
        is_readable: Whether it could be decoded.
    """

    id: str
    kind: str
    num_samples: int
    findings: tuple[Finding, ...] = ()
    is_readable: bool = True


class Formatted(NamedTuple):
    """A set that ESPnet reads.

    Attributes:
        sources: Utterance id -> path or archive entry.
        num_samples: Utterance id -> length.
        audio_format: `flac.ark` if there are archive entries, else the plain files' form in lower case.
        num_converted: Utterances that were written anew.
        findings: Utterance id and what is wrong with its audio, though not so much that it cannot be used.
    """

    sources: dict[str, str]
    num_samples: dict[str, int]
    audio_format: str
    num_converted: int
    findings: list[tuple[str, Finding]]


def is_never_an_error(_kind: str) -> bool:
    """Audio that can be decoded is used."""
    return False


def format_audio(
    utterances: Sequence[Utterance],
    archive_dir: Path,
    sample_rate: int,
    num_jobs: int,
    is_error: Callable[[str], bool] = is_never_an_error,
) -> Formatted:
    """Check every utterance's audio by decoding it, and convert what does not fit.

    Args:
        utterances: With unique ids.
        archive_dir: Archives are written here; nothing is if all audio fits.
        sample_rate: Wanted, in Hz.
        num_jobs: Processes.
        is_error: Whether a kind of problem with decoded audio stops everything, as silence might.

    Returns:
        Where the audio is now.

    Raises:
        UnusableAudioError: Audio is missing, truncated or unreadable, or `is_error` says so; names every such
            utterance (20 in the message).
    """
    items = [Rendering(utterance.id, utterance.audio) for utterance in utterances]
    checked = map_chunks(functools.partial(_check_chunk, sample_rate=sample_rate), items, num_jobs, "checked")
    findings = raise_if_bad(checked, is_error)
    plain = {entry.kind for entry in checked} - {"archived", "other"}
    all_plain = all(entry.kind in plain for entry in checked)
    keep = {entry.id: entry for entry in checked if entry.kind in (plain if all_plain else {"archived"})}
    convert = [item for item in items if item.id not in keep]
    rendered = write_archives(archive_dir, convert, sample_rate, num_jobs)
    kept_sources = {item.id: item.source for item in items if item.id in keep}
    kept_lengths = {utterance: entry.num_samples for utterance, entry in keep.items()}
    return Formatted(
        sources=kept_sources | {entry.id: entry.source for entry in rendered},
        num_samples=kept_lengths | {entry.id: entry.num_samples for entry in rendered},
        audio_format="_".join(sorted(plain)).lower() if all_plain else "flac.ark",
        num_converted=len(rendered),
        findings=findings + [(entry.id, finding) for entry in rendered for finding in entry.findings],
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
    bad = [(entry.id, finding) for entry in rendered if not entry.source for finding in entry.findings]
    if bad:
        for part in parts:
            part.unlink()
        raise UnusableAudioError(bad)
    for part in parts:
        part.replace(_final_name(part))
    return [entry._replace(source=_final_source(entry.source)) for entry in rendered]


def remove_unused_archives(folder: Path, sources: Sequence[str]) -> None:
    """Remove archives that earlier runs of `write_archives` left in `folder` and that no source names."""
    used = {source.rpartition(":")[0] for source in sources}
    for path in folder.glob("????????.*.flac.ark"):
        if str(path) not in used:
            path.unlink()


def raise_if_bad(entries: Iterable[Checked], is_error: Callable[[str], bool]) -> list[tuple[str, Finding]]:
    """Raise one UnusableAudioError for all entries that cannot be used; return what else was found."""
    bad: list[tuple[str, Finding]] = []
    others: list[tuple[str, Finding]] = []
    for entry in entries:
        for finding in entry.findings:
            is_bad = not entry.is_readable or is_error(finding.kind)
            (bad if is_bad else others).append((entry.id, finding))
    if bad:
        raise UnusableAudioError(bad, others)
    return others


def _check_chunk(_number: int, items: Sequence[Rendering], sample_rate: int) -> list[Checked]:
    return [_check_one(item, sample_rate) for item in items]


def _check_one(item: Rendering, sample_rate: int) -> Checked:
    """Decode what might stay; a command runs only once, when it is converted."""
    if is_command(item.source):
        return Checked(item.id, "other", 0)
    try:
        header, samples = read_audio(item.source)
    except AudioError as error:
        return Checked(item.id, "other", 0, (finding_of(item.id, error),), is_readable=False)
    findings = tuple(check_samples(item.id, header, samples))
    if (header.sample_rate, header.num_channels) != (sample_rate, 1):
        return Checked(item.id, "other", 0, findings)
    kind = "archived" if is_archive_entry(item.source) else header.form
    return Checked(item.id, kind, len(samples), findings)


def _write_chunk(number: int, items: Sequence[Rendering], stem: Path, sample_rate: int) -> list[Rendered]:
    return write_archive(stem.with_name(f".{stem.name}.{number:05d}.flac.ark.part"), items, sample_rate)


def _final_source(source: str) -> str:
    path, _, offset = source.rpartition(":")
    return f"{_final_name(Path(path))}:{offset}"


def _final_name(part: Path) -> Path:
    return part.with_name(part.name.removeprefix(".").removesuffix(".part"))
