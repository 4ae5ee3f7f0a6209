"""Runs the loops of a batch until each utterance has left, by a rule or at the last loop.

Shapes: B utterances, T frames, D model size, V tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.looped.encoder import ReadOut, ReadOuts
from espnet_larm.recognize.leaving.rules import Rule, Seen


class Leaving(NamedTuple):
    """When utterances leave.

    Attributes:
        name: Name of the rule.
        rule: The rule.
        threshold: Its threshold.
        floor: The first loop at which an utterance can leave.
        num_loops: The loop at which all that are left leave.
    """

    name: str
    rule: Rule
    threshold: float
    floor: int
    num_loops: int


class Left(NamedTuple):
    """What a batch has when all have left.

    Attributes:
        hs_pad: Encoder output of each utterance at the loop at which it left (B, T, D), zero behind the lengths.
        hlens: Valid frames (B,).
        loops: The loop at which each left.
    """

    hs_pad: torch.Tensor
    hlens: torch.Tensor
    loops: tuple[int, ...]


def run_until_left(
    read_outs: ReadOuts, log_probs: Callable[[torch.Tensor], torch.Tensor], blank: int, leaving: Leaving
) -> Left:
    """Run the loops. What an utterance gets is what it gets alone with as many loops, to rounding.

    Args:
        read_outs: A batch's, up to `leaving.num_loops`.
        log_probs: The CTC head: (B, T, D) to (B, T, V).
        blank: Id of its blank.
        leaving: When an utterance leaves.
    """
    rule = leaving.rule
    frames: dict[int, torch.Tensor] = {}
    loops: dict[int, int] = {}
    seen: tuple[Seen, ...] = ()
    stays = None
    while (read := _next(read_outs, stays)) is not None:
        rows = list(range(len(read.hlens))) if read.rows is None else read.rows.tolist()
        leaves = torch.full_like(read.hlens, read.number >= leaving.num_loops, dtype=torch.bool)
        if read.number < leaving.num_loops:
            seen = (*seen, _seen(read, log_probs, blank))[-rule.num_compared :]
            if len(seen) == rule.num_compared:
                leaves = rule.says_leave(rule.measure(seen), leaving.threshold)
        for row, hs, length, is_left in zip(rows, read.hs_pad, read.hlens.tolist(), leaves.tolist(), strict=True):
            if is_left:
                frames[row], loops[row] = hs[:length], read.number
        stays = ~leaves
        if leaves.any() and stays.any():
            longest = int(read.hlens[stays].max())
            seen = tuple(each.of(stays, longest) for each in seen)
    left = [frames[row] for row in range(len(frames))]
    hlens = torch.tensor([len(each) for each in left], device=left[0].device)
    return Left(pad_sequence(left, batch_first=True), hlens, tuple(loops[row] for row in range(len(left))))


def _seen(read: ReadOut, log_probs: Callable[[torch.Tensor], torch.Tensor], blank: int) -> Seen:
    return Seen(log_probs(read.hs_pad), read.hs_pad, read.hlens, blank, read.number)


def _next(read_outs: ReadOuts, stays: torch.Tensor | None) -> ReadOut | None:
    """The next read-out of those that stay; None at the end."""
    try:
        return read_outs.send(stays)
    except StopIteration:
        return None


def numbers_at(
    read_outs: ReadOuts, log_probs: Callable[[torch.Tensor], torch.Tensor], blank: int, rules: Sequence[Rule]
) -> Iterator[tuple[ReadOut, list[list[float] | None]]]:
    """What each rule measures at each checkpoint loop, where nobody leaves: what thresholds are chosen by.

    Args:
        read_outs: A batch's.
        log_probs: The CTC head: (B, T, D) to (B, T, V).
        blank: Id of its blank.
        rules: The rules.

    Yields:
        The read-out, and numbers of all utterances for each rule; None for a rule that compares more loops.
    """
    most = max(rule.num_compared for rule in rules)
    seen: tuple[Seen, ...] = ()
    for read in read_outs:
        seen = (*seen, _seen(read, log_probs, blank))[-most:]
        yield (
            read,
            [
                rule.measure(seen[-rule.num_compared :]).tolist() if len(seen) >= rule.num_compared else None
                for rule in rules
            ],
        )
