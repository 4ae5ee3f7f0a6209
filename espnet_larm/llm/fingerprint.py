"""The name of a pre-trained model's weights: a SHA-256, which checkpoints and packs hold in place of the weights."""

import hashlib
from typing import NamedTuple

import torch

FINGERPRINT = "fingerprint"
# Of the hexadecimal digits, enough to tell two models apart.
SHOWN_DIGITS = 12


def fingerprint_of(module: torch.nn.Module) -> torch.Tensor:
    """SHA-256 of all weights (32,), as float32: checkpoints are averaged, and means of equal small integers are exact.

    Of the weights' values in float32, so that an LM that was published in bfloat16 is the same in both types.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        values = parameter.detach().cpu().float().contiguous()
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(values.numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.float32)


def hexadecimal(fingerprint: torch.Tensor) -> str:
    """All 64 digits."""
    return "".join(f"{int(value):02x}" for value in fingerprint.tolist())


class Words(NamedTuple):
    """How messages speak of a pre-trained model.

    Attributes:
        option: The YAML option that names it.
        kind: What it is.
        remedy: What to do where another one is there.
        learning: The option under which all weights go into checkpoints.
    """

    option: str
    kind: str
    remedy: str
    learning: str


LM = Words("decoder_conf: llm", "LM", "Name that LM; --llm (llm= in Python) says where it is now.", "adaptation: full")
SPEECH_ENCODER = Words("frontend_conf: model", "speech encoder", "Name that one.", "train: all")


def words_of(name: str) -> Words:
    """How to speak of the model whose fingerprint has this name in a whole ASR model."""
    return SPEECH_ENCODER if name.startswith("frontend.") else LM


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
        f"{words.option} is not the {words.kind} that the checkpoint was trained with: their weights differ (SHA-256 "
        f"{found}, the checkpoint's {wanted}). {words.remedy}"
    )
