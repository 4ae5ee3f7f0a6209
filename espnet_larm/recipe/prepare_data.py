"""Stage 1: makes Kaldi data folders of a corpus.

Example:
    python -m espnet_larm prepare-data an4 --root downloads/an4 --out data
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_larm.data.kaldi_dir import Utterance, write_dir
from espnet_larm.recipe.corpora.an4 import read_an4
from espnet_larm.recipe.corpora.librispeech import check_counts, count_utterances, read_librispeech


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", choices=("an4", "librispeech"), help="corpus whose layout --root has")
    parser.add_argument("--root", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder in which each set gets a folder")
    parser.add_argument("--sets", nargs="*", default=[], help="librispeech: splits to read, `name=split,split`")
    parser.add_argument("--partial", action="store_true", help="librispeech: accept a part of the official splits")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the sets and print their sizes."""
    args = get_parser().parse_args(cmd)
    for name, utterances in _read_sets(args).items():
        write_dir(args.out / name, utterances)
        speakers = len({utterance.speaker for utterance in utterances})
        print(f"{args.root} -> {args.out / name}: {len(utterances)} utterances of {speakers} speakers")
    return 0


def _read_sets(args: argparse.Namespace) -> dict[str, list[Utterance]]:
    if args.corpus == "an4":
        return read_an4(args.root)
    if not args.sets:
        raise ValueError("--sets is empty; name the splits, for example --sets train=train-clean-100 dev=dev-clean.")
    choices = dict((choice if "=" in choice else f"{choice}={choice}").split("=", 1) for choice in args.sets)
    sets = {name: read_librispeech(args.root, splits.split(",")) for name, splits in choices.items()}
    check_official_counts(
        args.root, [split for splits in choices.values() for split in splits.split(",")], args.partial
    )
    return sets


def check_official_counts(root: Path, splits: Sequence[str], partial: bool) -> None:
    """Refuse official splits that are not whole; with `partial` they are only reported."""
    counts = [count_utterances(root, split) for split in dict.fromkeys(splits)]
    if not partial:
        check_counts(root, counts)
        return
    for count in counts:
        if count.official not in {None, count.found}:
            print(f"{root}/{count}: a part, whose error rates say nothing about LibriSpeech")
