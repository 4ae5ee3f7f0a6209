"""Transformer and conformer blocks that padding cannot reach, and a stack of them.

Departures from ESPnet's blocks: attention runs through torch's SDPA with rotary positions inside it (a looped stack
must not meet absolute positions again at each loop); the conformer's convolution masks padding before it mixes
frames and is normalised by LayerNorm, because BatchNorm's statistics depend on the batch; a conformer block ends
without a norm, the stack has one.
Shapes: B utterances, T frames, D model size, H heads, S = D / H head size. Masks are True where valid.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from espnet_larm.streaming.context import Context, attended_in_chunks
from espnet_larm.streaming.past import Held, Past

ROTARY_BASE = 10000.0


class Frames(NamedTuple):
    """What every block needs to know of a batch besides its values.

    Attributes:
        mask: (B, T), True where valid.
        cos: Cosines of the rotary angles (T, S / 2); of streams (B, 1, T, S / 2).
        sin: Their sines, of the same shape.
        fed: Places among the (B T) frames that go through feed-forward layers; None for all. Not in training.
        attended: Frames that each attends to (B, 1, T or 1, T); of streams those of the past come first. None for all
            valid ones.
        context: The chunks that bound what a frame sees; None for the whole utterance.
        past: What comes before the chunk that these frames are; None where they begin at the beginning.
        held: What frames were that have left; None where none can.
    """

    mask: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    fed: torch.Tensor | None = None
    attended: torch.Tensor | None = None
    context: Context | None = None
    past: Past | None = None
    held: Held | None = None

    def enter(self, part: str, loop: int = 0) -> None:
        """Say whose modules keep what they read from now on."""
        if self.past is not None:
            self.past.enter(part, loop)
        if self.held is not None:
            self.held.enter(part)

    def only(self, stays: torch.Tensor, rows: torch.Tensor) -> "Frames":
        """Narrow to some of the streams (B,), which have these places in the whole batch; modules run them alone."""
        assert self.attended is not None and self.past is not None
        self.past.only(rows)
        return self._replace(
            mask=self.mask[stays], cos=self.cos[stays], sin=self.sin[stays], attended=self.attended[stays]
        )


def describe_frames(lens: torch.Tensor, num_frames: int, head_size: int, like: torch.Tensor) -> Frames:
    """Mask and rotary angles of a padded batch.

    Args:
        lens: Valid frames (B,).
        num_frames: T.
        head_size: S, even.
        like: A tensor of the device and type that cosines and sines shall have.
    """
    positions = torch.arange(num_frames, device=like.device)
    exponents = torch.arange(0, head_size, 2, device=like.device, dtype=torch.float32) / head_size
    angles = positions.float().unsqueeze(1) * ROTARY_BASE**-exponents  # (T, S / 2)
    mask = positions.unsqueeze(0) < lens.to(like.device).unsqueeze(1)  # (B, T)
    return Frames(mask, angles.cos().to(like.dtype), angles.sin().to(like.dtype))


def describe_chunks(
    lens: torch.Tensor, num_frames: int, head_size: int, like: torch.Tensor, context: Context
) -> Frames:
    """The same of a padded batch whose frames see no more than a context with chunks.

    Args:
        lens: Valid frames (B,).
        num_frames: T.
        head_size: S, even.
        like: A tensor of the device and type that cosines and sines shall have.
        context: With chunks.
    """
    positions = torch.arange(num_frames, device=like.device)
    mask = positions < lens.to(like.device).unsqueeze(1)  # (B, T)
    attended = mask[:, None, None, :] & attended_in_chunks(num_frames, context, like.device)
    # A padded frame may see no valid one, and a softmax over nothing is no number.
    attended = attended | torch.eye(num_frames, dtype=torch.bool, device=like.device)
    return Frames(mask, *_precise_rotation(positions, head_size, like), attended=attended, context=context)


def describe_stream(
    lens: torch.Tensor,
    num_frames: int,
    head_size: int,
    like: torch.Tensor,
    context: Context,
    starts: torch.Tensor,
    past: Past,
) -> Frames:
    """The same of one chunk of each stream of a batch.

    Args:
        lens: Valid frames (B,), 1 or more.
        num_frames: T.
        head_size: S, even.
        like: A tensor of the device and type that cosines and sines shall have.
        context: Its left context is bounded.
        starts: Frames of the streams before this chunk (B,).
        past: What the modules kept of them.
    """
    steps = torch.arange(num_frames, device=like.device)
    mask = steps < lens.unsqueeze(1)  # (B, T)
    positions = (starts.unsqueeze(1) + steps).unsqueeze(1)  # (B, 1, T)
    attended = past.extend(mask, context.left_frames)[:, None, None, :]
    rotation = _precise_rotation(positions, head_size, like)
    return Frames(mask, *rotation, attended=attended, context=context, past=past)


def _precise_rotation(positions: torch.Tensor, head_size: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (..., S / 2) of positions (...); after an hour float32 would be off by 0.004 radians."""
    exponents = torch.arange(0, head_size, 2, device=like.device, dtype=torch.float64) / head_size
    angles = positions.unsqueeze(-1) * ROTARY_BASE**-exponents
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(heads: torch.Tensor, frames: Frames) -> torch.Tensor:
    """Turn each pair (i, i + S/2) of the last axis by the angle of its position; (..., T, S) to the same shape."""
    first, second = heads.chunk(2, dim=-1)
    cos, sin = frames.cos.to(heads.dtype), frames.sin.to(heads.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class SelfAttention(torch.nn.Module):
    """Multi-head self-attention over all valid frames, with rotary positions."""

    def __init__(self, size: int, num_heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate
        self.qkv = torch.nn.Linear(size, 3 * size)
        self.out = torch.nn.Linear(size, size)

    def forward(self, xs: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D); padded frames are never attended to."""
        batch, length, size = xs.shape
        qkv = self.qkv(xs).view(batch, length, 3, self.num_heads, size // self.num_heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, H, T, S)
        queries, keys = rotate(qkv[:2], frames).unbind(0)
        values = qkv[2]
        if frames.held is not None:
            keys, values = frames.held.hold(keys, dim=2), frames.held.hold(values, dim=2)
        if frames.past is not None and frames.context is not None:
            left = frames.context.left_frames
            keys, values = frames.past.extend(keys, left, dim=2), frames.past.extend(values, left, dim=2)
        mixed = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=frames.mask[:, None, None, :] if frames.attended is None else frames.attended,
            dropout_p=self.dropout_rate if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, size))


class FrameSharedDropout(torch.nn.Dropout1d):
    """Dropout with one mask for all frames of an utterance.

    Drawing a mask a frame is a fifth of a training step on a CPU, whose generator is serial; this draws 1 / T of it.
    """

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        return super().forward(xs.transpose(1, 2)).transpose(1, 2)


class FeedForward(torch.nn.Sequential):
    """Two linear layers with SiLU between them, frame by frame."""

    def __init__(self, size: int, hidden_size: int, dropout: torch.nn.Module) -> None:
        super().__init__(
            torch.nn.Linear(size, hidden_size),
            torch.nn.SiLU(),
            dropout,
            torch.nn.Linear(hidden_size, size),
        )


class ConvModule(torch.nn.Module):
    """The conformer's convolution: gate, masked depthwise convolution, LayerNorm, projection."""

    def __init__(self, size: int, kernel_size: int) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(size, 2 * size)
        self.depthwise = torch.nn.Conv1d(size, size, kernel_size, padding=kernel_size // 2, groups=size)
        self.norm = torch.nn.LayerNorm(size)
        self.out = torch.nn.Linear(size, size)

    def forward(self, xs: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D); a padded frame enters the convolution as zero."""
        gated = functional.glu(self.gate(xs), dim=-1)
        gated = gated.masked_fill(~frames.mask.unsqueeze(-1), 0.0)
        if frames.held is not None:
            gated = frames.held.hold(gated)
        if frames.context is None:
            mixed = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        else:
            mixed = self._mix_in_chunks(gated, frames.context, frames.past)
        return self.out(functional.silu(self.norm(mixed)))

    def _mix_in_chunks(self, gated: torch.Tensor, context: Context, past: Past | None) -> torch.Tensor:
        """Convolve (B, T, D) so that no frame reads behind the end of its chunk, where there are zeros instead.

        Source: dynamic chunk convolution, Li et al., arXiv:2304.09325.
        """
        reach = self.depthwise.kernel_size[0] // 2
        batch, length, size = gated.shape
        if past is not None:
            windows = past.extend(gated, reach).transpose(1, 2)  # (B, D, reach + T)
        else:
            chunk = min(context.chunk_frames or length, length)
            gated = functional.pad(gated, (0, 0, reach, -length % chunk))
            windows = gated.unfold(1, reach + chunk, chunk).flatten(0, 1)  # (B N, D, reach + C)
        mixed = functional.conv1d(
            functional.pad(windows, (0, reach)), self.depthwise.weight, self.depthwise.bias, groups=size
        )
        return mixed.transpose(1, 2).reshape(batch, -1, size)[:, :length]


def feed(
    xs: torch.Tensor,
    norm: torch.nn.Module,
    layers: torch.nn.Module,
    dropout: torch.nn.Module,
    frames: Frames,
    scale: float = 1.0,
) -> torch.Tensor:
    """Add what feed-forward layers make of normalised frames; those that are not fed stay as they are, at no cost.

    Args:
        xs: Frames (B, T, D).
        norm: Their norm.
        layers: The layers.
        dropout: Dropout of what is added.
        frames: The batch, with the frames that are fed.
        scale: What is added is multiplied by it.
    """
    if frames.fed is None:
        added = dropout(layers(norm(xs)))
        return xs + added if scale == 1.0 else xs + scale * added
    flat = xs.flatten(0, 1)
    # One utterance of them: layers expect three dimensions.
    added = layers(norm(flat[frames.fed]).unsqueeze(0)).squeeze(0)
    return flat.index_add(0, frames.fed, added, alpha=scale).view_as(xs)


class TransformerBlock(torch.nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(
        self, size: int, num_heads: int, linear_units: int, dropout: torch.nn.Module, attention_dropout_rate: float
    ) -> None:
        super().__init__()
        self.norm_attention = torch.nn.LayerNorm(size)
        self.attention = SelfAttention(size, num_heads, attention_dropout_rate)
        self.norm_feed_forward = torch.nn.LayerNorm(size)
        self.feed_forward = FeedForward(size, linear_units, dropout)
        self.dropout = dropout

    def forward(self, xs: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        xs = xs + self.dropout(self.attention(self.norm_attention(xs), frames))
        return feed(xs, self.norm_feed_forward, self.feed_forward, self.dropout, frames)


class ConformerBlock(torch.nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, each pre-norm."""

    def __init__(
        self,
        size: int,
        num_heads: int,
        linear_units: int,
        dropout: torch.nn.Module,
        attention_dropout_rate: float,
        kernel_size: int,
    ) -> None:
        super().__init__()
        self.norm_macaron = torch.nn.LayerNorm(size)
        self.macaron = FeedForward(size, linear_units, dropout)
        self.norm_attention = torch.nn.LayerNorm(size)
        self.attention = SelfAttention(size, num_heads, attention_dropout_rate)
        self.norm_conv = torch.nn.LayerNorm(size)
        self.conv = ConvModule(size, kernel_size)
        self.norm_feed_forward = torch.nn.LayerNorm(size)
        self.feed_forward = FeedForward(size, linear_units, dropout)
        self.dropout = dropout

    def forward(self, xs: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        xs = feed(xs, self.norm_macaron, self.macaron, self.dropout, frames, 0.5)
        xs = xs + self.dropout(self.attention(self.norm_attention(xs), frames))
        xs = xs + self.dropout(self.conv(self.norm_conv(xs), frames))
        return feed(xs, self.norm_feed_forward, self.feed_forward, self.dropout, frames, 0.5)


class Stack(torch.nn.Module):
    """Blocks one after the other and a final LayerNorm: the F that a looped encoder repeats."""

    def __init__(self, blocks: list[torch.nn.Module], size: int) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(blocks)
        self.norm = torch.nn.LayerNorm(size)

    def forward(self, xs: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D), normalised."""
        for block in self.blocks:
            xs = block(xs, frames)
        return self.norm(xs)
