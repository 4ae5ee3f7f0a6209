"""The attention that HF's layers call in a `Backbone`: over a row itself, or over what our cache holds and it.

Own code, since HF's functions do not read our cache. Importing it makes the name known to HF.
Shapes: B rows, L positions, H heads, S head size.
"""

from typing import Any

import torch
from torch.nn import functional

from espnet_larm.llm.hugging_face import AttentionInterface, AttentionMaskInterface, sdpa_mask
from espnet_larm.llm.stream import Step

ATTENTION = "espnet_larm"


def attention(
    module: torch.nn.Module,  # noqa: ARG001  # HF's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    step: Step | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What HF's attention layers call: causal over the rows themselves, or over what the cache holds and them.

    Args:
        module: HF's attention layer.
        query: (B, H, L, S).
        key: (B, key-value heads, L, S).
        value: Values of the same shape as the keys.
        attention_mask: From us the mask of a window, if a row is longer, or of a pass that reads both ways; else None:
            padding is behind the valid positions, where no valid position looks. HF's own forward of the model, as
            other programs call it, may have another.
        scaling: Factor of the scores.
        dropout: Dropout rate of the weights in training.
        step: None to remember nothing.

    Returns:
        (B, L, H, S), and no weights.
    """
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    ragged = None if step is None else step.ragged
    if ragged is not None:
        query, key, value = (ragged.padded(each.transpose(1, 2)).transpose(1, 2) for each in (query, key, value))
    if step is not None:
        step.cache.append(step.layer, key, value, step.num_new, step.window)
    if step is not None and step.cache.is_sealed:
        mixed = step.cache.attend(step.layer, query, step.num_new, scaling, step.window)
    else:
        shares_keys = query.size(1) != key.size(1)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=dropout,
            is_causal=attention_mask is None and query.size(2) > 1,
            scale=scaling,
            enable_gqa=shares_keys,
        )
    mixed = mixed.transpose(1, 2)
    return (mixed if ragged is None else ragged.flat(mixed)).contiguous(), None


AttentionInterface.register(ATTENTION, attention)
# The masks that HF's own forward makes for it are those of its SDPA.
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
