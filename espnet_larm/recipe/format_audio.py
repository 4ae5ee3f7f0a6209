"""Stage 3: a data folder whose audio ESPnet reads: one rate, mono, plain files or `flac.ark`.

Example:
    python -m espnet_larm format-audio --in_dir data/test --out_dir dump/raw/test --nj 4

All audio is decoded to see whether it fits, so what is wrong with it is said here, in the words of validate_data.
"""

import argparse
from pathlib import Path

from espnet_larm.data.kaldi_dir import Utterance, read_dir, write_dir, write_tables
from espnet_larm.recipe.audio_report import NUM_SHOWN, add_findings, explain
from espnet_larm.recipe.formatting import Formatted, UnusableAudioError, format_audio, remove_unused_archives
from espnet_larm.recipe.validation.report import Report


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in_dir", type=Path, required=True, help="data folder")
    parser.add_argument("--out_dir", type=Path, required=True, help="folder to write; archives go to data/ in it")
    parser.add_argument("--fs", type=int, default=16000, help="sampling rate in Hz")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--allow", nargs="*", default=[], metavar="KIND", help="problems of audio that are no errors")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Format a set and print what was kept and what was converted."""
    args = get_parser().parse_args(cmd)
    report = Report(NUM_SHOWN, args.allow)
    utterances = read_dir(args.in_dir)
    try:
        formatted = format_audio(utterances, args.out_dir / "data", args.fs, args.nj, report.is_error)
    except UnusableAudioError as error:
        raise explain(error, report, args.in_dir / "wav.scp") from error
    write_formatted(args.out_dir, utterances, formatted)
    remove_unused_archives(args.out_dir / "data", list(formatted.sources.values()))
    add_findings(report, args.in_dir / "wav.scp", formatted.findings)
    for line in report.lines():
        print(line)
    num_kept = len(utterances) - formatted.num_converted
    hours = sum(formatted.num_samples.values()) / args.fs / 3600
    print(
        f"{args.in_dir} -> {args.out_dir}: {len(utterances)} utterances, {hours:.2f} h; "
        f"{num_kept} kept their audio, {formatted.num_converted} were converted"
    )
    return 0


def write_formatted(folder: Path, utterances: list[Utterance], formatted: Formatted) -> None:
    """Write the data folder with the two files that ESPnet adds to it."""
    write_dir(folder, [utterance._replace(audio=formatted.sources[utterance.id]) for utterance in utterances])
    write_tables(folder, {"utt2num_samples": formatted.num_samples, "audio_format": {formatted.audio_format: ""}})
