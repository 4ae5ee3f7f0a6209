r"""Measures how far drafts to learn from are from those of a test set: error rates, their spread, and kinds of errors.

The distance of two sets of drafts is the Jensen-Shannon divergence, in bits, of their errors in characters (what was
written for what): 0 for the same kinds at the same rates among each other, 1 for none in common. Two halves of the test
set have one, too, which is the least that can be hoped for.

Examples:
    espnet-larm compare-drafts --text exp/simulated/text/split.0 --drafts exp/simulated/draft/split.0 \
        --other_text dump/raw/dev/text --other_drafts exp/asr_x/decode/dev/loop4/text
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.recipe.text_lm.options import HelpWithDefaults
from espnet_larm.scoring.alignment import Alignment, Counts, add_counts, align, split_characters, split_words

NUM_SHOWN = 10
Error = tuple[str, str]


class Kinds(NamedTuple):
    """What errors a set of drafts has.

    Attributes:
        words: Counts of words.
        characters: Counts of characters.
        spread: Word errors per 100 words of the utterances at the first, second and third quartile.
        errors: How often each character, or "" for an insertion, was written as another, or "" for a deletion.
        known: The fraction of the drafts' words that some reference of this set has.
    """

    words: Counts
    characters: Counts
    spread: tuple[float, float, float]
    errors: Counter[Error]
    known: float


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="transcripts of the drafts to learn from")
    parser.add_argument("--drafts", type=Path, nargs="+", required=True, help="the drafts of --text, a file for each")
    parser.add_argument("--other_text", type=Path, nargs="+", required=True, help="transcripts of the test set")
    parser.add_argument("--other_drafts", type=Path, nargs="+", required=True, help="drafts of the test set, likewise")
    parser.add_argument("--outpath", type=Path, help="JSON file of the figures")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Print both, and the distance."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.files.atomic import write_text
    from espnet_larm.recipe.drafts.pairs import read_pairs

    ours, theirs = read_pairs(args.text, args.drafts), read_pairs(args.other_text, args.other_drafts)
    kinds = [kinds_of(each.references, each.drafts) for each in (ours, theirs)]
    halves = [
        kinds_of(theirs.references[start::2], theirs.drafts[start::2]).errors if len(theirs.ids) > 1 else Counter()
        for start in (0, 1)
    ]
    found = {"learned_from": figures(kinds[0]), "test": figures(kinds[1])}
    distances = {"distance_bits": divergence(kinds[0].errors, kinds[1].errors), "halves_bits": divergence(*halves)}
    print("| per 100 | drafts to learn from | test set |\n| --- | --- | --- |")
    for name in found["test"]:
        print(f"| {name} | {found['learned_from'][name]} | {found['test'][name]} |")
    print(
        f"distance of errors: {distances['distance_bits']:.3f} bits; of halves of the test set: "
        f"{distances['halves_bits']:.3f} bits"
    )
    print("errors that differ most, per 100 errors: " + ", ".join(differences(kinds[0].errors, kinds[1].errors)))
    if args.outpath is not None:
        write_text(args.outpath, json.dumps({**found, **distances}, indent=2) + "\n")
    return 0


def kinds_of(references: Sequence[str], drafts: Sequence[str]) -> Kinds:
    """Count the errors of drafts."""
    import numpy as np

    words, characters = (align(references, drafts, split) for split in (split_words, split_characters))
    rates = [each.counts.error_percent for each in words if each.counts.units]
    known = {word for text in references for word in text.split()}
    written = [word in known for text in drafts for word in text.split()]
    quartiles: Any = np.percentile(rates, (25, 50, 75)).tolist() if rates else [float("nan")] * 3
    return Kinds(
        add_counts([each.counts for each in words]),
        add_counts([each.counts for each in characters]),
        tuple(quartiles),
        _errors_of(characters),
        sum(written) / max(1, len(written)),
    )


def _errors_of(aligned: Sequence[Alignment]) -> Counter[Error]:
    """How often each character was written as each other."""
    return Counter((ref or "", hyp or "") for each in aligned for ref, hyp in each.pairs if ref != hyp)


def figures(kinds: Kinds) -> dict[str, Any]:
    """Rounded figures for a table."""
    found: dict[str, Any] = {"utterances": kinds.words.sentences, "words": kinds.words.units}
    for unit, counts in (("words", kinds.words), ("characters", kinds.characters)):
        found[f"{unit} wrong"] = round(counts.error_percent, 2)
        for name in ("substitutions", "deletions", "insertions"):
            found[f"{name} of {unit}"] = round(100 * getattr(counts, name) / max(1, counts.units), 2)
    found["words wrong, quartiles of utterances"] = " / ".join(f"{each:.0f}" for each in kinds.spread)
    found["words of drafts that a transcript has"] = round(100 * kinds.known, 1)
    return found


def divergence(ours: Mapping[Error, int], theirs: Mapping[Error, int]) -> float:
    """Jensen-Shannon divergence in bits of two counts; NaN if one is empty."""
    import numpy as np

    if not ours or not theirs:
        return float("nan")
    keys = [*(ours.keys() | theirs.keys())]
    shares = np.array([[counts.get(key, 0) for key in keys] for counts in (ours, theirs)], dtype=float)
    shares /= shares.sum(1, keepdims=True)
    middle = shares.mean(0)
    ratios = np.where(shares > 0, shares / middle, 1.0)
    return float((shares * np.log2(ratios)).sum(1).mean())


def differences(ours: Mapping[Error, int], theirs: Mapping[Error, int]) -> list[str]:
    """The errors whose shares differ most, with both shares in percent."""
    totals = [max(1, sum(each.values())) for each in (ours, theirs)]
    shares = {
        key: tuple(100 * each.get(key, 0) / total for each, total in zip((ours, theirs), totals, strict=True))
        for key in ours.keys() | theirs.keys()
    }
    ordered = sorted(shares, key=lambda key: (-abs(shares[key][0] - shares[key][1]), key))
    return [
        f"{ref or 'nothing'} as {hyp or 'nothing'} {shares[ref, hyp][0]:.1f} beside {shares[ref, hyp][1]:.1f}"
        for ref, hyp in ordered[:NUM_SHOWN]
    ]
