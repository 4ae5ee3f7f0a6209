"""A floor under the number of groups, for what reads pooled tokens and needs some of them, such as a CTC loss.

Shapes: B utterances, T tokens, D features. Masks are True where valid.
"""

import torch

from espnet_larm.pooling.affinity import cosines, valid_mask


@torch.no_grad()
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
    costs = torch.full(starts_mask.shape, float("inf"), device=keys.device)
    costs[:, 1:] = cosines(keys)
    # What cannot be split any more comes last, behind cosines of NaN too.
    closed = starts_mask | ~valid_mask(lens, starts_mask.size(1))
    order = costs.nan_to_num(nan=2.0).masked_fill(closed, float("inf")).argsort(dim=1, stable=True)
    ranks = order.argsort(dim=1)
    missing = (least - starts_mask.sum(dim=1)).clamp(min=0)
    return starts_mask | ((ranks < missing.unsqueeze(1)) & ~closed)
