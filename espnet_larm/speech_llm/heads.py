"""Heads that predict several tokens from one hidden state of an LM: drafts for a search, which the LM itself verifies.

Head 1 is the LM's own and is not here. Head k predicts token t + k from the state at t. At the start all are head 1.
Source: Raj et al., "Faster Speech-LLaMA Inference with Multi-token Prediction", arXiv:2409.08148: both
shapes. Departure: `latent` is a residual that starts at zero.
Shapes: D model size, V tokens.
"""

import re
from collections.abc import Iterable

import torch

KINDS = ("latent", "projection")
MAX_HEADS = 8


def num_heads_of(names: Iterable[str]) -> int:
    """K of a model, from the names of its weights; 1 if none is a draft head's."""
    found = [re.search(r"(?:^|\.)heads\.layers\.(\d+)\.weight$", name) for name in names]
    return max((int(match[1]) + 2 for match in found if match), default=1)


class DraftHeads(torch.nn.Module):
    """Heads 2 to K.

    Args:
        kind: One of KINDS: `latent`, a D x D matrix a head before the LM's own un-embedding, or `projection`, a V x D
            matrix a head.
        num_heads: K, 1 (no head here) to MAX_HEADS.
        unembedding: The LM's layer that turns a hidden state into logits.
    """

    def __init__(self, kind: str, num_heads: int, unembedding: torch.nn.Linear) -> None:
        super().__init__()
        self.kind = kind
        self.num_heads = num_heads
        vocab_size, size = unembedding.weight.shape
        rows = size if kind == "latent" else vocab_size
        self.layers = torch.nn.ModuleList(torch.nn.Linear(size, rows, bias=False) for _ in range(num_heads - 1))
        for head in range(2, num_heads + 1):
            if kind == "latent":
                torch.nn.init.zeros_(self._layer(head).weight)
            else:
                self._layer(head).weight.data.copy_(unembedding.weight)

    def _layer(self, head: int) -> torch.nn.Linear:
        layer = self.layers[head - 2]
        assert isinstance(layer, torch.nn.Linear)
        return layer

    def latent(self, head: int, hidden: torch.Tensor) -> torch.Tensor:
        """What the LM's un-embedding makes the logits of a `latent` head from, (..., D) to (..., D).

        Args:
            head: 2 to K.
            hidden: Before the un-embedding, of any floating type.
        """
        layer = self._layer(head)
        # The heads learn in float32 also behind an LM in bfloat16.
        return (hidden.to(layer.weight.dtype) + layer(hidden.to(layer.weight.dtype))).to(hidden.dtype)

    def project(self, head: int, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of a `projection` head, (..., D) to (..., V), float32."""
        layer = self._layer(head)
        logits: torch.Tensor = layer(hidden.to(layer.weight.dtype)).float()
        return logits
