"""Stage 2: a data folder with copies of itself at other speeds, each by a speaker of its own.

Source: Ko et al., "Audio Augmentation for Speech Recognition", Interspeech 2015: factors 0.9, 1.0 and 1.1.

Examples:
    espnet-larm perturb-speed --in_dir data/train --output_dir data/train_sp --factors 0.9 1.0 1.1
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from espnet_larm.data.kaldi_dir import Utterance, audio_table, read_dir, write_dir
from espnet_larm.files.locks import locked
from espnet_larm.options import hertz, jobs
from espnet_larm.recipe.archive import (
    NUM_SHOWN,
    Rendering,
    UnusableAudioError,
    is_error_by_default,
    remove_unused_archives,
    write_archives,
)
from espnet_larm.recipe.validation.report import Finding, Report

MIN_FACTOR, MAX_FACTOR = 0.5, 2.0


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in_dir", type=Path, required=True, help="data folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="data folder to write; audio goes to data/")
    parser.add_argument("--factors", nargs="+", required=True, help="0.9 is slower; 1.0 keeps ids and paths")
    parser.add_argument("--fs", type=hertz, default=16000, help="sampling rate of the copies in Hz (16000)")
    parser.add_argument("--nj", type=jobs, default=1, help="number of processes (1)")
    allow_help = "problems that only warn; copies of utterances whose audio cannot be read are left out"
    parser.add_argument("--allow", nargs="*", default=[], metavar="KIND", help=allow_help)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the perturbed set and print its size."""
    args = get_parser().parse_args(cmd)
    with locked(args.output_dir):
        return _perturb(args)


def _perturb(args: argparse.Namespace) -> int:
    archive_dir = args.output_dir / "data"
    report = Report(NUM_SHOWN, args.allow)
    utterances = read_dir(args.in_dir, report.allowed)
    try:
        copies = perturb_speed(utterances, args.factors, archive_dir, args.fs, args.nj, report.is_error)
    except UnusableAudioError as error:
        error.findings = _of_originals(error.findings, args.factors)
        raise error.explained(report, audio_table(args.in_dir)) from error
    write_dir(args.output_dir, copies)
    remove_unused_archives(archive_dir, [copy.audio for copy in copies])
    if left_out := len(utterances) * len(args.factors) - len(copies):
        print(f"{left_out} copies are left out, since their audio cannot be read")
    print(f"{args.in_dir} -> {args.output_dir}: {len(copies)} utterances at speeds {' '.join(args.factors)}")
    return 0


def _of_originals(findings: Sequence[tuple[str, Finding]], factors: Sequence[str]) -> list[tuple[str, Finding]]:
    """Turn findings about copies into findings about their originals, each once."""
    found = {}
    for key, finding in findings:
        prefix = next(f"sp{factor}-" for factor in factors if key.startswith(f"sp{factor}-"))
        original = key.removeprefix(prefix)
        found[original] = finding._replace(what=finding.what.removeprefix(prefix))
    return list(found.items())


def perturb_speed(
    utterances: Sequence[Utterance],
    factors: Sequence[str],
    archive_dir: Path,
    sample_rate: int,
    num_jobs: int,
    is_error: Callable[[str], bool] = is_error_by_default,
) -> list[Utterance]:
    """Write the perturbed audio; factor 1 keeps its path and id.

    Args:
        utterances: The set.
        factors: Numbers as the user wrote them: "0.9" gives ids `sp0.9-...`.
        archive_dir: Folder for the perturbed audio.
        sample_rate: Sampling rate of the perturbed audio, in Hz.
        num_jobs: Number of processes.
        is_error: Whether a kind of problem stops everything; copies of what cannot be read and does not are left out.

    Returns:
        The set once for each factor.

    Raises:
        ValueError: A factor is no number from 0.5 to 2, or comes twice.
        UnusableAudioError: Audio cannot be read.
    """
    speeds = {factor: _speed(factor) for factor in factors}
    if len(set(speeds.values())) < len(factors):
        raise ValueError(f"--speed_perturb_factors has a factor twice: {' '.join(factors)}; name each once.")
    copies, renderings = [], []
    for factor, speed in speeds.items():
        for utterance in utterances:
            copy = utterance if speed == 1.0 else rename(utterance, factor)
            copies.append(copy)
            if speed != 1.0:
                renderings.append(Rendering(copy.id, copy.audio, speed))
    written = write_archives(archive_dir, renderings, sample_rate, num_jobs, is_error)
    sources = {entry.id: entry.source for entry in written}
    made = [copy._replace(audio=sources.get(copy.id, copy.audio)) for copy in copies]
    return [copy for copy in made if copy.audio]


def rename(utterance: Utterance, factor: str) -> Utterance:
    """Give an utterance the ids of its perturbed copy, and leave its audio."""
    prefix = f"sp{factor}-"
    return utterance._replace(id=prefix + utterance.id, speaker=prefix + utterance.speaker)


def _speed(factor: str) -> float:
    try:
        speed = float(factor)
    except ValueError:
        speed = 0.0
    if not MIN_FACTOR <= speed <= MAX_FACTOR:
        raise ValueError(f"--speed_perturb_factors: {factor} must be a number from {MIN_FACTOR} to {MAX_FACTOR}.")
    return speed
