"""Linear layers on a CPU with weights laid out once for oneDNN, which decoding asks about a few positions at a time.

torch's own product lays the weights out anew in each call, or reads them a second time: from LEAST_WEIGHTS on it takes
1.2 to 5 times as long for 2 to 32 positions (tools/bench/llm_calls.py); below, calling takes the longest. Sums are
added in another order: results differ by float rounding. The layout is a copy: the layers take twice their memory.
Own code: torch.utils.mkldnn puts script modules with copies in place of layers, which ends ties and gradients.
Shapes: D input size, O output size.
"""

import platform
import weakref
from typing import NamedTuple

import torch
from torch.nn import functional

LEAST_WEIGHTS = 200_000
# Not in the layers, whose copies would copy it.
_layouts: "weakref.WeakKeyDictionary[PackedLinear, _Layout]" = weakref.WeakKeyDictionary()
# What oneDNN lays weights out for.
POSITIONS = 8


class PackedLinear(torch.nn.Linear):
    """A linear layer that uses the layout where it can: on a CPU, in float32, without gradients."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., O)."""
        rows = given.reshape(-1, given.size(-1))
        if torch.is_grad_enabled() or not self._takes(rows):
            return super().forward(given)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._layout(), self.bias, "none", [], "")
        return product.view(*given.shape[:-1], -1)

    def _takes(self, rows: torch.Tensor) -> bool:
        if rows.dtype != torch.float32 or rows.device.type != "cpu" or self.weight.dtype != torch.float32:
            return False
        # One thread multiplies one position as fast without.
        least = 1 if torch.get_num_threads() > 1 else 2
        return len(rows) >= least and not torch.is_autocast_enabled("cpu") and not self.weight.is_inference()

    def _layout(self) -> torch.Tensor:
        """Made when it is first asked for, and again when the weights have changed."""
        known = _layouts.get(self)
        if known is None or known.pointer != self.weight.data_ptr() or known.version != self.weight._version:
            weight = self.weight.detach()
            layout = torch.ops.mkldnn._reorder_linear_weight(weight, POSITIONS)
            known = _layouts[self] = _Layout(weight.data_ptr(), weight._version, weight, layout)
        return known.layout


class _Layout(NamedTuple):
    """The weights at an address, held so that nothing else comes to lie there, and their version."""

    pointer: int
    version: int
    weight: torch.Tensor
    layout: torch.Tensor


def pack_linear_layers(module: torch.nn.Module, least_weights: int = LEAST_WEIGHTS) -> None:
    """Let large linear layers in a module be packed ones, where this machine has what they need.

    A change in place through `weight.data` is not noticed: for models that are not trained any more.

    Args:
        module: Whatever holds them.
        least_weights: Number of weights from which a layer is packed.
    """
    if not _is_supported():
        return
    for layer in module.modules():
        if type(layer) is torch.nn.Linear and layer.weight.numel() >= least_weights:
            # In place: whoever holds the layer, such as an LM whose head and embedding are one, keeps it.
            layer.__class__ = PackedLinear


def unpack_linear_layers(module: torch.nn.Module) -> None:
    """Take it back."""
    for layer in module.modules():
        if isinstance(layer, PackedLinear):
            layer.__class__ = torch.nn.Linear  # type: ignore[assignment]


def _is_supported() -> bool:
    """Whether torch's operators are there, which are not part of its documented interface, and work."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        weight, given = torch.ones(2, 3), torch.ones(1, 3)
        layout = torch.ops.mkldnn._reorder_linear_weight(weight, POSITIONS)
        product = torch.ops.mkldnn._linear_pointwise(given, layout, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(product, functional.linear(given, weight))
