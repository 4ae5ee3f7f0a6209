"""The layers that were added to an LM, from names of weights: to tell how a checkpoint's differ from a model's."""

import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"added\.(\d+)\.(local\.)?(.+)")
KERNELS = {"gate_conv.weight": "gate_kernel", "merge_conv.weight": "merge_kernel"}
# Of the LM in the weights of a `speech_llm` model.
PREFIX = "decoder.backbone."


def layout_of(weights: Mapping[str, Any], prefix: str = PREFIX) -> dict[int, str]:
    """What stands behind which layer of the LM.

    Args:
        weights: Tensors or their shapes, by name; of those that do not begin with the prefix nothing is read.
        prefix: Prefix of the backbone's names.
    """
    slots: dict[int, list[str]] = {}
    branches: dict[int, list[str]] = {}
    for name, weight in weights.items():
        if not name.startswith(prefix) or not (match := NAME.fullmatch(name.removeprefix(prefix))):
            continue
        slots.setdefault(int(match[1]), [])
        if match[2]:
            found = branches.setdefault(int(match[1]), [])
            if match[3] in KERNELS:
                found.append(f"{KERNELS[match[3]]} {getattr(weight, 'shape', weight)[-1]}")
    return {
        slot: f"e_branchformer ({', '.join(sorted(branches[slot]))})" if slot in branches else "standard"
        for slot in sorted(slots)
    }


def layout_difference(own: Mapping[int, str], saved: Mapping[int, str]) -> str | None:
    """A sentence if a checkpoint has other added layers than a model.

    Args:
        own: The model's layout from `layout_of`.
        saved: The checkpoint's layout.
    """
    if own == saved:
        return None
    return (
        f"decoder_conf: depth_upscaling_conf differs: the checkpoint has {_describe(saved)}, the model "
        f"{_describe(own)}; set layer, placement, number and kernels as the checkpoint's config.yaml has them."
    )


def _describe(layout: Mapping[int, str]) -> str:
    if not layout:
        return "no added layers"
    kinds = dict.fromkeys(layout.values())
    places = {kind: ", ".join(str(slot) for slot in layout if layout[slot] == kind) for kind in kinds}
    return " and ".join(f"{kind} behind layers {places[kind]} (counted from 0)" for kind in kinds)
