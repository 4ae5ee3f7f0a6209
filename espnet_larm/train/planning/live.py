"""Counts the bytes of tensors that are alive, operation by operation, and which part of a model made them."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What no part makes: features, losses, the batch's own masks.
REST = "features and losses"


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors made in its context that are still alive, by the part that made them.

    Args:
        known: Tensors that exist already and are not counted.

    Attributes:
        live: Bytes by part.
        peak: Most bytes of all parts together so far.
        history: Bytes of all parts together after each operation.
        part: Part that makes tensors now.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.peak = 0
        self.history: list[int] = []
        self.part = REST
        self._total = 0
        self._undo: list[Callable[[], None]] = []
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do as without it, and look at the results."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        self.history.append(self._total)
        return result

    def watch(self, part: str, module: torch.nn.Module) -> None:
        """Count what a module makes in its forward pass as a part's."""
        before: list[str] = []

        def enter(*_: Any) -> None:
            before.append(self.part)
            self.part = part

        def leave(*_: Any) -> None:
            self.part = before.pop()

        self._undo += [module.register_forward_pre_hook(enter).remove, module.register_forward_hook(leave).remove]

    def watch_model(self, model: Any) -> None:
        """Count what the encoder, the heads, and an LM with its projector make in a model's forward pass."""
        for part in ("frontend", "encoder", "ctc"):
            if isinstance(module := getattr(model, part, None), torch.nn.Module):
                self.watch(part, module)
        decoder: Any = getattr(model, "decoder", None)
        if hasattr(decoder, "read_text"):
            self.watch("LM", decoder.backbone.model.get_output_embeddings())
            self.watch("projector", decoder.projector)
            decoder.read_text = self.counted("LM", decoder.read_text)
            self._undo.append(lambda: delattr(decoder, "read_text"))
        elif isinstance(decoder, torch.nn.Module):
            self.watch("decoder", decoder)

    def unwatch(self) -> None:
        """Take the hooks off again."""
        while self._undo:
            self._undo.pop()()

    def counted(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose tensors count as a part's."""

        def called(*args: Any) -> Any:
            before, self.part = self.part, part
            result = function(*args)
            self.part = before
            return result

        return called

    def _add(self, storage: torch.UntypedStorage) -> None:
        # A view has its storage from a tensor that is counted; an empty one has none.
        if storage._cdata in self._known or not storage.nbytes():
            return
        self._known.add(storage._cdata)
        self._change(self.part, storage.nbytes())
        self.peak = max(self.peak, self._total)
        weakref.finalize(storage, self._drop, storage._cdata, self.part, storage.nbytes())

    def _drop(self, key: int, part: str, size: int) -> None:
        self._known.discard(key)
        self._change(part, -size)

    def _change(self, part: str, size: int) -> None:
        self.live[part] += size
        self._total += size
