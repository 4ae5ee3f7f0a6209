r"""Learns how a recogniser errs: a confusion model from references and drafts, with which `simulate-drafts` makes more.

Drafts are those of speech that the recogniser has not learned: of the development set, say. Units are characters, or
with --bpemodel the pieces of the CTC head. --data_dirs and --held_out_dirs name folders of the speech that is
learned from and tested on; a speaker in both is refused.

Examples:
    espnet-larm learn-confusions --text dump/raw/dev/text --drafts exp/asr_x/decode/dev/loop4/text \
        --data_dirs dump/raw/dev --held_out_dirs dump/raw/other dump/raw/cv --outpath exp/confusions.json
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_larm.recipe.text_lm.options import HelpWithDefaults

if TYPE_CHECKING:
    from espnet_larm.recipe.drafts.channel import ConfusionModel

NUM_SHOWN = 12


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="transcripts, Kaldi's `text`")
    parser.add_argument("--drafts", type=Path, nargs="+", required=True, help="their drafts, a file for each of --text")
    parser.add_argument("--bpemodel", help="sentencepiece model of the CTC head's pieces; by default characters")
    parser.add_argument("--data_dirs", type=Path, nargs="*", default=[], help="data folders of these utterances")
    parser.add_argument("--held_out_dirs", type=Path, nargs="*", default=[], help="data folders of all test sets")
    parser.add_argument("--outpath", type=Path, required=True, help="JSON file to write")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Learn, write and show."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.recipe.drafts.channel import learn, splitter
    from espnet_larm.recipe.drafts.pairs import check_speakers, read_pairs
    from espnet_larm.scoring.alignment import add_counts, align, split_words

    if bool(args.data_dirs) != bool(args.held_out_dirs):
        raise ValueError("--data_dirs and --held_out_dirs compare speakers: give both or none.")
    if args.held_out_dirs:
        print(check_speakers(args.data_dirs, args.held_out_dirs))
    pairs = read_pairs(args.text, args.drafts)
    split = splitter(args.bpemodel)
    model = learn([split(each) for each in pairs.references], [split(each) for each in pairs.drafts])
    counts = add_counts([each.counts for each in align(pairs.references, pairs.drafts, split_words)])
    model.facts.update(
        utterances=len(pairs.ids),
        wer_percent=round(counts.error_percent, 2),
        unit="piece" if args.bpemodel else "character",
        text=[str(path) for path in args.text],
        drafts=[str(path) for path in args.drafts],
        speakers_checked=bool(args.held_out_dirs),
    )
    model.save(args.outpath)
    print(f"{len(pairs.ids)} drafts of {counts.error_percent:.1f} % WER -> {args.outpath}: {describe(model)}")
    return 0


def describe(model: "ConfusionModel") -> str:
    """Rates and the most frequent errors."""
    total = int(model.counts[1:].sum())
    deleted, inserted = int(model.counts[1:, 0].sum()), int(model.counts[0].sum())
    wrong = Counter(
        {
            f"{model.units[a] or 'nothing'!r} as {model.units[b] or 'nothing'!r}": int(model.counts[a, b])
            for a in range(len(model.units))
            for b in range(len(model.units))
            if a != b and model.counts[a, b]
        }
    )
    replaced = sum(wrong.values()) - deleted - inserted
    rates = ", ".join(
        f"{name} {100 * number / max(total, 1):.1f} %"
        for name, number in (("replaced", replaced), ("deleted", deleted), ("inserted", inserted))
    )
    shown = ", ".join(f"{name} {number}" for name, number in wrong.most_common(NUM_SHOWN))
    right, burst = model.bursts
    return f"{rates} of {total} units; {burst / right:.1f} times the odds behind an error\nmost: {shown}"
