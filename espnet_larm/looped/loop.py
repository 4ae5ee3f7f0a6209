"""What makes one stack useful many times: a clock, conditioning on depth, and the state between loops.

Source: Kaloga et al., arXiv:2606.04678. Departures: the sources that were available state these parts without their
details, so sizes, initial values and the clock's place are ours. Every part starts as a no-op but for the scalars.
Shapes: B utterances, T frames, D model size, V tokens, m loops from one checkpoint to the next. Masks are True where
valid.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from espnet_larm.streaming.past import Past

DEPTH_SIZE = 64
DEPTH_BASE = 1000.0


class Clock(torch.nn.Module):
    """Tells the stack where a loop stands between two checkpoints: row k mod m of a learned table, zero at first."""

    def __init__(self, period: int, size: int) -> None:
        super().__init__()
        self.period = period
        self.table = torch.nn.Parameter(torch.zeros(period, size))

    def espnet_initialization_fn(self) -> None:
        """Start from a no-op under ESPnet's `init` too, which fills every matrix."""
        torch.nn.init.zeros_(self.table)

    def forward(self, loop: int) -> torch.Tensor:
        """Row (D,) of loop 1, 2, ..."""
        return self.table[loop % self.period]


class DepthFilm(torch.nn.Module):
    """Scale and shift of the stack's input by the number of the loop, defined for any number.

    A sinusoid of the loop's number goes through two layers, the second zero at first: then FiLM changes nothing.
    """

    frequencies: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(DEPTH_SIZE, 2 * DEPTH_SIZE)
        self.out = torch.nn.Linear(2 * DEPTH_SIZE, 2 * size)
        exponents = torch.arange(0, DEPTH_SIZE, 2, dtype=torch.float32) / DEPTH_SIZE
        self.register_buffer("frequencies", DEPTH_BASE**-exponents, persistent=False)
        self.espnet_initialization_fn()

    def espnet_initialization_fn(self) -> None:
        """Start from a no-op under ESPnet's `init` too."""
        torch.nn.init.zeros_(self.out.weight)
        torch.nn.init.zeros_(self.out.bias)

    def forward(self, loop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """gamma (D,) and beta (D,) of loop 1, 2, ...: the input h becomes (1 + gamma) h + beta."""
        angles = loop * self.frequencies.float()
        depth = torch.cat([angles.sin(), angles.cos()]).to(self.hidden.weight.dtype)
        # In bfloat16, 1 + gamma would lose every gamma below 0.004.
        gamma, beta = self.out(functional.silu(self.hidden(depth))).float().chunk(2)
        return gamma, beta


class Depth(NamedTuple):
    """Clock and FiLM of a loop as one affine map: (1 + gamma) (h + clock) + beta = gain h + offset.

    Attributes:
        gain: (D,).
        offset: (D,).
    """

    gain: torch.Tensor
    offset: torch.Tensor

    @classmethod
    def of(cls, loop: int, clock: Clock | None, film: DepthFilm | None) -> "Depth | None":
        """The depth of loop 1, 2, ...; None where there is neither clock nor FiLM."""
        row = None if clock is None else clock(loop)
        if film is None:
            return None if row is None else cls(torch.ones_like(row), row)
        gamma, beta = film(loop)
        gain = 1 + gamma
        return cls(gain, beta if row is None else torch.addcmul(beta, row.float(), gain))

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D), in the state's type."""
        return torch.addcmul(self.offset, state, self.gain).to(state.dtype)


class LoopState(torch.nn.Module):
    """The state that enters the next loop: h = a z + b h0 + c feedback, with learnable a, b, c shared by all loops.

    Depth is applied to it in the same passes over (B, T, D): each pass costs a small stack about 1 % of its time.

    Args:
        skip: Add the front-end's output h0 again at each loop.
        feedback: Add the projected posteriors of the loop before.
        feedback_shift: Frames by which the feedback is delayed; 0 feeds a frame its own posteriors.
        feedback_top_k: Feed the k most probable tokens of a frame alone, whose rows are gathered: k D products a frame
            instead of V D. The same result for k = V (test_top_k_of_all_tokens_is_the_projection). None for all.
    """

    def __init__(self, skip: bool, feedback: bool, feedback_shift: int, feedback_top_k: int | None = None) -> None:
        super().__init__()
        self.feedback_shift = feedback_shift
        self.feedback_top_k = feedback_top_k
        self.output_scale = torch.nn.Parameter(torch.empty(1)) if skip or feedback else None
        self.skip_scale = torch.nn.Parameter(torch.empty(1)) if skip else None
        self.feedback_scale = torch.nn.Parameter(torch.empty(1)) if feedback else None
        self.espnet_initialization_fn()

    def espnet_initialization_fn(self) -> None:
        """a = 1, b = 0.1, c = 0.1; c must not be zero, since its gradient would be all the feedback has."""
        for scale, value in ((self.output_scale, 1.0), (self.skip_scale, 0.1), (self.feedback_scale, 0.1)):
            if scale is not None:
                torch.nn.init.constant_(scale, value)

    def forward(
        self,
        output: torch.Tensor,
        start: torch.Tensor,
        depth: Depth | None,
        feedback: tuple[torch.Tensor, torch.nn.Linear] | None,
        mask: torch.Tensor,
        past: Past | None = None,
    ) -> torch.Tensor:
        """Combine.

        Args:
            output: z, the stack's output (B, T, D).
            start: h0, the front-end's output (B, T, D).
            depth: Depth of the loop that the state enters.
            feedback: Posteriors (B, T, V) and the layer that projects them from V to D; None without feedback.
            mask: (B, T).
            past: What comes before the chunk that these frames of a stream are; None where they begin at the beginning.

        Returns:
            (B, T, D).
        """
        if self.output_scale is None:
            return output if depth is None else depth(output)
        gain, offset = depth or Depth(output.new_ones(1), output.new_zeros(1))
        state = torch.addcmul(offset, output, gain * self.output_scale)
        if self.skip_scale is not None:
            state = torch.addcmul(state, start, gain * self.skip_scale)
        if self.feedback_scale is not None and feedback is not None:
            # A frame takes what the frame before gives; what padding gives, and what comes before the first, is zero.
            giver = self._delay(mask.unsqueeze(-1).to(output.dtype), past)
            state = torch.addcmul(state, self._project(*feedback, gain * self.feedback_scale, past), giver)
        return state.to(output.dtype)

    def _project(
        self, posteriors: torch.Tensor, layer: torch.nn.Linear, scale: torch.Tensor, past: Past | None
    ) -> torch.Tensor:
        """Delayed posteriors (B, T, V) projected to (B, T, D) and scaled (D,)."""
        weight = (layer.weight * scale.unsqueeze(-1)).to(layer.weight.dtype)
        bias = (layer.bias * scale).to(layer.bias.dtype)
        if self.feedback_top_k is None:
            return functional.linear(self._delay(posteriors, past), weight, bias)
        values, tokens = posteriors.topk(min(self.feedback_top_k, posteriors.size(-1)), dim=-1)  # (B, T, k)
        values, tokens = self._delay(values, past).flatten(0, 1), self._delay(tokens, past).flatten(0, 1)
        rows = functional.embedding_bag(tokens, weight.t(), per_sample_weights=values.to(weight.dtype), mode="sum")
        return rows.view(*posteriors.shape[:2], -1) + bias

    def _delay(self, frames: torch.Tensor, past: Past | None) -> torch.Tensor:
        """Shift (B, T, any) by `feedback_shift` frames, zeros at the start, or what the past has."""
        num_frames = frames.size(1)
        if past is not None:
            return past.extend(frames, self.feedback_shift)[:, :num_frames]
        shift = min(self.feedback_shift, num_frames)
        return functional.pad(frames[:, : num_frames - shift], (0, 0, shift, 0)) if shift else frames
