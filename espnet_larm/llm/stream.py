"""What goes through an LM's layers, and how a layer is called with it.

Shapes: B rows, L positions, D model size, S head size. Masks are True where valid.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from espnet_larm.llm.cache import KeyValueCache
from espnet_larm.llm.windows import View, Window


class Stream(NamedTuple):
    """The states that go from layer to layer.

    Attributes:
        hidden: (B, L, D).
        positions: For the rotary embedding (B, L).
        lens: Valid positions of each row (B,); padding is behind them.
        speech: True where a position is speech (B, L), for layers that treat them differently; None where none is, as
            in every step after the prompt.
    """

    hidden: torch.Tensor
    positions: torch.Tensor
    lens: torch.Tensor
    speech: torch.Tensor | None


class Ragged(NamedTuple):
    """Valid positions of rows of different lengths, side by side: M of them, none wasted on padding.

    Attributes:
        rows: Row of each position (M,).
        places: Place of each position in its row (M,).
        shape: B and L.
    """

    rows: torch.Tensor
    places: torch.Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, lens: torch.Tensor, longest: int, device: torch.device) -> "Ragged":
        """From valid positions of each row (B,), on the CPU."""
        rows, places = (torch.arange(longest) < lens.unsqueeze(1)).nonzero(as_tuple=True)
        return cls(rows.to(device, non_blocking=True), places.to(device, non_blocking=True), (len(lens), longest))

    def flat(self, padded: torch.Tensor) -> torch.Tensor:
        """(B, L, ...) to (1, M, ...)."""
        return padded[self.rows, self.places].unsqueeze(0)

    def padded(self, flat: torch.Tensor) -> torch.Tensor:
        """(1, M, ...) to (B, L, ...), zeros behind the valid positions."""
        made = flat.new_zeros((*self.shape, *flat.shape[2:]))
        made[self.rows, self.places] = flat[0]
        return made


class Step(NamedTuple):
    """What the attention of one layer needs of a call.

    Attributes:
        cache: Where keys and values go.
        layer: Index in the cache.
        num_new: Valid positions of each row (B,), on the CPU.
        window: Positions that the layer sees; None for all before.
        ragged: How the rows lie side by side; None where they are padded.
    """

    cache: KeyValueCache
    layer: int
    num_new: torch.Tensor
    window: Window | None = None
    ragged: Ragged | None = None


def speech_columns(speech: torch.Tensor) -> tuple[int, int]:
    """The first column of a mask (B, L) with speech in any row, and the one behind the last; 0 and 1 without speech."""
    has_speech = speech.any(dim=0).to(torch.uint8)
    # One copy: on a GPU each waits for what was asked before.
    first, from_end, found = torch.stack([has_speech.argmax(), has_speech.flip(0).argmax(), has_speech.max()]).tolist()
    return (first, len(has_speech) - from_end) if found else (0, 1)


def as_function(
    layer: torch.nn.Module,
    stream: Stream,
    view: View,
    step: Step | None,
    columns: tuple[int, int] | None = None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A layer as a function of the hidden states alone; HF's layers hand what they do not know to `attention`."""

    def call(hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = layer(
            hidden,
            attention_mask=view.mask,
            position_ids=stream.positions,
            position_embeddings=view.rotary,
            speech=stream.speech,
            speech_columns=columns,
            lens=stream.lens,
            step=step,
        )
        return output

    return call


def freeze_modes(module: torch.nn.Module, mode: bool) -> None:
    """Modules with weights learn or are in eval mode; those without, such as dropout, are as what they are part of."""
    parameters = list(module.parameters())
    if parameters:
        mode = any(parameter.requires_grad for parameter in parameters)
    module.training = mode
    for child in module.children():
        freeze_modes(child, mode)
