"""What a training takes: memory of a batch, FLOPs of an hour of audio, steps, days.

Two small batches of utterances of one length are counted (step.py). At each moment of a step the bytes that are alive
are a constant and so much an utterance, and FLOPs likewise; both batches together give the two numbers, and these any
batch. The peak is the largest over all moments (test_a_batch_takes_what_was_planned_from_smaller_ones).
"""

import argparse
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from espnet_larm.train.planning.step import Step, Utterances

GIB = 2**30
# Of a GPU's memory; the rest is for CUDA itself, its libraries' workspaces, and what its allocator cannot join.
USABLE = 0.9
SECONDS_A_DAY = 86400.0


class Memory(NamedTuple):
    """Bytes of a training step of a batch.

    Attributes:
        weights: Bytes of weights and buffers, by part.
        gradients: Bytes of gradients, by part.
        state: Bytes of the optimiser's state, by part.
        activations: Bytes of activations after the forward pass, by part.
        peak: Most bytes that are alive at once.
    """

    weights: Mapping[str, int]
    gradients: Mapping[str, int]
    state: Mapping[str, int]
    activations: Mapping[str, int]
    peak: int


class Growth:
    """How bytes and FLOPs grow with the utterances of a batch.

    Args:
        small: Step of a batch.
        large: Step of a larger batch of the same model.
    """

    def __init__(self, small: Step, large: Step) -> None:
        self.small, self.large = small, large
        self.fixed = sum(large.weights.values())
        histories = np.array(small.history), np.array(large.history)
        if len(histories[0]) != len(histories[1]):
            # Operations that depend on the batch leave the highest moments to compare.
            histories = histories[0].max(keepdims=True), histories[1].max(keepdims=True)
        state = sum(large.state.values())
        moments = [
            np.append(history + state, step.update) for history, step in zip(histories, (small, large), strict=True)
        ]
        self._slopes = (moments[1] - moments[0]) / (large.number - small.number)
        self._starts = moments[0] - self._slopes * small.number + self.fixed
        self._batch = large.batch / large.number

    def peak(self, number: int) -> int:
        """Bytes at the highest moment of a step of so many utterances."""
        return round(float((self._starts + self._slopes * number).max() + self._batch * number))

    def most_within(self, size: float) -> int:
        """The most utterances whose step stays within so many bytes; 0 if not even one does."""
        slopes = self._slopes + self._batch
        room = size - self._starts
        if (room < 0).any():
            return 0
        return math.floor(float((room / np.maximum(slopes, 1e-9)).min()))

    def memory(self, number: int) -> Memory:
        """Bytes of a step of so many utterances."""
        parts = {*self.small.activations, *self.large.activations}
        activations = {
            part: round(self._line(self.small.activations.get(part, 0), self.large.activations.get(part, 0), number))
            for part in sorted(parts)
        }
        return Memory(self.large.weights, self.large.gradients, self.large.state, activations, self.peak(number))

    def flops(self, seconds: float) -> tuple[float, float]:
        """FLOPs of an hour of audio, for utterances of so many seconds: of forward passes, and of training."""
        more = self.large.number - self.small.number
        return (
            (self.large.forward_flops - self.small.forward_flops) / more * 3600.0 / seconds,
            (self.large.flops - self.small.flops) / more * 3600.0 / seconds,
        )

    def _line(self, small: float, large: float, number: int) -> float:
        slope = (large - small) / (self.large.number - self.small.number)
        return small + slope * (number - self.small.number)


class Course(NamedTuple):
    """Steps of a training.

    Attributes:
        batches: Batches of an epoch.
        epochs: Epochs.
        steps: Steps of the optimiser in all.
        hours: Hours of audio in all.
    """

    batches: int
    epochs: int
    steps: int
    hours: float

    def days(self, audio_s_per_s: float) -> float:
        """Days at so many seconds of audio a second."""
        return self.hours * 3600.0 / audio_s_per_s / SECONDS_A_DAY


def batch_of(args: argparse.Namespace, utterances: Utterances) -> int:
    """The utterances of this length that ESPnet's sampler puts into a batch.

    Args:
        args: Options of the training: batch_type and those that it reads, token_list.
        utterances: Their length and that of their transcripts; the number is not read.

    Raises:
        ValueError: The batch_type takes what is not known here.
    """
    kind = args.batch_type
    lengths = round(utterances.seconds * utterances.sample_rate_hz), utterances.text_len
    if kind in ("unsorted", "sorted"):
        number = args.batch_size
    elif kind == "folded":
        # Without lengths to fold at, a batch is whole.
        folds = zip(lengths, args.fold_length, strict=False)
        number = args.batch_size // (1 + max((length // fold for length, fold in folds), default=0))
    elif kind in ("length", "numel"):
        # Transcripts are as wide as their vocabulary: text_shape.<type> of the statistics has both.
        width = len(args.token_list) if kind == "numel" else 1
        bins = lengths[0] + lengths[1] * width
        # A batch is whole when it is above the bound.
        number = args.batch_bins // bins + 1
    else:
        raise ValueError(f"batch_type is {kind}, whose batches are not planned; give --utterances.")
    return max(1, number // max(1, args.ngpu))


def course_of(args: argparse.Namespace, utterances: Utterances, hours: float) -> Course:
    """The steps of a training on so many hours of audio an epoch, with batches of these utterances on each GPU."""
    audio_s = utterances.audio_s * max(1, args.ngpu)
    batches = args.num_iters_per_epoch or max(1, round(hours * 3600.0 / audio_s))
    steps = args.max_epoch * (batches // args.accum_grad)
    return Course(batches, args.max_epoch, steps, args.max_epoch * batches * audio_s / 3600.0)


def format_memory(memory: Memory) -> Iterator[str]:
    """A table as text: a row a part in GiB, then their sum and the peak."""
    yield f"    {'GiB':<20}{'weights':>10}{'gradients':>11}{'optimiser':>11}{'activations':>13}"
    columns = memory[:4]
    for part in dict.fromkeys(part for column in columns for part in column):
        cells = [column.get(part, 0) for column in columns]
        if any(cells):
            yield _row(part, cells)
    yield _row("all", [sum(column.values()) for column in columns])
    yield f"    {'peak':<20}{memory.peak / GIB:>10.3f}"


def _row(name: str, cells: list[int]) -> str:
    widths = (10, 11, 11, 13)
    return f"    {name:<20}" + "".join(f"{cell / GIB:>{width}.3f}" for cell, width in zip(cells, widths, strict=True))
