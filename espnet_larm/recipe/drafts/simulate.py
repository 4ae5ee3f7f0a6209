r"""Makes drafts of plain text, for an LM that learns to edit them without speech (a Denoising LM).

(a) By a confusion model of a recogniser (`learn-confusions`), at a chosen word error rate (--wer_percent).
(b) By eSpeak NG, which reads the text aloud in many voices, and a recogniser that writes it down (--asr_train_config);
dropout and SpecAugment make it err as on speech that it does not know.
Writes shards, each with `text`, `draft` and `shape`, which training reads one after the other: ESPnet's
`--multiple_iterator true`. A program that is killed goes on where it was. The seed decides what (a) makes. Real drafts
are mixed in with --real_text, --real_drafts and --real_fraction.

Examples:
    espnet-larm simulate-drafts --text novels.txt.gz --case lower --confusions exp/confusions.json \
        --wer_percent 45 --output_dir exp/simulated
    espnet-larm simulate-drafts --text novels.txt.gz --case lower --lines 2000 --output_dir exp/spoken \
        --asr_train_config exp/asr_x/config.yaml --asr_model_file exp/asr_x/valid.loss.ave.pth
"""

import argparse
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_larm.options import Option, number, seed
from espnet_larm.pack.models import add_places
from espnet_larm.recipe.text_lm.options import HelpWithDefaults

if TYPE_CHECKING:
    import numpy as np

    from espnet_larm.recipe.drafts.shards import Drafted

logger = logging.getLogger(__name__)

KEEP, LOWER, UPPER = CASES = ("keep", "lower", "upper")
POSITIVE = Option("a number", above=0.0)
COUNT = Option("a number", least=1)
# Drafts of texts, all of a shard at once.
Maker = Callable[[Sequence[str], "np.random.Generator"], list[str]]


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="a sentence a line, plain or .gz")
    parser.add_argument("--case", choices=CASES, default=KEEP, help="letters of texts, those of the recogniser")
    parser.add_argument("--least_words", type=number(int, COUNT), default=3, help="words of the shortest line")
    parser.add_argument("--most_words", type=number(int, COUNT), default=40, help="words of the longest line")
    parser.add_argument("--lines", type=number(int, COUNT), help="lines drawn from the text; all by default")
    parser.add_argument("--lines_per_shard", type=number(int, COUNT), default=20_000, help="lines of a shard")
    parser.add_argument("--seed", type=seed, default=0, help="seed of lines and drafts")
    parser.add_argument("--confusions", type=Path, help="(a) JSON of learn-confusions")
    parser.add_argument("--wer_percent", type=number(float, POSITIVE), help="(a) word errors per 100 words of drafts")
    parser.add_argument("--bpemodel", help="(a) sentencepiece model, where the confusions are of its pieces")
    parser.add_argument("--asr_train_config", type=Path, help="(b) the recogniser's config.yaml")
    parser.add_argument("--asr_model_file", type=Path, help="(b) its weights")
    parser.add_argument("--plain", action="store_true", help="(b) recognise without dropout and SpecAugment")
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="(b) 1 computes on a GPU")
    add_places(parser)
    parser.add_argument(
        "--real_text", type=Path, nargs="*", default=[], help="transcripts of real drafts, Kaldi's text"
    )
    parser.add_argument("--real_drafts", type=Path, nargs="*", default=[], help="real drafts, one for each --real_text")
    fraction = number(float, Option("a fraction", least=0.0, below=1.0))
    parser.add_argument("--real_fraction", type=fraction, default=0.2, help="real ones among all pairs of a shard")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the shards")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Make the shards that are missing, and say how wrong the drafts are."""
    args = get_parser().parse_args(cmd)
    check(args)
    import numpy as np

    from espnet_larm.recipe.drafts.pairs import read_pairs
    from espnet_larm.recipe.drafts.shards import Drafted, Shards, mixed

    texts = _chosen_lines(args)
    if args.confusions is not None and not args.confusions.is_file():
        raise FileNotFoundError(f"--confusions {args.confusions} is missing; espnet-larm learn-confusions makes it.")
    real: list[Drafted] = []
    if args.real_text:
        found = read_pairs(args.real_text, args.real_drafts)
        real = [Drafted(*each) for each in zip(*found, strict=True) if each[1]]
    num_shards = -(-len(texts) // args.lines_per_shard)
    shards = Shards(args.output_dir, num_shards, options_of(args, texts, real))
    make = None

    def pairs_of(place: int) -> list[Drafted]:
        nonlocal make
        make = make or _maker_of(args, texts)
        lines = texts[place * args.lines_per_shard : (place + 1) * args.lines_per_shard]
        drafts = make(lines, np.random.default_rng([args.seed, place]))
        pairs = [Drafted(f"{place:05d}-{row:06d}", *each) for row, each in enumerate(zip(lines, drafts, strict=True))]
        return mixed(pairs, real, args.real_fraction, place)

    shards.make(pairs_of)
    print(describe(shards))
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    given = [name for name in ("confusions", "asr_train_config") if getattr(args, name) is not None]
    if len(given) != 1:
        raise ValueError("give one of --confusions (a) and --asr_train_config (b): what makes the drafts.")
    if args.confusions is not None and args.wer_percent is None:
        raise ValueError("--confusions needs --wer_percent, the word error rate of the drafts; 30 is usual.")
    if args.confusions is None and (args.wer_percent is not None or args.bpemodel is not None):
        raise ValueError("--wer_percent and --bpemodel are for --confusions; a recogniser errs as it does.")
    if args.asr_train_config is not None and args.asr_model_file is None:
        raise ValueError("--asr_train_config needs --asr_model_file, the recogniser's weights.")
    if args.least_words > args.most_words:
        raise ValueError(f"--least_words is {args.least_words}; allowed: --most_words, {args.most_words}, or less.")


def _chosen_lines(args: argparse.Namespace) -> list[str]:
    """Lines of a good length in the wanted case, in a drawn order.

    Raises:
        ValueError: There is none.
    """
    import numpy as np

    from espnet_larm.data.text import read_sentences

    changes: dict[str, Callable[[str], str]] = {KEEP: str, LOWER: str.lower, UPPER: str.upper}
    change = changes[args.case]
    lines = [
        change(line) for line in read_sentences(args.text) if args.least_words <= len(line.split()) <= args.most_words
    ]
    if not lines:
        raise ValueError(f"--text has no line of {args.least_words} to {args.most_words} words.")
    order = np.random.default_rng(args.seed).permutation(len(lines))[: args.lines]
    return [lines[place] for place in order]


def _maker_of(args: argparse.Namespace, texts: Sequence[str]) -> Maker:
    """What makes drafts."""
    if args.confusions is None:
        from espnet_larm.recipe.drafts.recognised import load_recogniser
        from espnet_larm.recipe.drafts.spoken import Spoken

        return Spoken(load_recogniser(args), errs=not args.plain)
    from espnet_larm.recipe.drafts.channel import Channel, ConfusionModel, at_rate, join_units, splitter

    channel = Channel(ConfusionModel.load(args.confusions), splitter(args.bpemodel), join_units)
    scaled = at_rate(channel, texts, args.wer_percent, args.seed)
    logger.info("odds of errors: %.3f times those of %s", scaled.scale, args.confusions)
    return lambda lines, generator: [scaled(line, generator) for line in lines]


def options_of(args: argparse.Namespace, texts: Sequence[str], real: Sequence["Drafted"]) -> dict[str, Any]:
    """All that the shards depend on."""
    from espnet_larm.data.text import fingerprint

    files = [path for path in (args.confusions, args.asr_model_file) if path is not None]
    names = ("wer_percent", "bpemodel", "plain", "lines_per_shard", "seed")
    return {
        **{name: getattr(args, name) for name in names},
        "real_fraction": args.real_fraction if real else 0.0,
        "files": [fingerprint(path) for path in files],
        "lines": len(texts),
        "texts": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        "real": hashlib.sha256("\n".join(map(" ".join, real)).encode()).hexdigest(),
    }


def describe(shards: Any) -> str:
    """A sentence on what the shards hold."""
    from espnet_larm.data.kaldi_dir import read_table
    from espnet_larm.recipe.drafts.shards import DRAFT, TEXT
    from espnet_larm.scoring.alignment import add_counts, align, split_words

    texts, drafts = (read_table(shards.path(part, 0)) for part in (TEXT, DRAFT))
    counts = add_counts([each.counts for each in align([*texts.values()], [*drafts.values()], split_words)])
    return (
        f"{shards.folder}: {shards.num_shards} shards; the first has {len(texts)} pairs of "
        f"{counts.error_percent:.1f} % WER ({counts.substitutions} substitutions, {counts.deletions} deletions, "
        f"{counts.insertions} insertions of {counts.units} words)"
    )
