"""Runs the loops of a batch until each utterance, or each chunk, has left, by a rule or at the last loop.

Shapes: B utterances, T frames, N chunks of C frames, D model size, V tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.recognize.leaving.rules import Rule, Seen
from espnet_larm.streaming.read_out import ReadOut, ReadOuts, next_read_out


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


class Watch:
    """Looks at a batch at one checkpoint loop after the other, and says who leaves.

    Args:
        blank: Id of the CTC head's blank.
        leaving: When an utterance leaves.
    """

    def __init__(self, blank: int, leaving: Leaving) -> None:
        self._blank, self._leaving = blank, leaving
        self._seen: tuple[Seen, ...] = ()

    def leaves(
        self, number: int, log_probs: torch.Tensor | None, hs_pad: torch.Tensor, hlens: torch.Tensor
    ) -> torch.Tensor:
        """Say who leaves at a loop (B,), True where an utterance does.

        Args:
            number: The loop, later than the one before.
            log_probs: The CTC head's log-probabilities (B, T, V); None at the last loop, where all leave.
            hs_pad: What the CTC head reads there (B, T, D), zero behind the lengths.
            hlens: Valid frames (B,); one without frames stays until the last loop.
        """
        rule = self._leaving.rule
        if number >= self._leaving.num_loops or log_probs is None:
            return torch.ones_like(hlens, dtype=torch.bool)
        self._seen = (*self._seen, Seen(log_probs, hs_pad, hlens, self._blank, number))
        self._seen = self._seen[-rule.num_compared :]
        if len(self._seen) < rule.num_compared:
            return torch.zeros_like(hlens, dtype=torch.bool)
        return rule.says_leave(rule.measure(self._seen), self._leaving.threshold) & (hlens > 0)

    def keep(self, stays: torch.Tensor, num_frames: int) -> None:
        """From now on the batch is of the utterances that stay (B,), cut to `num_frames`."""
        self._seen = tuple(each.of(stays, num_frames) for each in self._seen)


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
    watch = Watch(blank, leaving)
    frames: dict[int, torch.Tensor] = {}
    loops: dict[int, int] = {}
    stays = None
    while (read := next_read_out(read_outs, stays)) is not None:
        rows = list(range(len(read.hlens))) if read.rows is None else read.rows.tolist()
        posteriors = log_probs(read.hs_pad) if read.number < leaving.num_loops else None
        leaves = watch.leaves(read.number, posteriors, read.hs_pad, read.hlens)
        for row, hs, length, is_left in zip(rows, read.hs_pad, read.hlens.tolist(), leaves.tolist(), strict=True):
            if is_left:
                frames[row], loops[row] = hs[:length], read.number
        stays = ~leaves
        if leaves.any() and stays.any():
            watch.keep(stays, int(read.hlens[stays].max()))
    left = [frames[row] for row in range(len(frames))]
    hlens = torch.tensor([len(each) for each in left], device=left[0].device)
    return Left(pad_sequence(left, batch_first=True), hlens, tuple(loops[row] for row in range(len(left))))


def run_chunks_until_left(
    read_outs: ReadOuts,
    log_probs: Callable[[torch.Tensor], torch.Tensor],
    blank: int,
    leaving: Leaving,
    chunk_frames: int,
) -> tuple[ReadOut, torch.Tensor]:
    """Run the loops as a stream does in which chunks leave by a rule; each is measured by its own frames.

    Args:
        read_outs: A batch's, `by_chunk`, up to `leaving.num_loops`.
        log_probs: The CTC head: (B, T, D) to (B, T, V).
        blank: Id of its blank.
        leaving: When a chunk leaves.
        chunk_frames: C.

    Returns:
        The last read-out, which has each chunk as it was when it left. The loop at which it did (B, N), 0 of chunks
        behind an utterance's end.
    """
    watch = Watch(blank, leaving)
    left_at = stays = None
    while (read := next_read_out(read_outs, stays)) is not None:
        last = read
        chunks, lens = _chunks_of(read, chunk_frames)
        posteriors = log_probs(chunks) if read.number < leaving.num_loops else None
        leaves = watch.leaves(read.number, posteriors, chunks, lens).view(len(read.hlens), -1)
        left_at = torch.zeros_like(leaves, dtype=torch.long) if left_at is None else left_at
        runs = (left_at == 0) & (lens > 0).view_as(leaves)
        left_at = left_at.masked_fill(leaves & runs, read.number)
        stays = runs & ~leaves
    assert left_at is not None
    return last, left_at


def _chunks_of(read: ReadOut, chunk_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of a read-out by chunk (B N, C, D), and how many are valid (B N,)."""
    whole = torch.nn.functional.pad(read.hs_pad, (0, 0, 0, -read.hs_pad.size(1) % chunk_frames))
    starts = torch.arange(0, whole.size(1), chunk_frames, device=whole.device)
    lens = (read.hlens.unsqueeze(1) - starts).clamp(0, chunk_frames)
    return whole.reshape(-1, chunk_frames, whole.size(2)), lens.flatten()


def _seen(read: ReadOut, log_probs: Callable[[torch.Tensor], torch.Tensor], blank: int) -> Seen:
    return Seen(log_probs(read.hs_pad), read.hs_pad, read.hlens, blank, read.number)


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
