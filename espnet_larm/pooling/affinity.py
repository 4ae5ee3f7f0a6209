"""Affinity pooling: neighbouring tokens that say the same become their mean.

Source: Xiang et al., "Do We Need Distinct Representations for Every Speech Token?", arXiv:2604.06871. Greedy, from left
to right: a token joins the current group if the cosine with one of the group's last `window` tokens is at least tau,
and begins a new one otherwise.
Departures: `max_group` bounds a group. Dot products are accumulated in float64, so that their order, which depends on
the device and the batch, does not decide about a group; cosines are float32, those of zero vectors 0.
The source's means count each token once; weights.py has other weights.
Shapes: B utterances, T tokens, T' pooled tokens, D features. Masks are True where valid.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

# From groups (B, T), -1 at padding, to weights of tokens (B, T), 0 or more.
Weigh = Callable[[torch.Tensor], torch.Tensor]


class Pooled(NamedTuple):
    """Pooled tokens, and where each token went.

    Attributes:
        tokens: (B, T', D) of the tokens' type, zeros behind `lens`.
        lens: Valid pooled tokens (B,).
        groups: Index of the pooled token that each token went into (B, T); -1 where it was dropped or is padding.
        starts: First token of each group (B, T'); 0 behind `lens`.
    """

    tokens: torch.Tensor
    lens: torch.Tensor
    groups: torch.Tensor
    starts: torch.Tensor


def affinity_pool(
    xs_pad: torch.Tensor,
    lens: torch.Tensor,
    tau: float,
    window: int = 1,
    max_group: int | None = None,
    keys: torch.Tensor | None = None,
    weigh: Weigh | None = None,
) -> Pooled:
    """Pool a padded batch. Padding changes nothing, and a batch gives what its utterances give alone.

    Args:
        xs_pad: Tokens (B, T, D).
        lens: Valid tokens (B,).
        tau: Least cosine that joins; above 1 nothing is merged, and `tokens` is `xs_pad` itself with its padding.
        window: How many of the group's last tokens are compared, 1 or more.
        max_group: Most tokens of a group, 1 or more. With a window too, more tokens may be left at a lower tau.
        keys: What is compared (B, T, D'); the tokens by default.
        weigh: Gives the tokens' weights in their groups' means; see `merge`.
    """
    if tau > 1:
        return unpooled(xs_pad, lens)
    compared = xs_pad if keys is None else keys
    return merge(xs_pad, lens, boundaries(compared, lens, tau, window, max_group), weigh)


def unpooled(xs_pad: torch.Tensor, lens: torch.Tensor) -> Pooled:
    """Each token (B, T, D) its own group; the tokens are the argument itself."""
    valid = valid_mask(lens, xs_pad.size(1))
    frames = torch.arange(xs_pad.size(1), device=lens.device)
    return Pooled(xs_pad, lens, torch.where(valid, frames, -1), torch.where(valid, frames, 0))


@torch.no_grad()
def boundaries(
    xs_pad: torch.Tensor, lens: torch.Tensor, tau: float, window: int = 1, max_group: int | None = None
) -> torch.Tensor:
    """Where groups start (B, T), True at each group's first token; the arguments are those of `affinity_pool`.

    Without a window nothing depends on an earlier decision. With one, the nearest similar token decides: it lies in
    the current group if and only if the group is that long. This one number a token is scanned on the CPU.
    """
    valid = valid_mask(lens, xs_pad.size(1))
    if window == 1:
        joins = torch.zeros_like(valid)
        joins[:, 1:] = cosines(xs_pad) >= tau
        starts = valid & ~joins
        return starts if max_group is None else valid & cut_runs(starts, max_group)
    nearest = _nearest_similar(xs_pad, tau, window)
    starts = torch.tensor(
        [_scan(row, xs_pad.size(1), max_group) for row in nearest.tolist()], dtype=torch.bool, device=valid.device
    )
    return starts.view_as(valid) & valid


@torch.no_grad()
def split_where_most_different(
    keys: torch.Tensor, lens: torch.Tensor, number: torch.Tensor, first: torch.Tensor | None = None
) -> torch.Tensor:
    """Groups of each utterance, a given number, that begin where neighbours differ most.

    Without `first` that is affinity pooling with window 1 and a tau for each utterance alone.

    Args:
        keys: What is compared (B, T, D).
        lens: Valid tokens (B,).
        number: Groups of each utterance (B,), 1 to its tokens; 0 without tokens.
        first: Where groups begin before they do anywhere else (B, T); among these too, neighbours that differ most
            come first.

    Returns:
        True at each group's first token (B, T).
    """
    costs = torch.zeros(keys.shape[:2], device=keys.device)
    # What is not a number never begins a group before what is one.
    costs[:, 1:] = cosines(keys).nan_to_num(nan=2.0)
    if first is not None:
        costs = torch.where(first, costs - 4.0, costs)
    costs[:, :1] = float("-inf")
    valid = valid_mask(lens, keys.size(1))
    ranks = costs.masked_fill(~valid, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
    return valid & (ranks < number.unsqueeze(1))


def keep_at_least(
    keys: torch.Tensor, lens: torch.Tensor, starts_mask: torch.Tensor, least: torch.Tensor
) -> torch.Tensor:
    """Split groups where their neighbours differ most, until an utterance has as many as it needs.

    With window 1 that is a higher tau for this utterance alone. No group grows, so that a bound on groups holds.

    Args:
        keys: What is compared (B, T, D).
        lens: Valid tokens (B,).
        starts_mask: True at each group's first token (B, T).
        least: Groups that an utterance needs (B,), no more than its tokens.

    Returns:
        starts_mask with True at more tokens (B, T).
    """
    number = torch.maximum(starts_mask.sum(dim=1), least)
    return split_where_most_different(keys, lens, number, starts_mask)


def cosines(xs_pad: torch.Tensor, shift: int = 1) -> torch.Tensor:
    """Cosine of each token with the one `shift` before it.

    Args:
        xs_pad: (B, T, D).
        shift: 1 or more.

    Returns:
        (B, T - shift) in float32, the first for token `shift`; exactly 1 for equal tokens.
    """
    # Contiguous: the order of a sum depends on the strides.
    xs = xs_pad.to(torch.float64).contiguous()
    squares = xs.square().sum(-1)
    norms = (squares[:, shift:] * squares[:, :-shift]).sqrt()
    dots = (xs[:, shift:] * xs[:, :-shift]).sum(-1)
    return torch.where(norms > 0, dots / norms, norms).to(torch.float32)


def cut_runs(starts: torch.Tensor, max_group: int) -> torch.Tensor:
    """Cut the groups that begin at `starts` (B, T) into groups of at most `max_group`.

    With window 1 this is the greedy definition: a token is compared with the one before it, whatever their groups.
    """
    frames = torch.arange(starts.size(1), device=starts.device)
    begins = torch.where(starts, frames, 0).cummax(dim=1).values
    return (frames - begins) % max_group == 0


def merge(xs_pad: torch.Tensor, lens: torch.Tensor, starts_mask: torch.Tensor, weigh: Weigh | None = None) -> Pooled:
    """The mean of each group, accumulated in float32 at least; a token alone stays as it is, bit for bit.

    Args:
        xs_pad: Tokens (B, T, D); gradients reach them.
        lens: Valid tokens (B,).
        starts_mask: True at each group's first token (B, T); the first token always is one.
        weigh: Gives the tokens' weights in their groups' means; None counts each token once. A group whose weights
            are all 0 has the mean of tokens that count once.
    """
    valid = valid_mask(lens, xs_pad.size(1))
    frames = torch.arange(xs_pad.size(1), device=lens.device)
    starts_mask = valid & (starts_mask | (frames == 0))
    groups = torch.where(valid, starts_mask.cumsum(dim=1) - 1, -1)
    pooled_lens = starts_mask.sum(dim=1)
    num_groups = int(pooled_lens.max())
    starts = first_frames(groups, starts_mask, num_groups)
    # A group ends where the next one starts, the last one with the utterance.
    ends = torch.nn.functional.pad(starts, (0, 1))[:, 1:]
    numbers = torch.arange(1, num_groups + 1, device=lens.device)
    ends = torch.where(numbers == pooled_lens.unsqueeze(1), lens.unsqueeze(1), ends)
    counts = (ends - starts).unsqueeze(-1)  # 0 behind the last
    wide = xs_pad.to(torch.promote_types(xs_pad.dtype, torch.float32)).contiguous()
    means = _sums(wide, counts) / counts.clamp(min=1)
    if weigh is not None:
        weights = weigh(groups).to(wide.dtype).unsqueeze(-1)  # (B, T, 1)
        totals = _sums(weights, counts)
        weighted = _sums(weights * wide, counts) / totals.masked_fill(totals == 0, 1)
        means = torch.where(totals > 0, weighted, means)
    tokens = torch.where(counts == 1, take(xs_pad, starts), means.to(xs_pad.dtype))
    return Pooled(tokens.masked_fill(counts == 0, 0), pooled_lens, groups, starts)


def _sums(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Sums (B, T', D) of values (B, T, D) over groups of so many tokens (B, T', 1).

    Each runs from left to right over its own tokens, so that neither the batch nor atomics change it.
    """
    lengths = counts.squeeze(-1)
    return torch.segment_reduce(values.contiguous(), "sum", lengths=lengths, axis=1, unsafe=True, initial=0)


def first_frames(groups: torch.Tensor, starts_mask: torch.Tensor, num_groups: int) -> torch.Tensor:
    """First token of each group (B, T'), 0 where a row has fewer groups.

    Args:
        groups: Group of each token (B, T).
        starts_mask: True at each group's first token (B, T).
        num_groups: T'.
    """
    frames = torch.arange(groups.size(1), device=groups.device).expand_as(groups)
    # All others write into a column of their own, dropped at the end.
    column = torch.where(starts_mask, groups, num_groups)
    starts = torch.zeros(len(groups), num_groups + 1, dtype=torch.int64, device=groups.device)
    return starts.scatter_(1, column, frames)[:, :-1]


def take(xs_pad: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Tokens (B, T', D) of xs_pad (B, T, D) at frames (B, T')."""
    return xs_pad.gather(1, frames.unsqueeze(-1).expand(-1, -1, xs_pad.size(2)))


def valid_mask(lens: torch.Tensor, num_frames: int) -> torch.Tensor:
    """True at the valid tokens (B, T) of rows with `lens` (B,)."""
    return torch.arange(num_frames, device=lens.device) < lens.unsqueeze(1)


def _nearest_similar(xs_pad: torch.Tensor, tau: float, window: int) -> torch.Tensor:
    """How far back the nearest token with a cosine of at least tau is (B, T), 1 to window; T if there is none."""
    num_frames = xs_pad.size(1)
    nearest = torch.full(xs_pad.shape[:2], num_frames, device=xs_pad.device)
    for shift in range(min(window, num_frames - 1), 0, -1):
        nearest[:, shift:].masked_fill_(cosines(xs_pad, shift) >= tau, shift)
    return nearest


def _scan(nearest: list[int], num_frames: int, max_group: int | None) -> list[bool]:
    """Where groups start, from the distances of the nearest similar tokens."""
    largest = num_frames if max_group is None else max_group
    starts = []
    size = 0
    for distance in nearest:
        joins = distance <= size < largest
        size = size + 1 if joins else 1
        starts.append(not joins)
    return starts


class Kept(NamedTuple):
    """Numbers of speech tokens of the utterances of a batch.

    Attributes:
        before: Tokens before pooling (B,).
        after: Tokens after pooling (B,).
    """

    before: torch.Tensor
    after: torch.Tensor

    @property
    def retention(self) -> torch.Tensor:
        """The fraction that is left, a number on the device of the lengths; 1 without tokens."""
        before = self.before.sum()
        return torch.where(before > 0, self.after.sum() / before.clamp(min=1), 1.0)
