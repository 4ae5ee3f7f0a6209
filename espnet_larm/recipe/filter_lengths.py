"""Stage 4: a formatted set without utterances that are too short, too long or have no transcript.

Examples:
    espnet-larm filter-lengths --in_dir dump/raw/org/train --output_dir dump/raw/train

Dropped utterances are counted and printed; `dropped` in the output folder lists all of them with their reasons.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.kaldi_dir import Utterance, read_dir, read_table, write_dir, write_tables
from espnet_larm.files.locks import locked
from espnet_larm.options import hertz, seconds

NUM_DROPPED_SHOWN = 10


class Filtered(NamedTuple):
    """A set in two parts.

    Attributes:
        kept: Utterances that are fit for training, in their order.
        dropped: Utterance id -> reason.
    """

    kept: list[Utterance]
    dropped: dict[str, str]


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in_dir", type=Path, required=True, help="formatted set, with utt2num_samples")
    parser.add_argument("--output_dir", type=Path, required=True, help="formatted set to write")
    parser.add_argument("--fs", type=hertz, default=16000, help="sampling rate in Hz (16000)")
    parser.add_argument("--min_wav_duration", type=seconds, default=0.1, help="seconds; shorter ones are dropped (0.1)")
    parser.add_argument("--max_wav_duration", type=seconds, default=20.0, help="seconds; longer ones are dropped (20)")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Filter a set and print what was dropped."""
    args = get_parser().parse_args(cmd)
    with locked(args.output_dir):
        return _filter(args)


def _filter(args: argparse.Namespace) -> int:
    num_samples = {key: int(value) for key, value in read_table(args.in_dir / "utt2num_samples").items()}
    utterances = read_dir(args.in_dir)
    kept, dropped = filter_utterances(utterances, num_samples, args.fs, args.min_wav_duration, args.max_wav_duration)
    write_dir(args.output_dir, kept)
    write_tables(
        args.output_dir,
        {
            "utt2num_samples": {utterance.id: num_samples[utterance.id] for utterance in kept},
            "audio_format": read_table(args.in_dir / "audio_format"),
            "dropped": dropped,
        },
    )
    print(f"{args.in_dir} -> {args.output_dir}: {len(kept)} of {len(utterances)} utterances kept")
    for utterance_id, reason in list(dropped.items())[:NUM_DROPPED_SHOWN]:
        print(f"  dropped {utterance_id}: {reason}")
    if len(dropped) > NUM_DROPPED_SHOWN:
        print(f"  ... and {len(dropped) - NUM_DROPPED_SHOWN} more, listed in {args.output_dir / 'dropped'}")
    return 0


def filter_utterances(
    utterances: Sequence[Utterance], num_samples: dict[str, int], sample_rate: int, min_s: float, max_s: float
) -> Filtered:
    """Drop what is too short, too long, or has no transcript.

    Args:
        utterances: The set.
        num_samples: Utterance id -> length.
        sample_rate: Sampling rate in Hz.
        min_s: Shortest duration to keep, in seconds.
        max_s: Longest duration to keep, in seconds.

    Raises:
        ValueError: min_s is not below max_s, an utterance has no length, or nothing would be left.
    """
    if not 0 <= min_s < max_s:
        raise ValueError(f"--min_wav_duration {min_s} must be at least 0 and below --max_wav_duration {max_s}.")
    dropped = {}
    for utterance in utterances:
        if utterance.id not in num_samples:
            raise ValueError(f"utt2num_samples lacks {utterance.id}; repeat stage 3.")
        if reason := _reason(utterance, num_samples[utterance.id] / sample_rate, min_s, max_s):
            dropped[utterance.id] = reason
    kept = [utterance for utterance in utterances if utterance.id not in dropped]
    if not kept:
        first, reason = next(iter(dropped.items()), ("none", "the set is empty"))
        raise ValueError(f"all {len(dropped)} utterances would be dropped, {first} because {reason}; check the set.")
    return Filtered(kept, dropped)


def _reason(utterance: Utterance, duration_s: float, min_s: float, max_s: float) -> str:
    if not utterance.text:
        return "its transcript is empty"
    if duration_s < min_s:
        return f"it lasts {duration_s:.2f} s, below --min_wav_duration {min_s:g}"
    if duration_s > max_s:
        return f"it lasts {duration_s:.2f} s, above --max_wav_duration {max_s:g}"
    return ""
