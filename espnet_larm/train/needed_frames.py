"""Tells a pooling front end how many of its frames each transcript of a batch needs, so that CTC always has room.

ESPnet gives front ends speech alone. In training and in validation the transcript is known: what CTC needs of the
encoder becomes what the encoder needs of the front end, if it says so exactly (`larm`, with nothing else in between).
Decoding knows no transcript, and has `min_frames_per_second` alone.
Shapes: B utterances.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from espnet_larm.llm.tokens import CTC_TEXT
from espnet_larm.pooling.frontend import NEEDED_FRAMES, AffinityPoolingFrontend
from espnet_larm.train.ctc_room import frames_needed

ARGUMENTS = ("speech", "speech_lengths", "text", "text_lengths")


@contextlib.contextmanager
def needed_frames_told(model: torch.nn.Module) -> Iterator[None]:
    """Give a pooling front end the frames that transcripts need, while the model reads a batch.

    Args:
        model: An ASR model, or what holds it for several processes.
    """
    model = getattr(model, "module", model)
    if not can_be_told(model):
        yield
        return
    # Of the module that runs, which torch's DataParallel copies.
    handles = [
        model.register_forward_pre_hook(_tell, with_kwargs=True),
        model.register_forward_hook(_forget, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def can_be_told(model: Any) -> bool:
    """Whether the front end pools, a CTC head needs frames, and how many of the front end's they take is known."""
    if getattr(model, "ctc", None) is None or not isinstance(getattr(model, "frontend", None), AffinityPoolingFrontend):
        return False
    return hasattr(model.encoder, "input_lens") and model.preencoder is None and model.postencoder is None


def _tell(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
    name = CTC_TEXT if getattr(model, "has_own_ctc_tokens", False) and CTC_TEXT in given else "text"
    needed = frames_needed(given[name], given[f"{name}_lengths"])
    # Without a token, the encoder still needs a frame.
    NEEDED_FRAMES.set(model.encoder.input_lens(needed.clamp(min=1)))  # type: ignore[union-attr,operator]


def _forget(model: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    NEEDED_FRAMES.set(None)
