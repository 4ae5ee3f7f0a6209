"""Greedy search that asks the LM about several drafted tokens in one call, in batches whose rows accept as they can.

Verified, a draft is taken as far as it is what greedy search would have chosen, so that the texts are greedy search's,
and the call that verifies gives the next token, too: never a second call an iteration. Unverified, all that the source
drafts is taken, which is what a threshold on its probabilities is for: faster, and not the same words.
Source: Raj et al., arXiv:2409.08148, verification- and threshold-based decoding.
Shapes: N rows still running, L tokens a call, D model size, V tokens.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from espnet_larm.search.drafts import Drafts
from espnet_larm.search.texts import Bounds, Text, hold_open


class RevisableModel(Protocol):
    """A batch of texts that an autoregressive model has begun, and may take tokens back from."""

    hidden: torch.Tensor

    def read(self, tokens: torch.Tensor, num_new: torch.Tensor) -> torch.Tensor:
        """Go on with tokens (N, L), of which num_new (N,) are valid; the hidden states after each (N, L, D)."""
        ...

    def logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of the next token, (..., D) to (..., V)."""
        ...

    def give_back(self, num_tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        """Forget the last tokens (N,) of each row; `hidden` (N, D) is of the position that is the last then."""
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), in this order."""
        ...


class Found(NamedTuple):
    """What was found.

    Attributes:
        texts: Of each row.
        num_calls: Calls of the model, the prefill included.
        num_read: Tokens that the model read, of all rows and calls, without prompts.
        accepted: How often a row's call took 0, 1, ... drafted tokens.
    """

    texts: list[Text]
    num_calls: int
    num_read: int
    accepted: Counter[int]


class _Row(NamedTuple):
    """What the model says behind one row's tokens of a call: best token, its score and the end's, by place."""

    best: list[int]
    scores: list[float]
    ends: list[float]


@torch.no_grad()
def multi_token(
    model: RevisableModel,
    bounds: Sequence[Bounds],
    eos: int,
    drafts: Drafts,
    verifies: bool = True,
    guards_loops: bool = True,
    measure: Callable[[list[int]], int] = len,
) -> Found:
    """Search.

    Args:
        model: At the start of its texts.
        bounds: Of the length of each row's text.
        eos: The token that ends a text.
        drafts: Of the model's rows.
        verifies: Whether a draft is taken only as far as it is the model's own choice.
        guards_loops: End texts that repeat themselves.
        measure: The size of a text, from its tokens, which `Bounds.least` is about.

    Returns:
        Texts by row, in the order of the model's rows at the start.
    """
    texts = [Text(one, guards_loops, measure) for one in bounds]
    running, log_probs, num_calls, num_read = texts, model.logits_of(model.hidden).log_softmax(-1), 1, 0
    accepted: Counter[int] = Counter()
    while running:
        running, kept, best = _take_best(running, log_probs, eos)
        if not running:
            break
        if kept is not None:
            model.select(kept)
            drafts.select(kept)
        proposed = drafts.propose(model.hidden, running)
        proposed = [row[: text.bounds.most - len(text.token_ids)] for row, text in zip(proposed, running, strict=True)]
        tokens, num_new = _padded(best, proposed)
        hidden = model.read(tokens.to(model.hidden.device), num_new)  # (N, L, D)
        after = model.logits_of(hidden).log_softmax(-1)  # (N, L, V)
        num_calls, num_read = num_calls + 1, num_read + int(num_new.sum())
        taken = [
            _accept(text, draft, heard, after[row], eos, verifies)
            for row, (text, draft, heard) in enumerate(zip(running, proposed, _rows(after, eos), strict=True))
        ]
        accepted.update(taken)
        last = torch.tensor(taken)
        there = last.to(hidden.device)
        rows = torch.arange(len(running), device=hidden.device)
        model.give_back(num_new - 1 - last, hidden[rows, there])
        log_probs = after[rows, there]
        # Rows that ended within a draft leave before the next token is chosen.
        going = [row for row, text in enumerate(running) if text.ending is None]
        if len(going) < len(running):
            running, kept = [running[row] for row in going], torch.tensor(going, dtype=torch.long)
            if not running:
                break
            model.select(kept)
            drafts.select(kept)
            log_probs = log_probs[kept.to(log_probs.device)]
    return Found(texts, num_calls, num_read, accepted)


def _take_best(
    texts: list[Text], log_probs: torch.Tensor, eos: int
) -> tuple[list[Text], torch.Tensor | None, list[int]]:
    """Give each text its next token: the texts that go on, their rows if some do not, and their tokens."""
    best = hold_open(log_probs, texts, eos).argmax(-1)
    scores = log_probs.gather(1, best.unsqueeze(1))[:, 0].tolist()
    rows = enumerate(zip(texts, best.tolist(), scores, log_probs[:, eos].tolist(), strict=True))
    going = [(row, token) for row, (text, token, score, end) in rows if text.add(token, score, end, eos)]
    kept = torch.tensor([row for row, _ in going], dtype=torch.long) if len(going) < len(texts) else None
    return [texts[row] for row, _ in going], kept, [token for _, token in going]


def _padded(best: list[int], drafts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N, L), each row its next token and its draft, and how many are valid (N,)."""
    rows = [[token, *draft] for token, draft in zip(best, drafts, strict=True)]
    num_new = torch.tensor([len(row) for row in rows])
    longest = int(num_new.max())
    return torch.tensor([[*row, *row[-1:] * (longest - len(row))] for row in rows]), num_new


def _rows(log_probs: torch.Tensor, eos: int) -> list[_Row]:
    scores, best = log_probs.max(-1)
    return [_Row(*row) for row in zip(best.tolist(), scores.tolist(), log_probs[:, :, eos].tolist(), strict=True)]


def _accept(text: Text, draft: Sequence[int], heard: _Row, log_probs: torch.Tensor, eos: int, verifies: bool) -> int:
    """Add a draft's tokens to a text as far as they may be taken; how many were."""
    for place, token in enumerate(draft):
        choice, score = heard.best[place], heard.scores[place]
        if verifies:
            if choice == eos and not text.may_end:
                # As greedy search, which then takes the best of the others.
                choice = int(hold_open(log_probs[place : place + 1], [text], eos).argmax(-1))
                score = float(log_probs[place, choice])
            if choice != token:
                return place
        elif token == eos and not text.may_end:
            return place
        else:
            score = float(log_probs[place, token])
        if not text.add(token, score, heard.ends[place], eos):
            # What ended the text is read no more.
            return place
    return len(draft)
