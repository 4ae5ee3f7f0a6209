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
from espnet_larm.search.texts import Bounds, Text, hold_open

NOTHING = float("-inf")


class FoundBeams(NamedTuple):
    """What was found, and what it took.

    Attributes:
        texts: Of each utterance, the best first.
        num_calls: Calls of the model, the prefill included.
        num_row_calls: Rows of all calls.
    """

    texts: list[list[Text]]
    num_calls: int
    num_row_calls: int


class _Row(NamedTuple):
    """A running hypothesis."""

    utterance: int
    text: Text


class _Choice(NamedTuple):
    """A row and its next token, with its score and an end's in its place."""

    row: int
    token: int
    score: float
    end_score: float


@torch.no_grad()
def beam(
    model: TextModel,
    bounds: Sequence[Bounds],
    eos: int,
    width: int,
    nbest: int = 1,
    guards_loops: bool = True,
    adviser: Adviser | None = None,
    measure: Callable[[list[int]], int] = len,
) -> FoundBeams:
    """Search.

    Args:
        model: At the start of its texts, a row an utterance.
        bounds: Of the length of each utterance's texts.
        eos: The token that ends a text.
        width: W, 1 or more.
        nbest: Texts of each utterance, 1 to W.
        guards_loops: End texts that repeat themselves.
        adviser: Is heard on each token; scores are then its own, which must not rise from token to token.
        measure: The size of a text, from its tokens, which `Bounds.least` is about.
    """
    assert 1 <= nbest <= width
    rows = [_Row(utterance, Text(one, guards_loops, measure)) for utterance, one in enumerate(bounds)]
    ended: list[list[Text]] = [[] for _ in bounds]
    num_calls = num_row_calls = 0
    while rows:
        num_calls, num_row_calls = num_calls + 1, num_row_calls + len(rows)
        scores = model.logits_of(model.hidden).log_softmax(-1)  # (N, V)
        if adviser is not None:
            scores = adviser.combine(scores, torch.arange(len(rows)))
        going: list[tuple[_Choice, _Row]] = []
        for utterance, choices in _best(_within_bounds(scores, rows, eos), scores, rows, eos, width).items():
            grown = [(choice, _Row(utterance, rows[choice.row].text.copy())) for choice in choices]
            for choice, row in grown:
                row.text.add(choice.token, choice.score, choice.end_score, eos)
            done = ended[utterance]
            done += [row.text for _, row in grown if row.text.ending is not None]
            done.sort(key=lambda text: text.score, reverse=True)
            living = [pair for pair in grown if pair[1].text.ending is None]
            if living and (len(done) < nbest or living[0][1].text.score > done[nbest - 1].score):
                going += living
        if not going:
            break
        rows = [row for _, row in going]
        kept = torch.tensor([choice.row for choice, _ in going])
        tokens = torch.tensor([choice.token for choice, _ in going])
        model.select(kept)
        if adviser is not None:
            adviser.select(kept)
            adviser.take(tokens, torch.arange(len(rows)))
        model.read(tokens.unsqueeze(1).to(model.hidden.device), torch.ones(len(rows), dtype=torch.long))
    return FoundBeams([texts[:nbest] for texts in ended], num_calls, num_row_calls)


def _within_bounds(scores: torch.Tensor, rows: Sequence[_Row], eos: int) -> torch.Tensor:
    """What tokens may be chosen by (N, V): at its bound a text can only end, and before its least size it cannot."""
    allowed = hold_open(scores, [row.text for row in rows], eos).clone()
    for index, (_, text) in enumerate(rows):
        if len(text.token_ids) >= text.bounds.most:
            # Whatever the best token is, an end is what it costs.
            best = int(allowed[index].argmax())
            allowed[index] = float("-inf")
            allowed[index, best] = scores[index, eos]
        elif not text.may_end:
            allowed[index, eos] = float("-inf")
    return allowed


def _best(
    allowed: torch.Tensor, scores: torch.Tensor, rows: Sequence[_Row], eos: int, width: int
) -> dict[int, list[_Choice]]:
    """Of each utterance the best choices, the best first, by scores of tokens (N, V) behind those of their texts."""
    totals = allowed + allowed.new_tensor([row.text.score for row in rows]).unsqueeze(1)
    members: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row.utterance, []).append(index)
    most, vocab_size = max(map(len, members.values())), totals.size(1)
    # Behind the rows, one that is never chosen.
    padded = torch.cat([totals, totals.new_full((1, vocab_size), float("-inf"))])
    slots = torch.tensor([[*each, *[len(rows)] * (most - len(each))] for each in members.values()])
    together = padded[slots.to(totals.device)].flatten(1)  # (U, W V)
    best, places = together.topk(min(width, together.size(1)), dim=1)
    ends = scores[:, eos].tolist()
    found = {}
    for utterance, own, values, where in zip(members, slots.tolist(), best.tolist(), places.tolist(), strict=True):
        chosen = [divmod(place, vocab_size) for place, value in zip(where, values, strict=True) if value > NOTHING]
        found[utterance] = [
            _Choice(own[slot], token, float(allowed[own[slot], token]), ends[own[slot]]) for slot, token in chosen
        ]
    return found
