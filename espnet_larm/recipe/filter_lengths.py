"""Stage 4: a formatted set without utterances that are too short, too long or have no transcript.

Example:
    python -m espnet_larm filter-lengths --in_dir dump/raw/org/train --out_dir dump/raw/train

Dropped utterances are counted and printed; `dropped` in the output folder lists all of them with their reasons.
"""

import argparse
from pathlib import Path

from espnet_larm.data.kaldi_dir import read_dir, read_table, write_dir, write_tables
from espnet_larm.recipe.filtering import filter_utterances

NUM_DROPPED_SHOWN = 10


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in_dir", type=Path, required=True, help="formatted set, with utt2num_samples")
    parser.add_argument("--out_dir", type=Path, required=True, help="formatted set to write")
    parser.add_argument("--fs", type=int, default=16000, help="sampling rate in Hz")
    parser.add_argument("--min_wav_duration", type=float, default=0.1, help="seconds")
    parser.add_argument("--max_wav_duration", type=float, default=20.0, help="seconds")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Filter a set; say what was dropped."""
    args = get_parser().parse_args(cmd)
    num_samples = {key: int(value) for key, value in read_table(args.in_dir / "utt2num_samples").items()}
    utterances = read_dir(args.in_dir)
    kept, dropped = filter_utterances(utterances, num_samples, args.fs, args.min_wav_duration, args.max_wav_duration)
    write_dir(args.out_dir, kept)
    write_tables(
        args.out_dir,
        {
            "utt2num_samples": {utterance.id: num_samples[utterance.id] for utterance in kept},
            "audio_format": read_table(args.in_dir / "audio_format"),
            "dropped": dropped,
        },
    )
    print(f"{args.in_dir} -> {args.out_dir}: {len(kept)} of {len(utterances)} utterances kept")
    for utterance_id, reason in list(dropped.items())[:NUM_DROPPED_SHOWN]:
        print(f"  dropped {utterance_id}: {reason}")
    if len(dropped) > NUM_DROPPED_SHOWN:
        print(f"  ... and {len(dropped) - NUM_DROPPED_SHOWN} more, listed in {args.out_dir / 'dropped'}")
    return 0
