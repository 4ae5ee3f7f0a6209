"""Writes audio as FLAC into Kaldi archives (`flac.ark`), at one rate, mono, optionally faster or slower.

ESPnet reads an entry as data type `kaldi_ark`. What is wrong with audio is reported as by validate-data.
Shapes: N samples.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
from omniio import kaldi

from espnet_larm.data.audio import Audio, read_audio
from espnet_larm.data.audio_error import AudioError
from espnet_larm.data.parallel import map_chunks
from espnet_larm.data.source import is_command
from espnet_larm.files.atomic import move_synced
from espnet_larm.files.disk import names_full_disk
from espnet_larm.files.locks import remove_what_was_left
from espnet_larm.recipe.validation.audio import check_samples, check_segment
from espnet_larm.recipe.validation.report import KINDS, Finding, Report
from espnet_larm.recipe.validation.table import find_lines

NUM_SHOWN = 20


def is_error_by_default(kind: str) -> bool:
    """Whether a kind of problem is an error where nothing else was said."""
    return KINDS[kind].is_error


class UnusableAudioError(ValueError):
    """Error for a set with audio that cannot be used.

    Args:
        bad: Utterance ids with what is wrong with them.
        others: Findings that would not have stopped anything.
    """

    def __init__(self, bad: Sequence[tuple[str, Finding]], others: Sequence[tuple[str, Finding]] = ()) -> None:
        shown = "".join(f"\n  {finding.what}" for _, finding in bad[:NUM_SHOWN])
        more = f"\n  ... and {len(bad) - NUM_SHOWN} more" if len(bad) > NUM_SHOWN else ""
        super().__init__(f"{len(bad)} utterances have unusable audio; nothing was written:{shown}{more}")
        self.findings = [*bad, *others]
        self.kinds = {finding.kind for _, finding in bad}

    def explained(self, report: Report, wav_scp: Path) -> ValueError:
        """Make the error that ends a program: all findings by kind, with file and line."""
        add_findings(report, wav_scp, self.findings)
        lines = "\n".join(report.lines())
        advice = f"--allow {' '.join(sorted(self.kinds))} goes on, without what cannot be read"
        return ValueError(f"some audio cannot be used; nothing was written:\n{lines}\n{advice}.")


class Rendering(NamedTuple):
    """Audio to be made.

    Attributes:
        id: Id of the utterance.
        source: Second column of `wav.scp`.
        speed: Factor of the speed; 0.9 is slower, longer and lower.
    """

    id: str
    source: str
    speed: float = 1.0


class Rendered(NamedTuple):
    """What became of a Rendering.

    Attributes:
        id: Id of the utterance.
        source: `archive:offset`, or "" if it cannot be read.
        num_samples: Length at the rate of the archive.
        findings: What is wrong with it; after an error the reason.
    """

    id: str
    source: str
    num_samples: int
    findings: tuple[Finding, ...] = ()


def write_archives(
    folder: Path,
    renderings: Sequence[Rendering],
    sample_rate: int,
    num_jobs: int,
    is_error: Callable[[str], bool] = is_error_by_default,
) -> list[Rendered]:
    """Write renderings as archives; all of them, or, on an error, none.

    Archives are named by a digest of what they hold, so that a folder which still uses earlier ones stays whole.

    Args:
        folder: Folder for the archives.
        renderings: What to write.
        sample_rate: Sampling rate of the archives, in Hz.
        num_jobs: Number of processes.
        is_error: Whether a kind of problem stops everything; what cannot be read and does not has no source.

    Raises:
        UnusableAudioError: Audio cannot be used; names every such utterance.
    """
    if not renderings:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    remove_what_was_left(folder)
    digest = hashlib.sha256(repr((list(renderings), sample_rate)).encode()).hexdigest()[:8]
    write = functools.partial(_write_chunk, stem=folder / digest, sample_rate=sample_rate)
    try:
        rendered = map_chunks(write, renderings, num_jobs, "converted")
    except BaseException:
        remove_what_was_left(folder)
        raise
    parts = sorted(folder.glob(f".{digest}.*.part"))
    findings = [(entry.id, finding) for entry in rendered for finding in entry.findings]
    if bad := [(key, finding) for key, finding in findings if is_error(finding.kind)]:
        for part in parts:
            part.unlink()
        raise UnusableAudioError(bad, [each for each in findings if each not in bad])
    for part in parts:
        move_synced(part, _final_name(part))
    return [entry._replace(source=entry.source and _final_source(entry.source)) for entry in rendered]


def write_archive(path: Path, renderings: Sequence[Rendering], sample_rate: int) -> list[Rendered]:
    """Write an archive; utterances that cannot be read are left out and reported.

    Args:
        path: File of the archive, overwritten.
        renderings: Audio in the order of the archive.
        sample_rate: Sampling rate of the archive, in Hz.

    Returns:
        What became of each rendering, in the same order.
    """
    done = []
    with names_full_disk(_final_name(path)), path.open("wb") as archive:
        for rendering in renderings:
            try:
                audio = read_audio(rendering.source)
                samples = render(rendering, audio, sample_rate)
            except AudioError as error:
                done.append(Rendered(rendering.id, "", 0, (finding_of(rendering.id, error),)))
                continue
            # A command runs only here; everything else was looked at before.
            findings = _check(rendering, audio) if is_command(rendering.source) else []
            offset = archive.tell() + len(f"{rendering.id} ".encode())
            clipped = np.clip(samples, -1.0, 1.0)
            kaldi.save_ark(
                archive,
                {rendering.id: (clipped, sample_rate)},
                write_function="soundfile",
                write_kwargs={"format": "flac", "subtype": "PCM_16"},
            )
            done.append(Rendered(rendering.id, f"{path}:{offset}", len(samples), tuple(findings)))
    return done


def render(rendering: Rendering, audio: Audio, sample_rate: int) -> np.ndarray:
    """Resample and change speed in one step.

    Args:
        rendering: What to make.
        audio: Its source, decoded.
        sample_rate: Sampling rate of the result, in Hz.

    Returns:
        Samples (N,), float32.

    Raises:
        AudioError: Nothing is left after resampling.
    """
    in_rate = audio.header.sample_rate * rendering.speed
    if in_rate == sample_rate:
        return audio.samples
    samples = soxr.resample(audio.samples, in_rate, sample_rate)
    if len(samples) == 0:
        what = f"{rendering.source} is shorter than one sample at {sample_rate} Hz"
        raise AudioError("empty-audio", what, "remove its line")
    return samples


def remove_unused_archives(folder: Path, sources: Sequence[str]) -> None:
    """Remove archives that earlier runs of `write_archives` left in `folder` and that no source names."""
    used = {source.rpartition(":")[0] for source in sources}
    for path in folder.glob("????????.*.flac.ark"):
        if str(path) not in used:
            path.unlink()


def add_findings(report: Report, wav_scp: Path, findings: Sequence[tuple[str, Finding]]) -> None:
    """Add findings about utterances to a report, at their lines in `wav_scp`."""
    lines = find_lines(wav_scp, (key for key, _ in findings)) if findings else {}
    for key, finding in findings:
        report.add(*finding, wav_scp, lines.get(key, 0))


def finding_of(key: str, error: AudioError) -> Finding:
    """Turn an error into what the report shows."""
    return Finding(error.kind, f"{key}: {error.what}")


def _check(rendering: Rendering, audio: Audio) -> list[Finding]:
    in_part = check_segment(rendering.id, rendering.source, *audio)
    return [*in_part, *check_samples(rendering.id, *audio)]


def _write_chunk(number: int, items: Sequence[Rendering], stem: Path, sample_rate: int) -> list[Rendered]:
    return write_archive(stem.with_name(f".{stem.name}.{number:05d}.flac.ark.part"), items, sample_rate)


def _final_source(source: str) -> str:
    path, _, offset = source.rpartition(":")
    return f"{_final_name(Path(path))}:{offset}"


def _final_name(part: Path) -> Path:
    return part.with_name(part.name.removeprefix(".").removesuffix(".part"))
