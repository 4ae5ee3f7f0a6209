"""Streams: features come in as they are heard, chunks are encoded as soon as they are whole, and a state goes on.

A stream gives what the masked offline forward gives for the same context, whatever the pieces in which its features
come (tests/streaming/test_larm.py, tests/fast_conformer/test_encoder.py). Its state does not grow.
Shapes: B streams, T features, F their size, C frames a chunk, D model size.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from espnet_larm.streaming.context import Context
from espnet_larm.streaming.past import Past, Place
from espnet_larm.streaming.read_out import ReadOuts, check_answer, next_read_out

# What encoders keep, by place, each (B, ...).
Kept = Mapping[Place, torch.Tensor]
NOTHING: Kept = MappingProxyType({})


class Settings(NamedTuple):
    """What is chosen for a stream when it begins; streams of one batch share it.

    Attributes:
        context: Chunk and left context, both bounded.
        num_loops: The last loop; 1 for an encoder without loops.
        skip_blank: Probability of blank above which a frame skips feed-forward layers of later loops; 1 for none.
    """

    context: Context
    num_loops: int = 1
    skip_blank: float = 1.0


class StreamState(NamedTuple):
    """What goes from one call to the next for each of B streams.

    Attributes:
        settings: What the streams have in common.
        features: By stream, features that wait for their chunk to be whole, each (n, F), n below what a chunk needs.
        num_frames: By stream, encoder frames that were given so far.
        is_over: By stream, whether its end was given.
        kept: What the encoder's modules keep, by place, each (B, ...); empty as long as no stream has had a chunk.
    """

    settings: Settings
    features: tuple[torch.Tensor, ...]
    num_frames: tuple[int, ...]
    is_over: tuple[bool, ...]
    kept: Kept = NOTHING

    @classmethod
    def start(cls, settings: Settings, lead: torch.Tensor, num_streams: int = 1) -> "StreamState":
        """Streams that have heard nothing.

        Args:
            settings: What they have in common.
            lead: Zeros that stand before the first feature (n, F).
            num_streams: B.
        """
        return cls(settings, (lead,) * num_streams, (0,) * num_streams, (False,) * num_streams)

    @property
    def num_bytes(self) -> int:
        """Memory of all tensors."""
        return sum(each.element_size() * each.nelement() for each in (*self.features, *self.kept.values()))

    def split(self) -> "list[StreamState]":
        """A state of its own for each stream; it holds no memory of the others."""
        rows = zip(self.features, self.num_frames, self.is_over, strict=True)
        return [
            StreamState(self.settings, (features,), (number,), (over,), _rows_of(self.kept, [row]))
            for row, (features, number, over) in enumerate(rows)
        ]

    @staticmethod
    def join(states: "Sequence[StreamState]") -> "StreamState":
        """One batch of the streams of several states, whatever their ages.

        Raises:
            ValueError: There is none, or they have other settings.
        """
        if not states:
            raise ValueError("no state to join; give one or more.")
        if other := next((each.settings for each in states if each.settings != states[0].settings), None):
            raise ValueError(f"streams of one batch share their settings, but {states[0].settings} is not {other}.")
        started = next((each.kept for each in states if each.kept), NOTHING)
        rows = [each.kept or _zeros(started, len(each.features)) for each in states]
        return StreamState(
            states[0].settings,
            tuple(features for state in states for features in state.features),
            tuple(number for state in states for number in state.num_frames),
            tuple(over for state in states for over in state.is_over),
            {place: torch.cat([each[place] for each in rows]) for place in started},
        )


class StreamOutputs(NamedTuple):
    """What a call gives of B streams.

    Attributes:
        starts: By stream, the number of its first frame here, counted from its beginning (B,).
        hlens: Frames (B,); 0 where no chunk became whole.
        hs_pad: By the number of the checkpoint loop, inputs of the CTC head (B, T, D), zero behind the lengths: the
            first for partial results, the last for final ones.
    """

    starts: torch.Tensor
    hlens: torch.Tensor
    hs_pad: dict[int, torch.Tensor]


# What the reader of a stream gets as soon as a checkpoint loop of a chunk is computed: its number, and the new frames.
# It may answer which streams' chunks go on to the next loop (B,), True where one does; None for all.
Reader = Callable[[int, StreamOutputs], torch.Tensor | None]


class Window(NamedTuple):
    """How features become chunks of C frames: a chunk needs `factor` C + `overlap`, and uses up `factor` C.

    Attributes:
        factor: Features a frame.
        overlap: Features behind its own that a chunk needs: the look-ahead of the subsampling.
        num_outputs: Frames of so many features at the end of a stream.
        lead: Zeros that stand before the first feature.
    """

    factor: int
    overlap: int
    num_outputs: Callable[[int], int]
    lead: int = 0


class Chunk(NamedTuple):
    """One chunk of some streams, as an encoder gets it.

    Attributes:
        xs_pad: Features (R, T, F).
        ilens: Features (R,).
        hlens: Frames that shall come out (R,), 1 to C.
        starts: Frames of the stream before it (R,).
        is_last: The streams that end with these features (R,).
        past: What the modules kept.
        settings: What the streams have in common.
    """

    xs_pad: torch.Tensor
    ilens: torch.Tensor
    hlens: torch.Tensor
    starts: torch.Tensor
    is_last: torch.Tensor
    past: Past
    settings: Settings


def advance(
    state: StreamState,
    xs_pad: torch.Tensor,
    ilens: torch.Tensor,
    is_last: torch.Tensor | None,
    window: Window,
    encode: Callable[[Chunk], ReadOuts],
    loops: Sequence[int],
    reader: Reader | None = None,
) -> tuple[StreamOutputs, StreamState]:
    """Encode what has become whole.

    Args:
        state: State of B streams; it stays as it is.
        xs_pad: New features (B, T, F).
        ilens: How many of them are a stream's (B,); 0 where nothing new was heard.
        is_last: The streams that end with them (B,), True where one does; their rest is encoded as a shorter chunk.
            None for no stream.
        window: How features become chunks.
        encode: Yields read-outs of a chunk of R streams.
        loops: Their loops.
        reader: Called with each of them, before the next loop is computed.

    Raises:
        ValueError: Numbers do not fit, or a stream that has ended gets more.
    """
    lens, last = _checked(state, xs_pad, ilens, is_last)
    frames = window.factor * state.settings.context.chunk_frames  # type: ignore[operator]
    pending = [torch.cat([old, new[:n]]) for old, new, n in zip(state.features, xs_pad, lens, strict=True)]
    given, kept = [0] * len(pending), state.kept
    pieces: list[tuple[list[int], dict[int, torch.Tensor]]] = []
    while True:
        starts = [old + new for old, new in zip(state.num_frames, given, strict=True)]
        numbers = [
            _num_ready(len(features), start, is_end, frames, window)
            for features, start, is_end in zip(pending, starts, last, strict=True)
        ]
        rows = [row for row, number in enumerate(numbers) if number]
        if not rows:
            break
        taken = [pending[row][: frames + window.overlap] for row in rows]
        ends = [last[row] and len(pending[row]) < frames + window.overlap for row in rows]

        def tensor(values: list[Any]) -> torch.Tensor:
            return torch.tensor(values).to(xs_pad.device, non_blocking=True)

        past = Past(kept if len(rows) == len(pending) else _rows_of(kept, rows))
        chunk = Chunk(
            torch.nn.utils.rnn.pad_sequence(taken, batch_first=True), tensor([len(each) for each in taken]),
            tensor([numbers[row] for row in rows]), tensor([starts[row] for row in rows]), tensor(ends), past,
            state.settings,
        )  # fmt: skip
        tell = None
        if reader is not None:
            first = StreamOutputs(tensor(starts), tensor(numbers), {})
            tell = functools.partial(_told, reader, first, tensor(rows))
        pieces.append((rows, _read(encode(chunk), loops, tell)))
        kept = _put_back(kept, past.kept, rows, len(pending))
        for row in rows:
            given[row] += numbers[row]
            pending[row] = pending[row][frames:]
    outputs = StreamOutputs(
        torch.tensor(state.num_frames).to(xs_pad.device, non_blocking=True),
        torch.tensor(given).to(xs_pad.device, non_blocking=True),
        _joined(pieces, len(pending)),
    )
    # Copies: a view would keep all features alive that came with it.
    features = tuple(each[:0] if is_end else each.clone() for each, is_end in zip(pending, last, strict=True))
    num_frames = tuple(old + new for old, new in zip(state.num_frames, given, strict=True))
    over = tuple(old or new for old, new in zip(state.is_over, last, strict=True))
    return outputs, StreamState(state.settings, features, num_frames, over, kept)


def _checked(
    state: StreamState, xs_pad: torch.Tensor, ilens: torch.Tensor, is_last: torch.Tensor | None
) -> tuple[list[int], list[bool]]:
    num_streams = len(state.features)
    if xs_pad.dim() != 3 or len(xs_pad) != num_streams or xs_pad.size(2) != state.features[0].size(1):
        raise ValueError(
            f"features have the shape {tuple(xs_pad.shape)}; allowed: ({num_streams}, any, "
            f"{state.features[0].size(1)}) for a state of {num_streams} streams."
        )
    lens = ilens.tolist()
    last = [False] * num_streams if is_last is None else is_last.tolist()
    if len(lens) != num_streams or len(last) != num_streams or not all(0 <= n <= xs_pad.size(1) for n in lens):
        raise ValueError(f"ilens is {lens}, is_last {last}; allowed: {num_streams} each, and 0 to {xs_pad.size(1)}.")
    if ended := [row for row, over in enumerate(state.is_over) if over and (lens[row] or last[row])]:
        raise ValueError(f"stream {ended[0]} has ended; start a new one for what follows.")
    return lens, last


def _read(
    read_outs: ReadOuts,
    loops: Sequence[int],
    tell: Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor | None] | None,
) -> dict[int, torch.Tensor]:
    """What all loops say of a chunk of R streams, each (R, T, D); who has left says the same at deeper ones."""
    found: dict[int, torch.Tensor] = {}
    hs_pad, stays = None, None
    while (read := next_read_out(read_outs, stays)) is not None:
        hs_pad = read.hs_pad if read.rows is None or hs_pad is None else hs_pad.index_copy(0, read.rows, read.hs_pad)
        found[read.number] = hs_pad
        stays = None if tell is None else tell(read.number, hs_pad, read.rows)
    return {loop: found.get(loop, hs_pad) for loop in loops}  # type: ignore[misc]


def _told(
    reader: Reader, outputs: StreamOutputs, rows: torch.Tensor, loop: int, hs_pad: torch.Tensor,
    running: torch.Tensor | None,
) -> torch.Tensor | None:  # fmt: skip
    """Ask a reader.

    Args:
        reader: The reader.
        outputs: Starts and lengths of B streams; `hs_pad` is put in.
        rows: Streams that have a chunk (R,).
        loop: The loop.
        hs_pad: What it says of them (R, T, D).
        running: Places among them of those that run still (S,); None for all.

    Returns:
        A mask of those that stay (S,); None for all.
    """
    runs = rows if running is None else rows[running]
    whole = hs_pad.new_zeros(len(outputs.hlens), *hs_pad.shape[1:]).index_copy(0, rows, hs_pad)
    hlens = torch.zeros_like(outputs.hlens).index_copy(0, runs, outputs.hlens[runs])
    stays = reader(loop, StreamOutputs(outputs.starts, hlens, {loop: whole}))
    if stays is None:
        return None
    check_answer(stays, len(outputs.hlens))
    return stays[runs]


def _num_ready(num_features: int, start: int, is_end: bool, frames: int, window: Window) -> int:
    """Frames of the next chunk that can be given: all of it, what is left at the end of a stream, or none."""
    if num_features >= frames + window.overlap:
        return frames // window.factor
    is_silent = num_features <= (0 if start else window.lead)
    return 0 if is_silent or not is_end else max(0, window.num_outputs(num_features))


def _put_back(kept: Kept, new: Kept, rows: list[int], num_streams: int) -> Kept:
    """What all streams keep, after some of them have gone on."""
    if len(rows) == num_streams:
        return new
    places = torch.tensor(rows).to(next(iter(new.values())).device, non_blocking=True)
    old = kept or _zeros(new, num_streams)
    return {place: old[place].index_copy(0, places, part) for place, part in new.items()}


def _joined(pieces: list[tuple[list[int], dict[int, torch.Tensor]]], num_streams: int) -> dict[int, torch.Tensor]:
    """Chunks side by side; whoever has one has all before it, whole, so that its place is the same for all streams."""
    joined: dict[int, list[torch.Tensor]] = {}
    for rows, read_outs in pieces:
        for number, hs_pad in read_outs.items():
            whole = hs_pad.new_zeros(num_streams, *hs_pad.shape[1:])
            places = torch.tensor(rows).to(hs_pad.device, non_blocking=True)
            joined.setdefault(number, []).append(whole.index_copy(0, places, hs_pad))
    return {number: torch.cat(parts, dim=1) for number, parts in joined.items()}


def _rows_of(kept: Kept, rows: list[int]) -> Kept:
    return {place: each[rows] for place, each in kept.items()}


def _zeros(kept: Kept, num_streams: int) -> Kept:
    return {place: each.new_zeros(num_streams, *each.shape[1:]) for place, each in kept.items()}
