"""The name of a pre-trained model's weights: a SHA-256, which checkpoints and packs hold in place of the weights."""

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from espnet_larm.llm.words import LM, Words

FINGERPRINT = "fingerprint"
# Of the hexadecimal digits, enough to tell two models apart.
SHOWN_DIGITS = 12


def fingerprint_of(module: torch.nn.Module, settings: Mapping[str, Any] = MappingProxyType({})) -> torch.Tensor:
    """SHA-256 of all weights (32,), as float32: checkpoints are averaged, and means of equal small integers are exact.

    Of the weights' values in float32, so that an LM that was published in bfloat16 is the same in both types.

    Args:
        module: The model. What its state dict holds of buffers (statistics of a BatchNorm) counts with its weights.
        settings: What else tells it from others with the same weights; nothing leaves the SHA-256 that of the weights.
    """
    digest = hashlib.sha256()
    kept = module.state_dict()
    buffers = [(name, buffer) for name, buffer in module.named_buffers() if name in kept and name != FINGERPRINT]
    for name, weight in (*sorted(module.named_parameters()), *sorted(buffers)):
        values = weight.detach().cpu().float().contiguous()
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(values.numpy().data)
    if settings:
        digest.update(json.dumps(dict(settings), sort_keys=True).encode())
    return torch.tensor(list(digest.digest()), dtype=torch.float32)


def hexadecimal(fingerprint: torch.Tensor) -> str:
    """All 64 digits."""
    return "".join(f"{int(value):02x}" for value in fingerprint.tolist())


def difference(own: torch.Tensor, saved: torch.Tensor, words: Words = LM) -> str | None:
    """A sentence if a model is not that of a checkpoint.

    Args:
        own: Fingerprint of the model that is there (32,).
        saved: Fingerprint in the checkpoint (32,).
        words: How to speak of it.
    """
    if torch.equal(saved.cpu().float(), own.cpu().float()):
        return None
    found, wanted = (hexadecimal(each)[:SHOWN_DIGITS] for each in (own, saved))
    return (
        f"{words.option} is not the {words.kind} that the checkpoint was trained with: their {words.parts} "
        f"differ (SHA-256 {found}, the checkpoint's {wanted}). Name that one; {words.by_argument} says where it is now."
    )
