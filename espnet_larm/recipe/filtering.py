"""Which utterances of a formatted set are fit for training."""

from collections.abc import Sequence
from typing import NamedTuple

from espnet_larm.data.kaldi_dir import Utterance


class Filtered(NamedTuple):
    """A set in two parts.

    Attributes:
        kept: In their order.
        dropped: Utterance id -> reason.
    """

    kept: list[Utterance]
    dropped: dict[str, str]


def filter_utterances(
    utterances: Sequence[Utterance], num_samples: dict[str, int], sample_rate: int, min_s: float, max_s: float
) -> Filtered:
    """Drop what is too short, too long, or has no transcript.

    Args:
        utterances: The set.
        num_samples: Utterance id -> length.
        sample_rate: In Hz.
        min_s: Shortest duration to keep, in seconds.
        max_s: Longest, in seconds.

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
