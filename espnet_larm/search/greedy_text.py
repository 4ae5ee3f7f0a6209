"""Greedy search with an autoregressive model, in batches whose finished rows leave.

The model is whatever can go on with a batch of texts (`TextModel`); nothing else of it is known here. A second opinion
on the next token (`Adviser`, such as a CTC head) may be heard before the best is taken.
Shapes: N rows still running, L tokens a call, V tokens of the vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from espnet_larm.search.texts import Bounds, Text, hold_open


class TextModel(Protocol):
    """A batch of texts that an autoregressive model has begun."""

    @property
    def logits(self) -> torch.Tensor:
        """Of the next token of each row (N, V)."""
        ...

    def step(self, tokens: torch.Tensor, num_new: torch.Tensor) -> torch.Tensor:
        """Go on with tokens (N, L), of which num_new (N,) are valid; the logits after each (N, L, V)."""
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), in this order, some perhaps several times."""
        ...


class Adviser(Protocol):
    """A second opinion on the next token of each row."""

    def combine(self, log_probs: torch.Tensor) -> torch.Tensor:
        """The model's log-probabilities (N, V) and its own as one score a token (N, V); -inf for what it rules out."""
        ...

    def take(self, tokens: torch.Tensor) -> None:
        """The rows go on with tokens (N,), none of them the end."""
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), in this order."""
        ...


class Found(NamedTuple):
    """What was found.

    Attributes:
        texts: Of each row.
        num_calls: Calls of the model, the prefill included.
    """

    texts: list[Text]
    num_calls: int


@torch.no_grad()
def greedy(
    model: TextModel,
    bounds: Sequence[Bounds],
    eos: int,
    guards_loops: bool = True,
    adviser: Adviser | None = None,
    measure: Callable[[list[int]], int] = len,
) -> Found:
    """Take the best token until it is the end.

    Args:
        model: At the start of its texts.
        bounds: Of the length of each row's text.
        eos: The token that ends a text.
        guards_loops: End texts that repeat themselves.
        adviser: Is heard on each token; scores are then its own.
        measure: The size of a text, from its tokens, which `Bounds.least` is about.

    Returns:
        Texts by row, in the order of the model's rows at the start.
    """
    texts = [Text(one, guards_loops, measure) for one in bounds]
    running, logits, num_calls = texts, model.logits, 1
    while running:
        scores = logits.log_softmax(-1)
        if adviser is not None:
            scores = adviser.combine(scores)
        best = hold_open(scores, running, eos).argmax(-1)
        chosen = scores.gather(1, best.unsqueeze(1))[:, 0].tolist()
        rows = enumerate(zip(running, best.tolist(), chosen, scores[:, eos].tolist(), strict=True))
        going = [index for index, (text, token, score, end) in rows if text.add(token, score, end, eos)]
        if len(going) < len(running):
            running = [running[index] for index in going]
            if not running:
                break
            kept = torch.tensor(going)
            model.select(kept)
            if adviser is not None:
                adviser.select(kept)
            best = best[kept.to(best.device)]
        if adviser is not None:
            adviser.take(best)
        logits = model.step(best.unsqueeze(1), torch.ones(len(running), dtype=torch.long))[:, -1]
        num_calls += 1
    return Found(texts, num_calls)
