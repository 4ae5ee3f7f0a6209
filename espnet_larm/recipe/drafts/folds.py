"""Cuts a data folder into folds by speaker: a model that is trained without a fold drafts it as it would new speech.

Writes `fold<k>` and `rest<k>`, all other folds, for each k. After a training on each rest and `draft-speech --plain` of
each fold, `cat` of the drafts is a whole set of them.

Examples:
    espnet-larm split-folds --data_dir dump/raw/train --num_folds 4 --output_dir dump/raw/train_folds
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_larm.options import Option, number, seed
from espnet_larm.recipe.text_lm.options import HelpWithDefaults

TABLES = ("wav.scp", "text", "utt2spk", "utt2num_samples", "segments", "frames.scp")


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--data_dir", type=Path, required=True, help="data folder: wav.scp, text, utt2spk")
    parser.add_argument("--num_folds", type=number(int, Option("a number", least=2)), default=4, help="folds")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the order in which speakers are dealt")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of fold1, rest1, fold2, ...")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the folders."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.data.kaldi_dir import read_dir, read_table, write_tables

    utterances = read_dir(args.data_dir)
    fold_of = _deal({each.id: each.speaker for each in utterances}, args.num_folds, args.seed)
    tables = {name: read_table(path) for name in TABLES if (path := args.data_dir / name).is_file()}
    for fold in range(1, args.num_folds + 1):
        for kind, is_chosen in (("fold", fold.__eq__), ("rest", fold.__ne__)):
            folder = args.output_dir / f"{kind}{fold}"
            chosen = {key for key, number in fold_of.items() if is_chosen(number)}
            parts = {
                name: {key: value for key, value in table.items() if key in chosen or _is_recording(name, tables)}
                for name, table in tables.items()
            }
            parts["spk2utt"] = _speakers(parts["utt2spk"])
            write_tables(folder, parts)
            print(f"{folder}: {len(chosen)} utterances of {len(parts['spk2utt'])} speakers")
    return 0


def _is_recording(name: str, tables: Mapping[str, object]) -> bool:
    """Whether a table's keys are recordings, which all folds may have, and not utterances."""
    return name == "wav.scp" and "segments" in tables


def _speakers(utt2spk: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for key in sorted(utt2spk):
        found.setdefault(utt2spk[key], []).append(key)
    return {speaker: " ".join(keys) for speaker, keys in found.items()}


def _deal(utt2spk: Mapping[str, str], num_folds: int, seed: int) -> dict[str, int]:
    """A fold, 1 to num_folds, for each utterance: all of a speaker's in one, and folds of about the same size.

    Raises:
        ValueError: There are fewer speakers than folds.
    """
    import numpy as np

    by_speaker: dict[str, list[str]] = {}
    for key, speaker in utt2spk.items():
        by_speaker.setdefault(speaker, []).append(key)
    if len(by_speaker) < num_folds:
        raise ValueError(f"--num_folds is {num_folds}; allowed: 2 to {len(by_speaker)}, the number of speakers.")
    speakers: Sequence[str] = sorted(by_speaker)
    order = [speakers[place] for place in np.random.default_rng(seed).permutation(len(speakers))]
    # The largest first, each into the smallest fold.
    order.sort(key=lambda speaker: -len(by_speaker[speaker]))
    sizes = [0] * num_folds
    found: dict[str, int] = {}
    for speaker in order:
        fold = sizes.index(min(sizes))
        sizes[fold] += len(by_speaker[speaker])
        found.update(dict.fromkeys(by_speaker[speaker], fold + 1))
    return found
