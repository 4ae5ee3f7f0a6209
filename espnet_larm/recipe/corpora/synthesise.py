"""Make the synthetic corpus of egs/mini, in LibriSpeech's layout. Needs the extra `mini` (eSpeak NG, GPL).

Example:
    python -m espnet_larm synthesise-speech --out downloads/synthetic --minutes 20 --seed 1
"""

import argparse
from pathlib import Path


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="root of the corpus; must not be there")
    parser.add_argument("--minutes", type=float, default=20.0, help="of speech in all splits, without silences")
    parser.add_argument("--seed", type=int, default=1, help="decides sentences, voices, noise and silences")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Make the corpus and print its size."""
    args = get_parser().parse_args(cmd)
    # Imports numpy and eSpeak NG.
    from espnet_larm.recipe.corpora.synthesis import synthesise_corpus

    made = synthesise_corpus(args.out, args.minutes, args.seed)
    print(f"eSpeak NG -> {args.out} (synthetic): " + ", ".join(f"{split} {m:.1f} min" for split, m in made.items()))
    return 0
