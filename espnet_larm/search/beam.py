"""Beam search over the texts of an autoregressive model, batched over utterances whose beams end when they can.

On the same scores its N-best is that of ESPnet's BatchBeamSearch (test_the_n_best_is_that_of_espnets_beam_search).
Departures: an utterance ends as soon as no running hypothesis can come into its N-best any more, since scores only
fall but for what an adviser may give back (`slack`), where ESPnet goes on to the longest length; a text that its bound
ends is scored with its end; and a loop that is cut back to a text that was found is not found again.

With a lookahead a call reads, besides the last token of each hypothesis, guesses of the beam's next steps. Then steps
are replayed on what the LM said of them, as long as all hypotheses that matter have been guessed: those that have not
do not matter where the beam is full of what is better than they can become. What is found is the ordinary beam's
(test_a_beam_that_looks_ahead_finds_what_it_finds_without).
Shapes: U utterances, N rows (hypotheses of all utterances), W hypotheses an utterance at most, V tokens.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.hypotheses import Bounds, Ended, Text, found_texts, hold_open
from espnet_larm.search.lookahead import NOTHING, Lookahead, Root, longest, look_ahead
from espnet_larm.search.multi_token import Adviser, TextModel
from espnet_larm.search.reader import Place, Reader


class FoundBeams(NamedTuple):
    """What was found, and what it took.

    Attributes:
        texts: Of each utterance, the best first.
        num_calls: Calls of the model, the prefill included.
        num_row_calls: Utterances of all calls: what the calls would be one utterance at a time.
        num_row_tokens: Tokens of all rows of all calls, a prompt being one.
    """

    texts: list[list[Text]]
    num_calls: int
    num_row_calls: int
    num_row_tokens: int


class Choice(NamedTuple):
    """A row and its next token.

    Attributes:
        row: Index.
        token: Id.
        score: Of the token.
        end_score: Of an end in its place.
        total: Of the text with the token.
    """

    row: int
    token: int
    score: float
    end_score: float
    total: float


class _Row(NamedTuple):
    """A running hypothesis.

    Attributes:
        utterance: Index.
        text: So far.
        origin: Where its last token was chosen from.
        read: Behind its last token; None where that has not been read.
    """

    utterance: int
    text: Text
    origin: Place
    read: Place | None


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
    lookahead: Lookahead | None = None,
) -> FoundBeams:
    """Search.

    Args:
        model: At the start of its texts, a row an utterance.
        bounds: Of the length of each utterance's texts.
        eos: The token that ends a text.
        width: W, 1 or more.
        nbest: Texts of each utterance, 1 to W.
        guards_loops: End texts that repeat themselves.
        adviser: Is heard on each token; scores are then its own.
        measure: The size of a text, from its tokens, which `Bounds.least` is about.
        lookahead: Of the model's states; a token a call by default.
    """
    assert 1 <= nbest <= width
    search = _Search(Reader(model), eos, width, nbest, adviser, lookahead)
    texts = [Text(one, guards_loops, measure) for one in bounds]
    return search([_Row(index, text, Place(index, 0), Place(index, 0)) for index, text in enumerate(texts)])


class _Search:
    """Arguments as those of `beam`."""

    def __init__(
        self, reader: Reader, eos: int, width: int, nbest: int, adviser: Adviser | None, lookahead: Lookahead | None
    ) -> None:
        self.reader = reader
        self.eos = eos
        self.width = width
        self.nbest = nbest
        self.adviser = adviser
        self.lookahead = lookahead
        # Where what was read behind texts of utterances is found.
        self.read: dict[tuple[int, tuple[int, ...]], Place] = {}

    def __call__(self, rows: list[_Row]) -> FoundBeams:
        ended = [Ended(self.nbest) for _ in rows]
        num_row_calls = 0
        while rows:
            num_row_calls += len({row.utterance for row in rows})
            stopped: set[int] = set()
            while any(row.utterance not in stopped for row in rows):
                rows = self._hopeful(self._step(rows, stopped, ended), ended)
            if rows:
                rows = self._read(rows)
        return FoundBeams(found_texts(ended), self.reader.num_calls, num_row_calls, self.reader.num_row_tokens)

    def _step(self, rows: Sequence[_Row], stopped: set[int], ended: Sequence[Ended]) -> list[_Row]:
        """Give the hypotheses of utterances a token more, but of those that have to wait for a call."""
        asked = {index: row.read for index, row in enumerate(rows) if row.utterance not in stopped and row.read}
        by_utterance = self._choices(rows, asked) if asked else {}
        slack = self._slack(rows)
        kept: list[tuple[int, _Row, int | None]] = []
        for utterance in dict.fromkeys(row.utterance for row in rows):
            choices = by_utterance.get(utterance, [])
            unread = [
                row.text.score + more
                for row, more in zip(rows, slack, strict=True)
                if row.utterance == utterance and row.read is None
            ]
            if utterance in stopped or (
                unread and not (len(choices) == self.width and choices[-1].total > max(unread))
            ):
                stopped.add(utterance)
                kept += [(index, row, None) for index, row in enumerate(rows) if row.utterance == utterance]
            else:
                kept += self._grown(rows, choices, ended[utterance])
        if self.adviser is not None and kept:
            self.adviser.select(torch.tensor([index for index, _, _ in kept]))
            taken = [(place, token) for place, (_, _, token) in enumerate(kept) if token is not None]
            if taken:
                self.adviser.take(
                    torch.tensor([token for _, token in taken]), torch.tensor([place for place, _ in taken])
                )
        return [row for _, row, _ in kept]

    def _slack(self, rows: Sequence[_Row]) -> list[float]:
        """By how much the score of each row may rise again."""
        if self.adviser is None:
            return [0.0] * len(rows)
        slack: list[float] = self.adviser.slack().tolist()
        return slack

    def _hopeful(self, rows: list[_Row], ended: Sequence[Ended]) -> list[_Row]:
        """The rows of utterances of which one may still come among the N-best."""
        if not rows:
            return rows
        best: dict[int, float] = {}
        for row, more in zip(rows, self._slack(rows), strict=True):
            best[row.utterance] = max(best.get(row.utterance, NOTHING), row.text.score + more)
        kept = [index for index, row in enumerate(rows) if best[row.utterance] > ended[row.utterance].least]
        if self.adviser is not None and 0 < len(kept) < len(rows):
            self.adviser.select(torch.tensor(kept))
        return [rows[index] for index in kept]

    def _choices(self, rows: Sequence[_Row], asked: dict[int, Place]) -> dict[int, list[Choice]]:
        """Of each utterance the best choices, the best first; rows that are asked, with what was read of them."""
        scores = self.reader.log_probs(list(asked.values()))  # (N, V)
        if self.adviser is not None:
            scores = self.adviser.combine(scores, torch.tensor(list(asked)))
        some = [rows[index] for index in asked]
        allowed = within_bounds(scores, [row.text for row in some], self.eos)
        totals = allowed + allowed.new_tensor([row.text.score for row in some]).unsqueeze(1)
        found = best_of(totals, [row.utterance for row in some], self.width)
        ends, indices = scores[:, self.eos].tolist(), list(asked)
        return {
            utterance: [
                Choice(indices[place], token, float(allowed[place, token]), ends[place], total)
                for place, token, total in best
            ]
            for utterance, best in found.items()
        }

    def _grown(
        self, rows: Sequence[_Row], choices: Sequence[Choice], done: Ended
    ) -> list[tuple[int, _Row, int | None]]:
        """The hypotheses of an utterance that go on: which row each was, and its new token."""
        grown: list[tuple[int, _Row, int | None]] = []
        for choice in choices:
            before = rows[choice.row]
            text = before.text.copy()
            if text.add(choice.token, choice.score, choice.end_score, self.eos):
                assert before.read is not None
                read = self.read.get((before.utterance, tuple(text.token_ids)))
                grown.append((choice.row, _Row(before.utterance, text, before.read, read), choice.token))
            else:
                done.add(text)
        return grown

    def _read(self, rows: Sequence[_Row]) -> list[_Row]:
        """Call the model: it reads the last token of each hypothesis, and guesses of the next ones."""
        places = [row.origin for row in rows]
        roots = [
            Root(*row) for row in ((row.utterance, row.text.score, row.text.room, i) for i, row in enumerate(rows))
        ]
        paths: list[tuple[int, list[int]]] = [(index, []) for index in range(len(rows))]
        if self.lookahead is not None:
            log_probs = self.lookahead.logits_of(self.reader.states(places)).log_softmax(-1)
            guesses = look_ahead(roots, log_probs, self.width, self.eos, self.lookahead.least, self.adviser)
            paths = [(guess.root, list(guess.tokens)) for guess in longest(guesses)]
            if self.adviser is not None:
                self.adviser.select(torch.arange(len(rows)))
        self.reader.read(
            [places[root] for root, _ in paths], [[rows[root].text.token_ids[-1], *tokens] for root, tokens in paths]
        )
        self.read = {}
        for index, (root, tokens) in enumerate(paths):
            before = rows[root].text.token_ids
            for length in range(len(tokens) + 1):
                key = rows[root].utterance, (*before, *tokens[:length])
                self.read.setdefault(key, Place(index, length))
        return [row._replace(read=self.read[row.utterance, tuple(row.text.token_ids)]) for row in rows]


def within_bounds(scores: torch.Tensor, texts: list[Text], eos: int) -> torch.Tensor:
    """What tokens may be chosen by (N, V): at its bound a text can only end, and before its least size it cannot."""
    allowed = hold_open(scores, texts, eos).clone()
    for index, text in enumerate(texts):
        if text.room == 0:
            # Whatever the best token is, an end is what it costs.
            best = int(allowed[index].argmax())
            allowed[index] = NOTHING
            allowed[index, best] = scores[index, eos]
        elif not text.may_end:
            allowed[index, eos] = NOTHING
    return allowed


def best_of(totals: torch.Tensor, utterances: Sequence[int], width: int) -> dict[int, list[tuple[int, int, float]]]:
    """Of each utterance the `width` best (row, token, total), the best first, from totals of rows (N, V)."""
    members: dict[int, list[int]] = {}
    for index, utterance in enumerate(utterances):
        members.setdefault(utterance, []).append(index)
    most, vocab_size = max(map(len, members.values())), totals.size(1)
    # Behind the rows, one that is never chosen.
    padded = torch.cat([totals, totals.new_full((1, vocab_size), NOTHING)])
    slots = torch.tensor([[*each, *[len(utterances)] * (most - len(each))] for each in members.values()])
    together = padded[slots.to(totals.device)].flatten(1)  # (U, W V)
    best, places = together.topk(min(width, together.size(1)), dim=1)
    found = {}
    for utterance, own, values, where in zip(members, slots.tolist(), best.tolist(), places.tolist(), strict=True):
        chosen = [(*divmod(place, vocab_size), value) for place, value in zip(where, values, strict=True)]
        found[utterance] = [(own[slot], token, value) for slot, token, value in chosen if value > NOTHING]
    return found
