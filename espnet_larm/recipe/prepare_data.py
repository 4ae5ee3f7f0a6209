"""Stage 1: makes Kaldi data folders of a corpus.

Examples:
    espnet-larm prepare-data an4 --root downloads/an4 --output_dir data
    espnet-larm prepare-data manifest --root my_corpus --output_dir data --sets train=train.tsv dev=dev.tsv

A manifest is a table of recordings: TSV whose first line names the columns audio, text and speaker, or JSONL with
these keys. Paths of audio are relative to it; speaker may be left out.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_larm.data.kaldi_dir import Utterance, write_dir
from espnet_larm.recipe.corpora.an4 import read_an4
from espnet_larm.recipe.corpora.librispeech import check_counts, count_utterances, read_librispeech
from espnet_larm.recipe.corpora.manifest import read_manifests


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", choices=("an4", "librispeech", "manifest"), help="layout that --root has")
    parser.add_argument(
        "--root", type=Path, nargs="+", required=True, help="folder of the corpus; librispeech: or several, by splits"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder in which each set gets a folder")
    parser.add_argument("--sets", nargs="*", default=[], help="librispeech, manifest: what to read, `name=split,split`")
    parser.add_argument("--partial", action="store_true", help="librispeech: accept a part of the official splits")
    parser.add_argument(
        "--case", choices=("keep", "lower"), default="keep", help="letters of the transcripts: as they are, or small"
    )
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the sets and print their sizes."""
    args = get_parser().parse_args(cmd)
    for name, utterances in _read_sets(args).items():
        spelled = [each._replace(text=each.text.lower()) if args.case == "lower" else each for each in utterances]
        write_dir(args.output_dir / name, spelled)
        speakers = len({utterance.speaker for utterance in utterances})
        print(f"{args.root[0]} -> {args.output_dir / name}: {len(utterances)} utterances of {speakers} speakers")
    return 0


def _read_sets(args: argparse.Namespace) -> dict[str, list[Utterance]]:
    if args.corpus == "an4":
        return read_an4(args.root[0])
    if not args.sets:
        raise ValueError("--sets is empty; name what to read, for example --sets train=train-clean-100 dev=dev-clean.")
    choices = dict((choice if "=" in choice else f"{choice}={choice}").split("=", 1) for choice in args.sets)
    named = {name: parts.split(",") for name, parts in choices.items()}
    if args.corpus == "manifest":
        return {name: read_manifests(args.root[0] / part for part in parts) for name, parts in named.items()}
    roots = {split: _root_of(split, args.root) for parts in named.values() for split in parts}
    _check_official_counts(roots, args.partial)
    return {
        name: sorted(utterance for split in splits for utterance in read_librispeech(roots[split], [split]))
        for name, splits in named.items()
    }


def _root_of(split: str, roots: Sequence[Path]) -> Path:
    """The folder that has a split; the first if none has, which is then named."""
    return next((root for root in roots if (root / split).is_dir()), roots[0])


def _check_official_counts(roots: Mapping[str, Path], partial: bool) -> None:
    """Refuse official splits that are not whole; with `partial` they are only reported."""
    counts = {split: count_utterances(root, split) for split, root in roots.items()}
    if not partial:
        for root in dict.fromkeys(roots.values()):
            check_counts(root, [count for split, count in counts.items() if roots[split] == root])
        return
    for split, count in counts.items():
        if count.official not in {None, count.found}:
            print(f"{roots[split]}/{count}: a part, whose error rates say nothing about LibriSpeech")
