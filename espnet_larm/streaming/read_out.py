"""What an encoder says at one of its checkpoint loops, and the answer of who reads it.

Shapes: B utterances or streams, T frames, D model size.
"""

from collections.abc import Generator
from typing import NamedTuple

import torch


class ReadOut(NamedTuple):
    """An input of the CTC head.

    Attributes:
        number: Number of the checkpoint loop (of the layer, in an encoder without loops), 1 for the first.
        hs_pad: (B, T, D); of a looped encoder zero behind the lengths.
        hlens: Valid frames (B,).
        rows: Places of these utterances in the batch that was given (B,); None for all of them, in order.
    """

    number: int
    hs_pad: torch.Tensor
    hlens: torch.Tensor
    rows: torch.Tensor | None = None


# What a reader may send back at each read-out: which of its utterances stay (B,), True where one does.
ReadOuts = Generator[ReadOut, torch.Tensor | None, None]


def check_answer(stays: torch.Tensor, *shape: int) -> None:
    """Refuse an answer that is no mask of this shape; numbers would be taken for places.

    Raises:
        TypeError: It is something else than a mask.
        ValueError: It has another shape.
    """
    if not isinstance(stays, torch.Tensor) or stays.dtype != torch.bool:
        kind = stays.dtype if isinstance(stays, torch.Tensor) else type(stays).__name__
        raise TypeError(f"a reader answers {kind}; allowed: a tensor of bool, True for what goes on, or None for all.")
    if stays.shape != shape:
        raise ValueError(f"a reader answers a mask of the shape {tuple(stays.shape)}; allowed: {shape}.")


def next_read_out(read_outs: ReadOuts, stays: torch.Tensor | None) -> ReadOut | None:
    """The next read-out of those that stay; None at the end.

    Args:
        read_outs: A batch's.
        stays: Utterances of the read-out before that stay (B,), True where one does; None for all, and at the first.
    """
    try:
        return read_outs.send(stays)
    except StopIteration:
        return None
