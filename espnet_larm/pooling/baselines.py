"""Other ways to shorten a sequence to a wanted retention R, for comparison with affinity pooling.

None looks at the others of its batch, so that a batch gives what its utterances give alone.
FastAdaSP (arXiv:2410.03007), which weighs tokens by the attention of the LLM's layers, needs those weights and is not
here: this interface has tokens alone.
Shapes: B utterances, T tokens, T' pooled tokens, D features. Masks are True where valid.
"""

import torch

from espnet_larm.pooling.affinity import Pooled, Weigh, first_frames, merge, take, valid_mask


def kept_lens(lens: torch.Tensor, retention: float) -> torch.Tensor:
    """ceil(R T) of (B,) lengths T."""
    # 0.1 x 30 is a little more than 3 in binary.
    return (lens.to(torch.float64) * retention - 1e-9).ceil().long().clamp(min=0)


def uniform_mean(xs_pad: torch.Tensor, lens: torch.Tensor, retention: float, weigh: Weigh | None = None) -> Pooled:
    """Means of neighbours: token t of (B, T, D) goes into group ceil((t + 1) R) - 1, of 1 / R tokens on average.

    That gives ceil(R T) groups, as the other methods do; floor(t R) would give one less of some lengths.
    """
    return merge(xs_pad, lens, _strided(xs_pad, lens, retention), weigh)


def uniform_drop(xs_pad: torch.Tensor, lens: torch.Tensor, retention: float) -> Pooled:
    """The first token of each group of `uniform_mean`; the others are dropped."""
    return select(xs_pad, _strided(xs_pad, lens, retention))


def random_drop(xs_pad: torch.Tensor, lens: torch.Tensor, retention: float, seed: int = 0) -> Pooled:
    """ceil(R T) tokens at random, in their order.

    What is kept depends on the seed and the utterance's length alone, on neither its batch nor the device: utterances
    of one length lose the same places.
    """
    keep = torch.zeros(xs_pad.shape[:2], dtype=torch.bool)
    for row, (length, kept) in enumerate(zip(lens.tolist(), kept_lens(lens, retention).tolist(), strict=True)):
        # The generator looks at 32 bits only.
        generator = torch.Generator().manual_seed((seed * 1_000_003 + length) % 2**32)
        keep[row, torch.randperm(length, generator=generator)[:kept]] = True
    return select(xs_pad, keep.to(xs_pad.device))


def linear_interpolation(xs_pad: torch.Tensor, lens: torch.Tensor, retention: float) -> Pooled:
    """ceil(R T) tokens at even distances, each a blend of the two tokens about it; groups are the nearest of them.

    The ends of both sequences are those of the same time (`align_corners=False` of torch's `interpolate`).
    """
    pooled_lens = kept_lens(lens, retention)
    num_groups = int(pooled_lens.max())
    frames = torch.arange(xs_pad.size(1), device=lens.device)
    lens_, pooled_lens_ = lens.unsqueeze(1), pooled_lens.unsqueeze(1)
    valid = valid_mask(lens, xs_pad.size(1))
    # In whole numbers: floor((t + 1/2) T' / T).
    groups = torch.div((2 * frames + 1) * pooled_lens_, (2 * lens_).clamp(min=1), rounding_mode="floor")
    groups = torch.where(valid, groups, -1)
    starts_mask = valid & (groups != torch.nn.functional.pad(groups, (1, 0), value=-1)[:, :-1])

    pooled_valid = valid_mask(pooled_lens, num_groups)
    outputs = torch.arange(num_groups, device=lens.device, dtype=torch.float64)
    places = (outputs + 0.5) * lens_ / pooled_lens_.clamp(min=1) - 0.5
    places = places.clamp(min=0).minimum((lens_ - 1).clamp(min=0)).masked_fill(~pooled_valid, 0)  # (B, T')
    left = places.floor().long()
    right = (left + 1).minimum((lens_ - 1).clamp(min=0))
    wide = xs_pad.to(torch.promote_types(xs_pad.dtype, torch.float32))
    tokens = torch.lerp(take(wide, left), take(wide, right), (places - left).to(wide.dtype).unsqueeze(-1))
    tokens = tokens.to(xs_pad.dtype).masked_fill(~pooled_valid.unsqueeze(-1), 0)
    return Pooled(tokens, pooled_lens, groups, first_frames(groups, starts_mask, num_groups))


def select(xs_pad: torch.Tensor, keep: torch.Tensor) -> Pooled:
    """The tokens of (B, T, D) where the mask (B, T) is True; the others are dropped."""
    groups = torch.where(keep, keep.cumsum(dim=1) - 1, -1)
    pooled_lens = keep.sum(dim=1)
    num_groups = int(pooled_lens.max())
    starts = first_frames(groups, keep, num_groups)
    padding = ~valid_mask(pooled_lens, num_groups).unsqueeze(-1)
    return Pooled(take(xs_pad, starts).masked_fill(padding, 0), pooled_lens, groups, starts)


def _strided(xs_pad: torch.Tensor, lens: torch.Tensor, retention: float) -> torch.Tensor:
    """True at the first token of each group ceil((t + 1) R) - 1 (B, T)."""
    groups = kept_lens(torch.arange(xs_pad.size(1) + 1, device=lens.device), retention)
    return valid_mask(lens, xs_pad.size(1)) & (groups[1:] != groups[:-1])
