"""Layers of an LM that see all positions before, and others that see a window of them, each with its rotary angles.

A window is counted in the positions that the rotary embedding has, so that a layer never meets a distance that it was
not trained on. Where pooling has merged speech behind a layer, a window still spans as much of what was said as before.
Shapes: B rows, L positions. Masks are True where a key is seen.
"""

from typing import Any, NamedTuple

import torch

FULL_ATTENTION, WINDOW_ATTENTION = "full_attention", "sliding_attention"


class LayerKind(NamedTuple):
    """What layers of an LM have in common.

    Attributes:
        rotary: Name of their rotary embedding; None where the LM has one for all layers.
        window: Positions that a position sees, itself included; None for all before it.
    """

    rotary: str | None
    window: int | None


class View(NamedTuple):
    """What layers of a kind are called with.

    Attributes:
        rotary: Cosines and sines.
        mask: Keys that positions of a row see (B, 1, L, L), or all alike (B, 1, 1, L); None for all before them.
        window: For a cache; None for a kind without, or where no key that it holds is too far away.
    """

    rotary: tuple[torch.Tensor, torch.Tensor]
    mask: torch.Tensor | None = None
    window: "Window | None" = None


class Window(NamedTuple):
    """The window of new positions, over keys of a cache too.

    Attributes:
        size: Positions that a position sees, itself included.
        positions: The new positions (B, L), on the CPU.
    """

    size: int
    positions: torch.Tensor


def kinds_of(config: Any) -> list[LayerKind]:
    """The kind of each layer, from HF's configuration."""
    layers = int(config.num_hidden_layers)
    types = list(getattr(config, "layer_types", None) or [FULL_ATTENTION] * layers)
    window = getattr(config, "sliding_window", None)
    # HF's Mistral has its window in all layers, whatever their types.
    is_bounded = [config.model_type == "mistral" or each == WINDOW_ATTENTION for each in types]
    # Parameters of its rotary embeddings stand by type of layer where it has several.
    has_several = types[0] in (getattr(config, "rope_parameters", None) or {})
    return [
        LayerKind(each if has_several else None, int(window) if window is not None and bounded else None)
        for each, bounded in zip(types, is_bounded, strict=True)
    ]


def window_mask(positions: torch.Tensor, window: int) -> torch.Tensor | None:
    """Keys that positions (B, L) of a row see, (B, 1, L, L); None where they are all before them."""
    if positions.numel() == 0 or int(positions.max() - positions.min()) < window:
        return None
    is_near = positions.unsqueeze(1) > positions.unsqueeze(2) - window
    is_before = torch.ones(is_near.shape[1:], dtype=torch.bool, device=positions.device).tril()
    return (is_near & is_before).unsqueeze(1)


def both_ways_mask(positions: torch.Tensor, lens: torch.Tensor, window: int | None) -> torch.Tensor:
    """Keys that positions (B, L) of a row see before and behind them, less than a window away.

    Args:
        positions: For the rotary embedding (B, L).
        lens: Valid positions (B,).
        window: Positions that a position sees on each side, itself included; None for all valid ones.

    Returns:
        (B, 1, L, L); (B, 1, 1, L) where all see the same.
    """
    width = positions.size(1)
    is_valid = (torch.arange(width, device=positions.device) < lens.to(positions.device).unsqueeze(1)).unsqueeze(1)
    if window is None or int(positions.max() - positions.min()) < window:
        return is_valid.unsqueeze(1)
    is_near = (positions.unsqueeze(1) - positions.unsqueeze(2)).abs() < window
    # Padding far behind the valid positions sees itself: of no key at all, softmax makes no number.
    itself = torch.eye(width, dtype=torch.bool, device=positions.device)
    return ((is_near & is_valid) | itself).unsqueeze(1)
