"""The rank of LoRA that has as many weights as added layers would have: a baseline of the same trainable size.

Both are counted on a copy of the LM without memory (torch's meta device), by the code that makes them, so the same
configuration gives the same rank, whenever it is read.
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from espnet_larm.adaptation.depth_upscaling import wrap
from espnet_larm.llm.backbone import SAFE, Backbone
from espnet_larm.llm.hugging_face import AutoModelForCausalLM


class Match(NamedTuple):
    """A rank, and the weights that it is about.

    Attributes:
        rank: 1 or more.
        num_lora: Weights of LoRA with it.
        num_added: Weights of the added layers.
    """

    rank: int
    num_lora: int
    num_added: int


def match_rank(backbone: Backbone, options: Mapping[str, Any], conf: Mapping[str, Any] | None) -> Match:
    """The rank whose number of weights is nearest to that of added layers; the lower of two that are as near.

    Args:
        backbone: Before anything is added to it; it is only looked at.
        options: Options of peft's LoraConfig, without a rank.
        conf: Arguments of UpscalingOptions.

    Raises:
        ValueError: An option is not allowed, layers cannot be added, or no module is named that has a rank.
    """
    twin = _twin(backbone)
    try:
        with torch.device("meta"):
            wrap(twin, conf)
    except ValueError as error:
        raise ValueError(f"match: {str(error).removeprefix('decoder_conf: depth_upscaling_conf: ')}") from error
    num_added = _count(twin.added)
    # What does not grow with the rank (use_dora, rank_pattern) is in both.
    first, second = (_num_lora(backbone, options, rank) for rank in (1, 2))
    if second <= first:
        raise ValueError("no module has a rank that could be chosen; change target_modules or rank_pattern.")
    lower = max((num_added - first) // (second - first) + 1, 1)
    found = [Match(rank, first + (rank - 1) * (second - first), num_added) for rank in (lower, lower + 1)]
    return min(found, key=lambda match: abs(match.num_lora - num_added))


def _num_lora(backbone: Backbone, options: Mapping[str, Any], rank: int) -> int:
    import peft

    twin = _twin(backbone).requires_grad_(False)
    before = _count(twin)
    with torch.device("meta"):
        peft.inject_adapter_in_model(peft.LoraConfig(**options, r=rank), twin.model)
    return _count(twin) - before


def _twin(backbone: Backbone) -> Backbone:
    """The LM's shapes without its weights."""
    with torch.device("meta"):
        return Backbone(AutoModelForCausalLM.from_config(copy.deepcopy(backbone.config), **SAFE))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
