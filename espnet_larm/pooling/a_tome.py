"""A-ToMe: adjacent tokens whose keys are alike are merged until a wanted retention is reached.

Source: Li et al., "Accelerating Transducers through Adjacent Token Merging", arXiv:2306.16009, after the bipartite
matching of ToMe (Bolya et al., arXiv:2210.09461, 3): of the tokens at even places, each proposes to be merged with the
more similar of its two neighbours, and the best proposals are accepted.
Departures: the source merges a little in each of several layers, which compute new keys; here rounds follow each other
at one place, and a merged token's key is the mean of its tokens' keys, each counted once.
Shapes: T tokens, D features, N groups so far.
"""

import torch

from espnet_larm.pooling.affinity import Pooled, Weigh, merge
from espnet_larm.pooling.baselines import kept_lens


def a_tome(
    xs_pad: torch.Tensor,
    lens: torch.Tensor,
    retention: float,
    keys: torch.Tensor | None = None,
    weigh: Weigh | None = None,
) -> Pooled:
    """Pool each utterance to ceil(R T) tokens.

    Args:
        xs_pad: Tokens (B, T, D).
        lens: Valid tokens (B,).
        retention: R, over 0 to 1.
        keys: What is compared (B, T, D'), such as the keys of an attention, all heads side by side; the tokens
            themselves by default.
        weigh: Gives the tokens' weights in their groups' means; see `merge`. It decides about no group.
    """
    compared = (xs_pad if keys is None else keys).detach()
    starts_mask = torch.zeros(xs_pad.shape[:2], dtype=torch.bool, device=xs_pad.device)
    # Utterances take different numbers of rounds; a baseline need not be fast.
    for row, (length, kept) in enumerate(zip(lens.tolist(), kept_lens(lens, retention).tolist(), strict=True)):
        starts_mask[row, :length] = _starts_of_one(compared[row, :length], kept)
    return merge(xs_pad, lens, starts_mask, weigh)


def _starts_of_one(keys: torch.Tensor, kept: int) -> torch.Tensor:
    """Where groups start (T,), `kept` of them."""
    starts = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    while (num_groups := int(starts.sum())) > kept:
        group_of = starts.cumsum(dim=0) - 1
        sums = torch.zeros(num_groups, keys.size(1), dtype=torch.float64, device=keys.device)
        # The mean's length does not change its cosines.
        sums.index_add_(0, group_of, keys.to(torch.float64))
        joins = _accepted(torch.cosine_similarity(sums[1:], sums[:-1], dim=-1), num_groups - kept)
        starts = starts.masked_scatter(starts, ~joins)
    return starts


def _accepted(cosines: torch.Tensor, num_merges: int) -> torch.Tensor:
    """Choose the groups that join the one before them (N,), at most `num_merges`.

    Args:
        cosines: Cosine of each group but the first with the one before it (N - 1,).
        num_merges: How many are still too many.
    """
    # The proposal of an even group 2 i: to its left (link 2 i - 1) or to its right (link 2 i).
    beyond = cosines.new_full((1,), float("-inf"))
    links = torch.cat([beyond, cosines, beyond])  # (N + 1,): the link before each group, and after the last
    left, right = links[:-1:2], links[1::2]
    takes_right = right >= left
    best = torch.where(takes_right, right, left)
    evens = torch.arange(0, len(links) - 1, 2, device=cosines.device)
    joining = torch.where(takes_right, evens + 1, evens)  # the later group of the pair
    order = best.argsort(descending=True, stable=True)[:num_merges]
    joins = torch.zeros(len(cosines) + 1, dtype=torch.bool, device=cosines.device)
    joins[joining[order]] = True
    return joins
