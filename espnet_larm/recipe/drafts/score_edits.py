r"""Counts what an editor mends and what it spoils: words that are right in the edit alone, and in the draft alone.

Several sets are pooled in the last row. The interval of the difference bounds 95 % of resamples of speakers, paired.
Rivals are scored by the same command: any hypotheses take the place of --edits.

Examples:
    espnet-larm score-edits --data_dirs dump/raw/other dump/raw/cv \
        --drafts exp/asr_x/decode/other/loop4/text exp/asr_x/decode/cv/loop4/text \
        --edits exp/asr_edit/edit/other/loop4/text exp/asr_edit/edit/cv/loop4/text
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.recipe.text_lm.options import HelpWithDefaults
from espnet_larm.scoring.alignment import Alignment, add_counts, align, split_words

COLUMNS = (
    *("set", "words", "draft WER %", "edit WER %", "difference", "from", "to"),
    *("words fixed", "words broken", "insertions less", "utterances changed"),
)


class Edits(NamedTuple):
    """Alignments of a set, with drafts and with edits, and the speaker of each utterance."""

    drafts: list[Alignment]
    edits: list[Alignment]
    num_changed: int
    speakers: dict[str, str]
    ids: list[str]

    def plus(self, other: "Edits") -> "Edits":
        """Both sets as one."""
        return Edits(
            [*self.drafts, *other.drafts],
            [*self.edits, *other.edits],
            self.num_changed + other.num_changed,
            self.speakers | other.speakers,
            [*self.ids, *other.ids],
        )


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--data_dirs", type=Path, nargs="+", required=True, help="data folders: text, utt2spk")
    parser.add_argument("--drafts", type=Path, nargs="+", required=True, help="drafts, a file for each folder")
    parser.add_argument("--edits", type=Path, nargs="+", required=True, help="what was made of them, likewise")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Print a table in Markdown."""
    args = get_parser().parse_args(cmd)
    if not len(args.data_dirs) == len(args.drafts) == len(args.edits):
        raise ValueError(
            f"{len(args.data_dirs)} --data_dirs, {len(args.drafts)} --drafts and {len(args.edits)} --edits; give as "
            "many of each."
        )
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    pooled = Edits([], [], 0, {}, [])
    for folder, drafts, edits in zip(args.data_dirs, args.drafts, args.edits, strict=True):
        read = _read_edits(folder, drafts, edits)
        print(_row_of(folder.name, read))
        pooled = pooled.plus(read)
    if len(args.data_dirs) > 1:
        print(_row_of("all", pooled))
    return 0


def _read_edits(folder: Path, drafts: Path, edits: Path) -> Edits:
    """Read and align a set."""
    from espnet_larm.data.kaldi_dir import read_table
    from espnet_larm.recipe.drafts.pairs import read_pairs

    before = read_pairs([folder / "text"], [drafts])
    after = read_pairs([folder / "text"], [edits])
    changed = sum(map(str.__ne__, before.drafts, after.drafts))
    speakers = {f"{folder}/{key}": f"{folder}/{each}" for key, each in read_table(folder / "utt2spk").items()}
    drafted, edited = (align(each.references, each.drafts, split_words) for each in (before, after))
    return Edits(drafted, edited, changed, speakers, [f"{folder}/{key}" for key in before.ids])


def _row_of(name: str, edits: Edits) -> str:
    """A row of the table."""
    from espnet_larm.scoring.bootstrap import group_utterances, interval, resample_rates

    counts = [[each.counts for each in aligned] for aligned in (edits.drafts, edits.edits)]
    grouping = group_utterances(edits.ids, edits.speakers)
    low, high = interval(resample_rates(counts[1], grouping) - resample_rates(counts[0], grouping))
    before, after = map(add_counts, counts)
    fixed, broken = _fixed_and_broken(edits.drafts, edits.edits)
    cells = (
        *(name, before.units, f"{before.error_percent:.2f}", f"{after.error_percent:.2f}"),
        *(f"{after.error_percent - before.error_percent:+.2f}", f"{low:+.2f}", f"{high:+.2f}"),
        *(fixed, broken, before.insertions - after.insertions, f"{edits.num_changed} of {len(edits.ids)}"),
    )
    return f"| {' | '.join(map(str, cells))} |"


def _fixed_and_broken(drafts: Sequence[Alignment], edits: Sequence[Alignment]) -> tuple[int, int]:
    """Words of references that are right in the edit alone, and in the draft alone."""
    fixed = broken = 0
    for before, after in zip(drafts, edits, strict=True):
        for was, became in zip(_right(before), _right(after), strict=True):
            fixed += became and not was
            broken += was and not became
    return fixed, broken


def _right(aligned: Alignment) -> list[bool]:
    """Whether each word of the reference stands in the hypothesis."""
    return [ref == hyp for ref, hyp in aligned.pairs if ref is not None]
