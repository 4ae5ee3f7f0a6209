"""Stage 3: a data folder whose audio ESPnet reads: one rate, mono, plain files or `flac.ark`; what fits keeps its path.

A set is either all plain files (data type `sound`) or all archive entries (`kaldi_ark`): ESPnet reads a plain file
under `kaldi_ark`, too, but as integers, 32768 times louder than an entry.

Examples:
    espnet-larm format-audio --in_dir data/test --output_dir dump/raw/test --nj 4

All audio is decoded to see whether it fits, so this stage reports what is wrong with it, as validate-data does.
"""

import argparse
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.audio import read_audio
from espnet_larm.data.audio_error import AudioError
from espnet_larm.data.kaldi_dir import Utterance, audio_table, read_dir, write_dir, write_tables
from espnet_larm.data.parallel import map_chunks
from espnet_larm.data.source import is_archive_entry, is_command, part_of
from espnet_larm.files.locks import locked
from espnet_larm.options import hertz, jobs
from espnet_larm.recipe.archive import (
    NUM_SHOWN,
    Rendering,
    UnusableAudioError,
    add_findings,
    finding_of,
    is_error_by_default,
    remove_unused_archives,
    write_archives,
)
from espnet_larm.recipe.validation.audio import check_samples, check_segment
from espnet_larm.recipe.validation.report import Finding, Report

ALLOW_HELP = "problems that only warn; utterances whose audio cannot be read are left out"


class Checked(NamedTuple):
    """What a source turned out to be.

    Attributes:
        id: Id of the utterance.
        kind: `archived` or a plain file's `FLAC`, `WAV`, ... if it fits as it is; `other` if it must be converted.
        num_samples: Length if it fits, otherwise 0.
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
        num_converted: Number of utterances that were written anew.
        findings: Utterance ids and what is wrong with their audio, though not so much that it cannot be used.
    """

    sources: dict[str, str]
    num_samples: dict[str, int]
    audio_format: str
    num_converted: int
    findings: list[tuple[str, Finding]]


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in_dir", type=Path, required=True, help="data folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write; archives go to data/ in it")
    parser.add_argument("--fs", type=hertz, default=16000, help="sampling rate in Hz (16000)")
    parser.add_argument("--nj", type=jobs, default=1, help="number of processes (1)")
    parser.add_argument("--allow", nargs="*", default=[], metavar="KIND", help=ALLOW_HELP)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Format a set and print what was kept and what was converted."""
    args = get_parser().parse_args(cmd)
    with locked(args.output_dir):
        return _format(args)


def _format(args: argparse.Namespace) -> int:
    report = Report(NUM_SHOWN, args.allow)
    utterances = read_dir(args.in_dir, report.allowed)
    try:
        formatted = format_audio(utterances, args.output_dir / "data", args.fs, args.nj, report.is_error)
    except UnusableAudioError as error:
        raise error.explained(report, audio_table(args.in_dir)) from error
    _write_formatted(args.output_dir, utterances, formatted)
    remove_unused_archives(args.output_dir / "data", list(formatted.sources.values()))
    add_findings(report, audio_table(args.in_dir), formatted.findings)
    for line in report.lines():
        print(line)
    if left_out := len(utterances) - len(formatted.sources):
        print(f"{left_out} of {len(utterances)} utterances are left out, since their audio cannot be read (see above)")
    num_kept = len(formatted.sources) - formatted.num_converted
    hours = sum(formatted.num_samples.values()) / args.fs / 3600
    print(
        f"{args.in_dir} -> {args.output_dir}: {len(formatted.sources)} utterances, {hours:.2f} h; "
        f"{num_kept} kept their audio, {formatted.num_converted} were converted"
    )
    return 0


def _write_formatted(folder: Path, utterances: list[Utterance], formatted: Formatted) -> None:
    """Write the data folder of what could be read, with the two files that ESPnet adds to it."""
    sources = formatted.sources
    kept = [each._replace(audio=sources[each.id]) for each in utterances if each.id in sources]
    write_dir(folder, kept)
    write_tables(folder, {"utt2num_samples": formatted.num_samples, "audio_format": {formatted.audio_format: ""}})


def format_audio(
    utterances: Sequence[Utterance],
    archive_dir: Path,
    sample_rate: int,
    num_jobs: int,
    is_error: Callable[[str], bool] = is_error_by_default,
) -> Formatted:
    """Check every utterance's audio by decoding it, and convert what does not fit.

    Args:
        utterances: Utterances with unique ids.
        archive_dir: Folder for archives; nothing is written if all audio fits.
        sample_rate: Sampling rate that is wanted, in Hz.
        num_jobs: Number of processes.
        is_error: Whether a kind of problem stops everything; what cannot be read and does not is left out.

    Raises:
        UnusableAudioError: `is_error` says so of something found; names every such utterance (20 in the message).
    """
    items = [Rendering(utterance.id, utterance.audio) for utterance in utterances]
    all_checked = map_chunks(functools.partial(_check_chunk, sample_rate=sample_rate), items, num_jobs, "checked")
    findings = _raise_if_bad(all_checked, is_error)
    checked = [entry for entry in all_checked if entry.is_readable]
    plain = {entry.kind for entry in checked} - {"archived", "other"}
    all_plain = all(entry.kind in plain for entry in checked)
    keep = {entry.id: entry for entry in checked if entry.kind in (plain if all_plain else {"archived"})}
    to_convert = {entry.id for entry in checked} - keep.keys()
    convert = [item for item in items if item.id in to_convert]
    written = write_archives(archive_dir, convert, sample_rate, num_jobs, is_error)
    rendered = [entry for entry in written if entry.source]
    kept_sources = {item.id: item.source for item in items if item.id in keep}
    kept_lengths = {utterance: entry.num_samples for utterance, entry in keep.items()}
    return Formatted(
        sources=kept_sources | {entry.id: entry.source for entry in rendered},
        num_samples=kept_lengths | {entry.id: entry.num_samples for entry in rendered},
        audio_format="_".join(sorted(plain)).lower() if all_plain else "flac.ark",
        num_converted=len(rendered),
        findings=findings + [(entry.id, finding) for entry in written for finding in entry.findings],
    )


def _raise_if_bad(entries: Iterable[Checked], is_error: Callable[[str], bool]) -> list[tuple[str, Finding]]:
    """Raise one UnusableAudioError for all that is an error; return what else was found."""
    bad: list[tuple[str, Finding]] = []
    others: list[tuple[str, Finding]] = []
    for entry in entries:
        for finding in entry.findings:
            (bad if is_error(finding.kind) else others).append((entry.id, finding))
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
    findings = (*check_segment(item.id, item.source, header, samples), *check_samples(item.id, header, samples))
    if (header.sample_rate, header.num_channels) != (sample_rate, 1):
        return Checked(item.id, "other", 0, findings)
    kind = header.form or "other"
    if is_archive_entry(item.source):
        # ESPnet reads WAV in an archive as integers.
        kind = "archived" if header.form == "FLAC" else "other"
    elif part_of(item.source).recording != item.source:
        kind = "other"
    return Checked(item.id, kind, len(samples), findings)
