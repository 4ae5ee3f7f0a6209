"""Weights that a name gives back: checkpoints hold a fingerprint of them in their place.

Module and names are those of a pre-trained model that was loaded from a folder or the hub, an LM or a speech encoder.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from espnet_larm.llm.fingerprint import FINGERPRINT, difference
from espnet_larm.llm.words import Words


class KeepsTypes(torch.nn.Module):
    """Moves with the model that it is part of, and keeps its floating types: ESPnet casts whole models."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "KeepsTypes":
        def moved(tensor: torch.Tensor) -> torch.Tensor:
            result = fn(tensor)
            # Cast there and back, numbers would be rounded, or overflow.
            return tensor.to(result.device) if result.dtype != tensor.dtype else result

        super()._apply(moved, recurse)
        return self


def state_names(module: torch.nn.Module) -> list[str]:
    """Names of the weights that a state dict has before any hook."""
    persistent = [
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        for name in part._buffers
        if name not in part._non_persistent_buffers_set and part._buffers[name] is not None
    ]
    return [*(name for name, _ in module.named_parameters(remove_duplicate=False)), *persistent]


def leave_out(module: torch.nn.Module, names: Sequence[str], fingerprint: torch.Tensor, words: Words) -> None:
    """Keep weights out of a module's state dicts from here on, and put its own in their place when one is loaded.

    Args:
        module: What holds the model.
        names: Weights that its name gives back, by all their names (tied ones have several); none where all of them
            learn: the fingerprint is then compared where the weights are not in the checkpoint.
        fingerprint: SHA-256 of the model as it was loaded (32,).
        words: How messages speak of it.
    """
    module.register_buffer(FINGERPRINT, fingerprint)
    module.register_state_dict_post_hook(partial(_omit, tuple(names)))
    module.register_load_state_dict_pre_hook(partial(_complete, tuple(names), words))


def _omit(names: Sequence[str], module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:  # noqa: ARG001
    """A state-dict hook."""
    for name in names:
        state.pop(prefix + name, None)


def _complete(
    names: Sequence[str],
    words: Words,
    module: torch.nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: Any,  # noqa: ARG001
    strict: bool,  # noqa: ARG001
    missing: list[str],  # noqa: ARG001
    unexpected: list[str],  # noqa: ARG001
    errors: list[str],
) -> None:
    """A load hook: put the module's own weights in place of those that were left out, if they are the same."""
    own = dict((*module.named_parameters(remove_duplicate=False), *module.named_buffers()))
    weights = {name: own[name] for name in names}
    saved = state.get(prefix + FINGERPRINT)
    has_model = any(name.startswith(f"{prefix}model.") and "lora_" not in name for name in state)
    is_complete = has_model and not weights
    if saved is not None and not is_complete and (reason := difference(module.get_buffer(FINGERPRINT), saved, words)):
        errors.append(reason)
    elif changed := [name for name in weights if prefix + name in state]:
        errors.append(
            f"the checkpoint holds {changed[0]} and {len(changed) - 1} more weights of the {words.kind}, which are "
            f"left as they are in the named one; take {words.learning}, or save those weights as a model first."
        )
    # Also beside an error, or names of all weights of the model would stand before it.
    state.update({prefix + name: weight for name, weight in weights.items()})
    if saved is not None and not has_model:
        # Another training left all weights out, and this one learns some: it begins with the named model's.
        named = [name for name in state_names(module) if name.startswith("model.") and "lora_" not in name]
        state.update({prefix + name: own[name] for name in named if prefix + name not in state})
