"""Greedy search with an autoregressive model, in batches whose finished rows leave.

The model is whatever can go on with a batch of texts (`TextModel`); nothing else of it is known here.
Shapes: B rows still running, L tokens a call, V tokens of the vocabulary.
"""

from typing import NamedTuple, Protocol

import torch


class TextModel(Protocol):
    """A batch of texts that an autoregressive model has begun."""

    @property
    def logits(self) -> torch.Tensor:
        """Of the next token of each row (B, V)."""
        ...

    def step(self, tokens: torch.Tensor, num_new: torch.Tensor) -> torch.Tensor:
        """Go on with tokens (B, L), of which num_new (B,) are valid; the logits after each (B, L, V)."""
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (B',), in this order, some perhaps several times."""
        ...


class Found(NamedTuple):
    """What was found.

    Attributes:
        token_ids: Of each row, without the end.
        scores: Log-probability of each row's tokens and end, the end included where it was forced.
        is_ended: Whether each row ended by itself, before its limit.
        num_calls: Calls of the model, the prefill included.
    """

    token_ids: list[list[int]]
    scores: list[float]
    is_ended: list[bool]
    num_calls: int


@torch.no_grad()
def greedy(model: TextModel, limits: torch.Tensor, eos: int) -> Found:
    """Take the best token until it is the end.

    Args:
        model: At the start of its texts.
        limits: Most tokens of each row (B,), the end not counted; 0 or more, on the CPU.
        eos: The token that ends a text.

    Returns:
        By row, in the order of the model's rows at the start.
    """
    num_rows = len(limits)
    token_ids: list[list[int]] = [[] for _ in range(num_rows)]
    scores, is_ended = [0.0] * num_rows, [False] * num_rows
    rows, logits, num_calls = list(range(num_rows)), model.logits, 1
    while rows:
        log_probs = logits.log_softmax(-1)
        best_scores, best = log_probs.max(-1)
        going: list[int] = []
        for index, (row, token, score, end) in enumerate(
            zip(rows, best.tolist(), best_scores.tolist(), log_probs[:, eos].tolist(), strict=True)
        ):
            is_ended[row] = token == eos
            if token == eos or len(token_ids[row]) >= int(limits[row]):
                scores[row] += end
            else:
                token_ids[row].append(token)
                scores[row] += score
                going.append(index)
        if not going:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going)
            model.select(kept)
            rows, best = [rows[index] for index in going], best[kept.to(best.device)]
        logits = model.step(best.unsqueeze(1), torch.ones(len(rows), dtype=torch.long))[:, -1]
        num_calls += 1
    return Found(token_ids, scores, is_ended, num_calls)
