"""Streams for tests: features in pieces, and what comes out put together."""

import torch

from espnet_larm.streaming.context import Context
from espnet_larm.streaming.encoder import StreamingEncoder
from espnet_larm.streaming.stream import StreamState

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def pieces_of(length: int, sizes: list[int]) -> list[tuple[int, int]]:
    """Beginnings and ends of pieces of these sizes, over and over, up to a length."""
    found, begin, number = [], 0, 0
    while begin < length or not found:
        end = min(length, begin + sizes[number % len(sizes)])
        found.append((begin, end))
        begin, number = end, number + 1
    return found


def heard(encoder: StreamingEncoder, ctc, xs: torch.Tensor, context: Context, sizes: list[int], **options):
    """What a stream says of features (T, F) that come in pieces: (T', D) by loop; and its last state."""
    state = encoder.start_streams(context, **options)
    parts: dict[int, list[torch.Tensor]] = {}
    number = 0
    for begin, end in pieces_of(len(xs), sizes):
        last = torch.tensor([end == len(xs)])
        outputs, state = encoder.stream(state, xs[None, begin:end], torch.tensor([end - begin]), ctc, last)
        assert outputs.starts.tolist() == [number]
        number += int(outputs.hlens)
        for loop, hs_pad in outputs.hs_pad.items():
            assert hs_pad.shape[:2] == (1, int(outputs.hlens))
            parts.setdefault(loop, []).append(hs_pad[0])
    assert state.num_frames == (number,) and state.is_over == (True,)
    return {loop: torch.cat(each) for loop, each in parts.items()}, state


class Listener:
    """One of several streams that are encoded together, with what it has said so far."""

    def __init__(self, xs: torch.Tensor, state: StreamState) -> None:
        self.xs, self.state = xs, state
        self.begin = 0
        self.said: dict[int, list[torch.Tensor]] = {}

    @property
    def is_over(self) -> bool:
        return self.state.is_over[0]

    def take(self, size: int) -> torch.Tensor:
        """The next features."""
        taken = self.xs[self.begin : self.begin + size]
        self.begin += len(taken)
        return taken


def hear_together(encoder: StreamingEncoder, ctc, listeners: list[Listener], sizes: list[int]) -> None:
    """One call for several streams."""
    taken = [listener.take(size) for listener, size in zip(listeners, sizes, strict=True)]
    lens = torch.tensor([len(each) for each in taken])
    last = torch.tensor([listener.begin == len(listener.xs) for listener in listeners])
    # Other frames than zeros behind the lengths.
    xs_pad = torch.nn.utils.rnn.pad_sequence(taken, batch_first=True, padding_value=7.0)
    state = StreamState.join([listener.state for listener in listeners])
    outputs, state = encoder.stream(state, xs_pad, lens, ctc, last)
    for row, (listener, own) in enumerate(zip(listeners, state.split(), strict=True)):
        listener.state = own
        for loop, hs_pad in outputs.hs_pad.items():
            assert not hs_pad[row, outputs.hlens[row] :].any()
            listener.said.setdefault(loop, []).append(hs_pad[row, : outputs.hlens[row]])
