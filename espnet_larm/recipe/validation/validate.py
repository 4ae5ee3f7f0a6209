r"""Validates data folders and lists every problem with file, line and remedy, before hours are spent on them.

Examples:
    espnet-larm validate-data --data_dirs data/train data/dev data/test --nj 4
    espnet-larm validate-data --data_dirs data/train --audio stat
    espnet-larm validate-data --data_dirs dump/raw/train --audio none \
        --token_list data/token_list/char/tokens.txt
    espnet-larm validate-data --list

Audio is decoded unless `--audio` says otherwise; commands in wav.scp are run for that, as in training. The exit status
is 1 if there is an error, 0 if there are at most warnings. asr.sh calls it before stages 2 and 3 (files, paths) and 10
(spelling); stage 3 decodes all audio and reports alike.

It is our own because Kaldi's validate_data_dir.sh opens no audio and reads no transcript or token list.
"""

import argparse
from pathlib import Path

from espnet_larm.data.text import read_symbols
from espnet_larm.options import Option, hertz, jobs, number, seconds
from espnet_larm.recipe.validation.audio import Bounds
from espnet_larm.recipe.validation.folder import AudioCheck, Totals, Wanted, validate_folders
from espnet_larm.recipe.validation.report import KINDS, Report
from espnet_larm.recipe.validation.text import Tokens


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    dirs_help = "data folders, the training set first; plain, or as stages 3 and 4 write them"
    parser.add_argument("--data_dirs", type=Path, nargs="+", help=dirs_help)
    checks = [check.value for check in AudioCheck]
    audio_help = "none, stat (are the files there?) or decode (default)"
    parser.add_argument("--audio", choices=checks, default=AudioCheck.DECODE.value, help=audio_help)
    parser.add_argument("--fs", type=hertz, default=16000, help="sampling rate in Hz (16000)")
    least_help = "seconds; shorter audio is reported (0.1)"
    parser.add_argument("--min_wav_duration", type=seconds, default=0.1, help=least_help)
    most_help = "seconds; longer audio is reported (20)"
    parser.add_argument("--max_wav_duration", type=seconds, default=20.0, help=most_help)
    parser.add_argument("--token_list", type=Path, help="token list that must be able to spell the text")
    parser.add_argument("--bpemodel", type=Path, help="sentencepiece model of the tokens; characters without it")
    parser.add_argument("--nlsyms", type=Path, help="file of symbols that stay whole")
    parser.add_argument("--nj", type=jobs, default=1, help="number of processes that decode (1)")
    allow_help = "kinds of problems that are only warnings here"
    parser.add_argument("--allow", nargs="*", default=[], metavar="KIND", help=allow_help)
    parser.add_argument("--strict", action="store_true", help="count warnings as errors")
    parser.add_argument(
        "--show",
        type=number(int, Option("problems", least=0)),
        default=20,
        help="number of problems of a kind to print, 0 for all (20)",
    )
    parser.add_argument("--list", action="store_true", help="print all kinds of problems with their remedies, and end")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Validate the folders and print the report."""
    args = get_parser().parse_args(cmd)
    if args.list:
        for name, kind in KINDS.items():
            print(f"{name} ({'error' if kind.is_error else 'warning'}): {kind.remedy}")
        return 0
    check_options(args)
    report = Report(args.show, args.allow, args.strict)
    tokens = Tokens(args.token_list, args.bpemodel, read_symbols(args.nlsyms)) if args.token_list else None
    bounds = Bounds(args.fs, args.min_wav_duration, args.max_wav_duration)
    totals = validate_folders(args.data_dirs, Wanted(AudioCheck(args.audio), bounds, tokens), args.nj, report)
    for line in report.lines():
        print(line)
    print(summary(args.data_dirs, totals, report))
    return 1 if report.num_errors else 0


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that make no sense."""
    if not args.data_dirs:
        raise ValueError("--data_dirs is empty; name the folders to validate, or --list.")
    if args.bpemodel and not args.token_list:
        raise ValueError("--bpemodel needs --token_list; name the tokens.txt beside it.")


def summary(folders: list[Path], totals: Totals, report: Report) -> str:
    """The last line of the report."""
    decoded = f", {totals.decoded_s / 3600:.2f} h of audio decoded" if totals.num_decoded else ""
    names = " ".join(map(str, folders))
    return (
        f"{names}: {totals.num_utterances} utterances{decoded}: "
        f"{report.num_errors} error(s), {report.num_warnings} warning(s)"
    )
