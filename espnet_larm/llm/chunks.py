"""What is computed from logits, a few positions at a time: memory does not grow with positions times vocabulary.

Shapes: M positions, V tokens.
"""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

# 128 MiB in float32, of which a loss and its gradient make about four: 128 positions of Gemma 3, 4096 of 8192 tokens.
LOGITS_AT_ONCE = 2**25

Tensors = tuple[torch.Tensor, ...]


def by_chunks(
    function: Callable[..., Tensors], vocab_size: int, *given: torch.Tensor, recomputes: bool = False
) -> Tensors:
    """Results of a function of positions; those of several chunks are computed again in the backward pass.

    Args:
        function: Tensors (m, ...) of some positions to tensors (m, ...), through logits (m, V).
        vocab_size: V.
        given: Tensors (M, ...); without a position, the function is called all the same.
        recomputes: Whether a single chunk is computed again, too.
    """
    most = max(LOGITS_AT_ONCE // vocab_size, 1)
    chunks = list(zip(*(each.split(most) for each in given), strict=True))
    if len(chunks) == 1 and not recomputes:
        return function(*given)
    found = [checkpoint(function, *chunk, use_reentrant=False) for chunk in chunks]
    return tuple(torch.cat(each) for each in zip(*found, strict=True))
