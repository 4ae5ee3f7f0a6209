"""CTC alignment: the best path of known tokens through CTC posteriors, in batches.

For the tokens of greedy search this is the greedy path itself (test_greedy_tokens_align_to_the_greedy_path).
Shapes: B utterances, T frames, V tokens, L tokens of the longest sequence, S = 2 L + 1 states: a blank before, between
and after the tokens. Masks are True where valid.
"""

from typing import NamedTuple

import torch

NO_PATH = float("-inf")


class Alignment(NamedTuple):
    """Where each token stands. Padding is 0.

    Attributes:
        starts: First frame (B, L).
        ends: The frame after the last (B, L).
        log_probs: Mean log-probability of the token in its frames (B, L).
        scores: Log-probability of the whole path (B,); minus infinity where the frames are too few for the tokens,
            whose starts and ends mean nothing then.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    log_probs: torch.Tensor
    scores: torch.Tensor


def align(
    log_probs: torch.Tensor, lens: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor, blank: int = 0
) -> Alignment:
    """The most probable path of each token sequence. Padding changes nothing (test_padding_changes_nothing).

    Args:
        log_probs: Log-probabilities (B, T, V) of tokens at frames.
        lens: Valid frames (B,), 1 to T.
        tokens: Token ids (B, L), anything in the padding.
        token_lens: Valid tokens (B,), 0 to L.
        blank: Id of the blank.
    """
    states = _states(tokens, token_lens, blank)  # (B, S)
    emissions = log_probs.gather(2, states.unsqueeze(1).expand(-1, log_probs.size(1), -1))  # (B, T, S)
    final, steps = _forward(emissions, lens, _skip_penalty(states, blank))
    before_last = (2 * token_lens - 1).clamp(min=0).unsqueeze(1)
    last = 2 * token_lens.unsqueeze(1)
    ends_in_blank = final.gather(1, last) >= final.gather(1, before_last)  # (B, 1)
    state = torch.where(ends_in_blank, last, before_last)
    scores = final.gather(1, state).squeeze(1)
    path = _trace_back(steps, state)  # (B, T)
    return _spans(path, lens, emissions, tokens.size(1), scores)


def _states(tokens: torch.Tensor, token_lens: torch.Tensor, blank: int) -> torch.Tensor:
    """Ids of the states (B, S); blanks in the padding."""
    valid = torch.arange(tokens.size(1), device=tokens.device) < token_lens.unsqueeze(1)
    states = tokens.new_full((tokens.size(0), 2 * tokens.size(1) + 1), blank)
    states[:, 1::2] = tokens.masked_fill(~valid, blank)
    return states


def _skip_penalty(states: torch.Tensor, blank: int) -> torch.Tensor:
    """0 where a state may follow the one before the last, minus infinity elsewhere (B, S).

    A blank may not be skipped between equal tokens, which would collapse into one.
    """
    allowed = torch.zeros_like(states, dtype=torch.bool)
    allowed[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    return torch.zeros(states.shape, device=states.device).masked_fill(~allowed, NO_PATH)


def _forward(emissions: torch.Tensor, lens: torch.Tensor, penalty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Best log-probability of each state at the end (B, S), and by how many states each step went up (B, T, S)."""
    num_utts, num_frames, num_states = emissions.shape
    penalty = penalty.to(emissions.dtype)
    # Two states more on the left, which nothing reaches.
    padded = emissions.new_full((num_utts, num_states + 2), NO_PATH)
    padded[:, 2:4] = emissions[:, 0, :2]
    steps = torch.zeros(emissions.shape, dtype=torch.uint8, device=emissions.device)
    running = torch.arange(num_frames, device=lens.device).unsqueeze(1) < lens  # (T, B)
    for frame in range(1, num_frames):
        ways = torch.stack([padded[:, 2:], padded[:, 1:-1], padded[:, :-2] + penalty])
        best, step = ways.max(dim=0)
        alive = running[frame].unsqueeze(1)
        steps[:, frame] = torch.where(alive, step, 0)
        padded[:, 2:] = torch.where(alive, best + emissions[:, frame], padded[:, 2:])
    return padded[:, 2:], steps


def _trace_back(steps: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The state at each frame (B, T), from the last state (B, 1); it stays what it was at the end in the padding."""
    path = [state]
    for frame in range(steps.size(1) - 1, 0, -1):
        state = (state - steps[:, frame].gather(1, state)).clamp(min=0)
        path.append(state)
    return torch.cat(path[::-1], dim=1)


def _spans(
    path: torch.Tensor, lens: torch.Tensor, emissions: torch.Tensor, num_tokens: int, scores: torch.Tensor
) -> Alignment:
    """Frames of each token from the states at frames (B, T)."""
    num_utts, num_frames = path.shape
    frames = torch.arange(num_frames, device=path.device).expand(num_utts, -1)
    on_token = (path % 2 == 1) & (frames < lens.unsqueeze(1))
    # Frames on blanks go to a column of their own, dropped at the end.
    column = torch.where(on_token, path // 2, num_tokens)
    counts = torch.zeros(num_utts, num_tokens + 1, dtype=torch.long, device=path.device)
    counts.scatter_add_(1, column, torch.ones_like(column))
    starts = torch.zeros_like(counts).scatter_reduce_(1, column, frames, "amin", include_self=False)
    sums = emissions.new_zeros(counts.shape)
    sums.scatter_add_(1, column, emissions.gather(2, path.unsqueeze(2)).squeeze(2))
    means = sums / counts.clamp(min=1)
    return Alignment(starts[:, :-1], (starts + counts)[:, :-1], means[:, :-1], scores)
