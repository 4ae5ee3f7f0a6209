"""Beam search over the texts of an autoregressive model, batched over utterances whose beams end when they can.

On the same scores its N-best is that of ESPnet's BatchBeamSearch (test_the_n_best_is_that_of_espnets_beam_search).
Departures: an utterance ends as soon as no running hypothesis can come into its N-best any more, since scores only
fall, where ESPnet goes on to the longest length; and a text that its bound ends is scored with its end.
Shapes: U utterances, N rows (hypotheses of all utterances), W hypotheses an utterance at most, V tokens.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.multi_token import Adviser, TextModel
from espnet_larm.search.texts import Bounds, Ending


class Ended(NamedTuple):
    """A hypothesis that has ended.

    Attributes:
        token_ids: Without the end.
        score: Log-probability of the tokens and of the end.
        ending: By itself or at its bound.
    """

    token_ids: list[int]
    score: float
    ending: Ending


class FoundBeams(NamedTuple):
    """What was found, and what it took.

    Attributes:
        hypotheses: Of each utterance, the best first.
        num_calls: Calls of the model, the prefill included.
        num_row_calls: Rows of all calls.
    """

    hypotheses: list[list[Ended]]
    num_calls: int
    num_row_calls: int


class _Row(NamedTuple):
    """A running hypothesis."""

    utterance: int
    token_ids: list[int]
    score: float


class _Choice(NamedTuple):
    """A row and its next token, with the score of both."""

    row: int
    token: int
    score: float


@torch.no_grad()
def beam(
    model: TextModel,
    bounds: Sequence[Bounds],
    eos: int,
    width: int,
    nbest: int = 1,
    adviser: Adviser | None = None,
    measure: Callable[[list[int]], int] = len,
) -> FoundBeams:
    """Search.

    Args:
        model: At the start of its texts, a row an utterance.
        bounds: Of the length of each utterance's texts.
        eos: The token that ends a text.
        width: W, 1 or more.
        nbest: Hypotheses of each utterance, 1 to W.
        adviser: Is heard on each token; scores are then its own, which must not rise from token to token.
        measure: The size of a text, from its tokens, which `Bounds.least` is about.
    """
    assert 1 <= nbest <= width
    rows = [_Row(utterance, [], 0.0) for utterance in range(len(bounds))]
    ended: list[list[Ended]] = [[] for _ in bounds]
    num_calls = num_row_calls = 0
    while rows:
        num_calls, num_row_calls = num_calls + 1, num_row_calls + len(rows)
        scores = model.logits_of(model.hidden).log_softmax(-1)  # (N, V)
        if adviser is not None:
            scores = adviser.combine(scores, torch.arange(len(rows)))
        scores = _within_bounds(scores, rows, bounds, eos, measure)
        going: list[_Choice] = []
        for utterance, choices in _best(scores, rows, width).items():
            done = ended[utterance]
            for choice in choices:
                if choice.token == eos:
                    text, most = rows[choice.row].token_ids, bounds[utterance].most
                    done.append(Ended(text, choice.score, _ending(len(text), most)))
            done.sort(key=lambda one: one.score, reverse=True)
            living = [choice for choice in choices if choice.token != eos]
            if living and (len(done) < nbest or living[0].score > done[nbest - 1].score):
                going += living
        if not going:
            break
        before = rows
        rows = [_Row(before[row].utterance, [*before[row].token_ids, token], score) for row, token, score in going]
        kept, tokens = torch.tensor([choice.row for choice in going]), torch.tensor([choice.token for choice in going])
        model.select(kept)
        if adviser is not None:
            adviser.select(kept)
            adviser.take(tokens, torch.arange(len(rows)))
        model.read(tokens.unsqueeze(1).to(model.hidden.device), torch.ones(len(rows), dtype=torch.long))
    return FoundBeams([one[:nbest] for one in ended], num_calls, num_row_calls)


def _within_bounds(
    scores: torch.Tensor,
    rows: Sequence[_Row],
    bounds: Sequence[Bounds],
    eos: int,
    measure: Callable[[list[int]], int],
) -> torch.Tensor:
    """Scores of whole texts (N, V): at its bound a text can only end, and before its least size it cannot."""
    totals = scores + torch.tensor([row.score for row in rows], dtype=scores.dtype, device=scores.device).unsqueeze(1)
    for index, row in enumerate(rows):
        most, least = bounds[row.utterance]
        if len(row.token_ids) >= most:
            end = totals[index, eos].clone()
            totals[index] = float("-inf")
            totals[index, eos] = end
        elif least > 0 and measure(row.token_ids) < least:
            totals[index, eos] = float("-inf")
    return totals


def _best(scores: torch.Tensor, rows: Sequence[_Row], width: int) -> dict[int, list[_Choice]]:
    """Of each utterance the best choices, the best first."""
    utterances = list(dict.fromkeys(row.utterance for row in rows))
    members = {
        utterance: [index for index, row in enumerate(rows) if row.utterance == utterance] for utterance in utterances
    }
    most, vocab_size = max(map(len, members.values())), scores.size(1)
    # Behind the rows, one that is never chosen.
    padded = torch.cat([scores, scores.new_full((1, vocab_size), float("-inf"))])
    slots = torch.tensor([[*members[each], *[len(rows)] * (most - len(members[each]))] for each in utterances])
    together = padded[slots.to(scores.device)].flatten(1)  # (U, W V)
    best, places = together.topk(min(width, together.size(1)), dim=1)
    found = {}
    for utterance, row_slots, values, where in zip(
        utterances, slots.tolist(), best.tolist(), places.tolist(), strict=True
    ):
        pairs = [(value, divmod(place, vocab_size)) for value, place in zip(values, where, strict=True)]
        found[utterance] = [
            _Choice(row_slots[slot], token, value) for value, (slot, token) in pairs if value != float("-inf")
        ]
    return found


def _ending(num_tokens: int, most: int) -> Ending:
    return Ending.LIMIT if num_tokens >= most else Ending.BY_ITSELF
