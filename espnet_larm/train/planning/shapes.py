"""Spares a count the arithmetic: large operations give zeros of the right shape, which count as what they stand for."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
# What nearly all of a step's time goes to. Their results' bytes and FLOPs follow from shapes alone.
LARGE = frozenset(
    {
        aten.mm,
        aten.addmm,
        aten.bmm,
        aten.baddbmm,
        aten.convolution,
        aten.convolution_backward,
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    }
)


class ShapesOnly(TorchDispatchMode):
    """Replaces what `LARGE` operations compute on a CPU by zeros."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Ask torch's shape functions in the place of large operations."""
        kwargs = kwargs or {}
        if func.overloadpacket not in LARGE:
            return func(*args, **kwargs)
        shaped = func(*tree_map_only(torch.Tensor, _shape_of, args), **tree_map_only(torch.Tensor, _shape_of, kwargs))
        return tree_map_only(torch.Tensor, _zeros_of, shaped)


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _zeros_of(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).zero_()
