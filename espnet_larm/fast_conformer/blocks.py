"""Conformer blocks with relative positions, whose convolution may be causal and whose attention may have a past.

Sources: Gulati et al., arXiv:2005.08100; relative positions of Dai et al., arXiv:1901.02860, section 3.3; caches of
Noroozi et al., arXiv:2312.17279. Names of weights are those of transformers' `parakeet` and `nemotron_asr_streaming`.
Departures: dropout follows each part of a block, and no block is left out at random; padding never enters a
convolution, and a BatchNorm has statistics of valid frames alone.
Shapes: B utterances, T frames, K keys (those of the past and T), D model size, H heads, S = D / H. Masks are True where
valid.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from espnet_larm.streaming.context import Context, attended_in_chunks
from espnet_larm.streaming.past import Past

POSITION_BASE = 10000.0
LAYER, BATCH = NORMS = ("layer", "batch")


class Frames(NamedTuple):
    """What every block needs to know of a batch besides its values.

    Attributes:
        mask: (B, T), True where valid.
        attended: Frames that each attends to (B, 1, T, K), those of the past first.
        distances: Sinusoids of all distances from a query to a key, from K - 1 down to 1 - T, (K + T - 1, D).
        left_frames: Frames of the past that attention keeps, K - T.
        past: What comes before these frames of a stream; None where they begin at the beginning.
    """

    mask: torch.Tensor
    attended: torch.Tensor
    distances: torch.Tensor
    left_frames: int = 0
    past: Past | None = None


def describe_utterances(lens: torch.Tensor, xs: torch.Tensor, context: Context) -> Frames:
    """Masks and positions of a padded batch.

    Args:
        lens: Valid frames (B,).
        xs: The frames (B, T, D), for their number, size, device and type.
        context: What a frame sees.
    """
    num_frames = xs.size(1)
    mask = torch.arange(num_frames, device=xs.device) < lens.unsqueeze(1)
    attended = mask[:, None, None, :]
    if not context.is_full:
        attended = attended & attended_in_chunks(num_frames, context, xs.device)
    # A padded frame may see no valid one, and a softmax over nothing is no number.
    attended = attended | torch.eye(num_frames, dtype=torch.bool, device=xs.device)
    return Frames(mask, attended, _distances(num_frames, num_frames, xs))


def describe_stream(lens: torch.Tensor, xs: torch.Tensor, context: Context, past: Past) -> Frames:
    """The same of one chunk of each stream of a batch, whose left context is bounded."""
    mask = torch.arange(xs.size(1), device=xs.device) < lens.unsqueeze(1)
    whole = past.extend(mask, context.left_frames)
    attended = whole[:, None, None, :].expand(-1, -1, xs.size(1), -1)
    return Frames(mask, attended, _distances(xs.size(1), whole.size(1), xs), context.left_frames, past)


def _distances(num_queries: int, num_keys: int, like: torch.Tensor) -> torch.Tensor:
    """Sinusoids (K + T - 1, D), sine and cosine of a frequency side by side."""
    size = like.size(-1)
    steps = torch.arange(num_keys - 1, -num_queries, -1, device=like.device, dtype=torch.float32)
    exponents = torch.arange(0, size, 2, device=like.device, dtype=torch.float32) / size
    angles = steps.unsqueeze(1) / POSITION_BASE**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like.dtype)


class FeedForward(torch.nn.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, size: int, hidden_size: int, dropout_rate: float, bias: bool) -> None:
        super().__init__()
        self.linear1 = torch.nn.Linear(size, hidden_size, bias)
        self.linear2 = torch.nn.Linear(hidden_size, size, bias)
        self.dropout = torch.nn.Dropout(dropout_rate)

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        return self.linear2(self.dropout(functional.silu(self.linear1(xs))))


class RelativeAttention(torch.nn.Module):
    """Multi-head attention whose scores add a term of the distance, and two learned queries for all places."""

    def __init__(self, size: int, num_heads: int, dropout_rate: float, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.dropout_rate = num_heads, dropout_rate
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (torch.nn.Linear(size, size, bias) for _ in range(4))
        self.relative_k_proj = torch.nn.Linear(size, size, bias=False)
        self.bias_u, self.bias_v = (torch.nn.Parameter(torch.zeros(num_heads, size // num_heads)) for _ in range(2))

    def espnet_initialization_fn(self) -> None:
        """Start without a preference of place under ESPnet's `init` too, which fills every matrix."""
        torch.nn.init.zeros_(self.bias_u)
        torch.nn.init.zeros_(self.bias_v)

    def forward(self, xs: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        queries, keys, values = (self._heads(layer(xs)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        if frames.past is not None:
            keys, values = (frames.past.extend(each, frames.left_frames, dim=2) for each in (keys, values))
        distances = self._heads(self.relative_k_proj(frames.distances).unsqueeze(0))  # (1, H, K + T - 1, S)
        by_content, by_place = (queries + bias.unsqueeze(1).to(queries.dtype) for bias in (self.bias_u, self.bias_v))
        places = _at_distances(by_place @ distances.transpose(2, 3), keys.size(2)) * queries.size(-1) ** -0.5
        mixed = functional.scaled_dot_product_attention(
            by_content,
            keys,
            values,
            attn_mask=places.masked_fill(~frames.attended, -torch.inf).to(queries.dtype),
            dropout_p=self.dropout_rate if self.training else 0.0,
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, xs: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, H, T, S)."""
        return xs.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _at_distances(scores: torch.Tensor, num_keys: int) -> torch.Tensor:
    """Scores by distance (B, H, T, K + T - 1) as scores by key (B, H, T, K)."""
    num_queries = scores.size(2)
    queries = torch.arange(num_queries, device=scores.device)
    keys = torch.arange(num_keys, device=scores.device)
    places = num_queries - 1 - queries.unsqueeze(1) + keys  # (T, K)
    return scores.gather(3, places.expand(*scores.shape[:2], -1, -1))


class Convolution(torch.nn.Module):
    """Gate, depthwise convolution, norm, SiLU, projection."""

    def __init__(self, size: int, kernel_size: int, causal: bool, norm: str, bias: bool) -> None:
        super().__init__()
        self.pointwise_conv1 = torch.nn.Conv1d(size, 2 * size, 1, bias=bias)
        self.depthwise_conv = torch.nn.Conv1d(size, size, kernel_size, groups=size, bias=bias)
        self.norm = torch.nn.LayerNorm(size) if norm == LAYER else torch.nn.BatchNorm1d(size)
        self.pointwise_conv2 = torch.nn.Conv1d(size, size, 1, bias=bias)
        self.reach = kernel_size - 1
        self.padding = (self.reach, 0) if causal else (self.reach // 2, self.reach // 2)

    def forward(self, xs: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D); a padded frame enters the convolution as zero."""
        gated = functional.glu(self.pointwise_conv1(xs.transpose(1, 2)), dim=1)
        gated = gated.masked_fill(~frames.mask.unsqueeze(1), 0.0)  # (B, D, T)
        if frames.past is None:
            gated = functional.pad(gated, self.padding)
        else:
            gated = frames.past.extend(gated, self.reach, dim=2)
        mixed = self.depthwise_conv(gated).transpose(1, 2)
        if isinstance(self.norm, torch.nn.LayerNorm):
            mixed = self.norm(mixed)
        else:
            mixed = torch.zeros_like(mixed).masked_scatter(
                frames.mask.unsqueeze(-1), self.norm(mixed[frames.mask]).to(mixed.dtype)
            )
        return self.pointwise_conv2(functional.silu(mixed).transpose(1, 2)).transpose(1, 2)


class Block(torch.nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, each pre-norm; a norm at the end."""

    def __init__(
        self,
        size: int,
        num_heads: int,
        linear_units: int,
        kernel_size: int,
        causal: bool,
        norm: str,
        bias: bool,
        dropout_rate: float,
        attention_dropout_rate: float,
    ) -> None:
        super().__init__()
        self.feed_forward1, self.feed_forward2 = (FeedForward(size, linear_units, dropout_rate, bias) for _ in range(2))
        self.self_attn = RelativeAttention(size, num_heads, attention_dropout_rate, bias)
        self.conv = Convolution(size, kernel_size, causal, norm, bias)
        self.norm_feed_forward1, self.norm_self_att, self.norm_conv, self.norm_feed_forward2, self.norm_out = (
            torch.nn.LayerNorm(size) for _ in range(5)
        )
        self.dropout = torch.nn.Dropout(dropout_rate)

    def forward(self, xs: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D), normalised."""
        xs = xs + 0.5 * self.dropout(self.feed_forward1(self.norm_feed_forward1(xs)))
        xs = xs + self.dropout(self.self_attn(self.norm_self_att(xs), frames))
        xs = xs + self.dropout(self.conv(self.norm_conv(xs), frames))
        xs = xs + 0.5 * self.dropout(self.feed_forward2(self.norm_feed_forward2(xs)))
        return self.norm_out(xs)
