"""FLOPs of reading prompts, computed from shapes.

Products and convolutions alone are counted, two FLOPs a multiplication, as torch's FlopCounterMode counts them
(test_shapes_give_what_torch_counts). The count is our own, since torch's counts only what runs, padding included.
Attention counts all pairs of positions, masked ones too. Padding counts nothing.
Shapes: B rows.
"""

from typing import Any, NamedTuple

import torch

from espnet_larm.adaptation.depth_upscaling import AddedLayer
from espnet_larm.llm.backbone import Backbone


class Prefill(NamedTuple):
    """FLOPs of all rows together.

    Attributes:
        layers: FLOPs of each of the LM's layers, with the layer that was added behind it.
        head: FLOPs of the first token's logits.
    """

    layers: list[int]
    head: int

    @property
    def total(self) -> int:
        """FLOPs of all layers and the head."""
        return sum(self.layers) + self.head


def prefill_flops(backbone: Backbone, text_lens: torch.Tensor, *speech_lens: torch.Tensor) -> Prefill:
    """Count the FLOPs of reading prompts.

    Args:
        backbone: LM on any device, `meta` too; products of LoRA and of added layers are counted.
        text_lens: Positions of text in each row (B,).
        speech_lens: Positions of speech in each row (B,), for each of the LM's layers in order; `by_layer` makes them.
    """
    layers = [
        sum(_layer_flops(layer, text_lens, speech) for _, layer in backbone.layers_at(index))
        for index, speech in enumerate(speech_lens)
    ]
    assert len(layers) == len(backbone.layers)
    head = backbone.model.get_output_embeddings().weight.numel()
    return Prefill(layers, 2 * len(text_lens) * head)


def by_layer(
    num_layers: int, speech_lens: torch.Tensor, layer: int = 0, deep_lens: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Speech positions (B,) of each of an LM's layers, of which the first `layer` read what deep pooling shortens."""
    if deep_lens is None:
        return [speech_lens] * num_layers
    return [speech_lens] * layer + [deep_lens] * (num_layers - layer)


def _layer_flops(layer: torch.nn.Module, text_lens: torch.Tensor, speech_lens: torch.Tensor) -> int:
    """FLOPs of a layer, HF's or an added one, for positions of text (B,) and of speech (B,) in each row."""
    positions = (text_lens + speech_lens).to(torch.float64)
    pairs = float(positions.square().sum())
    # Any: torch says that a module's parts are tensors or modules.
    attention: Any = layer.self_attn
    heads_size = attention.config.num_attention_heads * attention.head_dim
    local = layer.local if isinstance(layer, AddedLayer) else None
    # The branch of an added layer reads speech alone.
    in_branch = 0 if local is None else _num_weights(local)
    products = (_num_weights(layer) - in_branch) * float(positions.sum()) + in_branch * float(speech_lens.sum())
    # Scores, and the mean of the values by them.
    return int(2 * products + 4 * pairs * heads_size)


def _num_weights(module: torch.nn.Module) -> int:
    """Number of weights that multiply each position; a depthwise convolution has a kernel a channel."""
    kinds = (torch.nn.Linear, torch.nn.Conv1d)
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, kinds))
