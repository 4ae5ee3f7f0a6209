"""Stage 2: a data folder with copies of itself at other speeds.

Example:
    python -m espnet_larm perturb-speed --in_dir data/train --out_dir data/train_sp --factors 0.9 1.0 1.1
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_larm.data.kaldi_dir import read_dir, write_dir
from espnet_larm.recipe.audio_report import NUM_SHOWN, explain
from espnet_larm.recipe.formatting import UnusableAudioError, remove_unused_archives
from espnet_larm.recipe.speed import perturb_speed
from espnet_larm.recipe.validation.report import Finding, Report


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in_dir", type=Path, required=True, help="data folder")
    parser.add_argument("--out_dir", type=Path, required=True, help="data folder to write; audio goes to data/")
    parser.add_argument("--factors", nargs="+", required=True, help="0.9 is slower; 1.0 keeps ids and paths")
    parser.add_argument("--fs", type=int, default=16000, help="sampling rate of the perturbed audio in Hz")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the perturbed set and print its size."""
    args = get_parser().parse_args(cmd)
    archive_dir = args.out_dir / "data"
    try:
        copies = perturb_speed(read_dir(args.in_dir), args.factors, archive_dir, args.fs, args.nj)
    except UnusableAudioError as error:
        error.findings = of_originals(error.findings, args.factors)
        raise explain(error, Report(NUM_SHOWN), args.in_dir / "wav.scp") from error
    write_dir(args.out_dir, copies)
    remove_unused_archives(archive_dir, [copy.audio for copy in copies])
    print(f"{args.in_dir} -> {args.out_dir}: {len(copies)} utterances at speeds {' '.join(args.factors)}")
    return 0


def of_originals(findings: Sequence[tuple[str, Finding]], factors: Sequence[str]) -> list[tuple[str, Finding]]:
    """Findings about copies as findings about what they are copies of, each once."""
    found = {}
    for key, finding in findings:
        prefix = next(f"sp{factor}-" for factor in factors if key.startswith(f"sp{factor}-"))
        original = key.removeprefix(prefix)
        found[original] = finding._replace(what=finding.what.removeprefix(prefix))
    return list(found.items())
