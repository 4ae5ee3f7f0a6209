"""Beam search over the hypotheses of an autoregressive model, batched over utterances whose beams end when they can.

On the same scores its N-best is that of ESPnet's BatchBeamSearch (test_the_n_best_is_that_of_espnets_beam_search).
Departures: an utterance ends as soon as no running hypothesis can come into its N-best any more, since scores only
fall but for what a scorer may give back (`slack`), where ESPnet goes on to the longest length; a hypothesis that its
bound ends is scored with its end; and a loop that is cut back to a hypothesis that was found is not found again.

With a lookahead a call reads, besides the last token of each hypothesis, guesses of the beam's next steps. Then steps
are replayed on what the LM gave for them, as long as all hypotheses that matter have been guessed: those that have not
do not matter where the beam is full of what is better than they can become. What is found is the ordinary beam's
(test_a_beam_that_looks_ahead_finds_what_it_finds_without).
Shapes: U utterances, N rows (hypotheses of all utterances), W hypotheses an utterance at most, V tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.search.bookkeeping import Beam, FoundBeams, Place, mark_held_open, within_bounds
from espnet_larm.search.fetch import fetch
from espnet_larm.search.hypotheses import Bounds, TokenHypothesis
from espnet_larm.search.lookahead import NOTHING, Root, longest
from espnet_larm.search.multi_token import HypothesisModel


class Choice(NamedTuple):
    """A row and its next token.

    Attributes:
        row: Index of the row.
        token: Id of the token.
        score: Score of the token.
        end_score: Score of an end in its place.
        total: Score of the hypothesis with the token.
    """

    row: int
    token: int
    score: float
    end_score: float
    total: float


class _Row(NamedTuple):
    """A running hypothesis.

    Attributes:
        utterance: Index of its utterance.
        hypothesis: The hypothesis so far.
        origin: The place that its last token was chosen from.
        read: The place behind its last token; None where that has not been read.
    """

    utterance: int
    hypothesis: TokenHypothesis
    origin: Place
    read: Place | None


@torch.no_grad()
def beam(
    model: HypothesisModel, bounds: Sequence[Bounds], eos: int, width: int, *rest: Any, **options: Any
) -> FoundBeams:
    """Search the N-best hypotheses of each utterance, all of one length at each step. Arguments are those of `Beam`."""
    return _Search(model, bounds, eos, width, *rest, **options)()


class _Search(Beam):
    """The ordinary beam."""

    def __call__(self) -> FoundBeams:
        # Where what was read behind hypotheses of utterances is found.
        self.read: dict[tuple[int, tuple[int, ...]], Place] = {}
        rows = [_Row(index, each, Place(index, 0), Place(index, 0)) for index, each in enumerate(self.hypotheses)]
        while rows:
            self.num_row_calls += len({row.utterance for row in rows})
            stopped: set[int] = set()
            while any(row.utterance not in stopped for row in rows):
                rows = self._hopeful(self._step(rows, stopped))
            if rows:
                rows = self._read(rows)
        return self.found()

    def _step(self, rows: Sequence[_Row], stopped: set[int]) -> list[_Row]:
        """Give the hypotheses of each utterance a token more, unless it has to wait for a call."""
        asked = {index: row.read for index, row in enumerate(rows) if row.utterance not in stopped and row.read}
        by_utterance = self._choices(rows, asked) if asked else {}
        slack = self.slack(len(rows))
        kept: list[tuple[int, _Row, int | None]] = []
        for utterance in dict.fromkeys(row.utterance for row in rows):
            choices = by_utterance.get(utterance, [])
            unread = [
                row.hypothesis.score + more
                for row, more in zip(rows, slack, strict=True)
                if row.utterance == utterance and row.read is None
            ]
            if utterance in stopped or (
                unread and not (len(choices) == self.width and choices[-1].total > max(unread))
            ):
                stopped.add(utterance)
                kept += [(index, row, None) for index, row in enumerate(rows) if row.utterance == utterance]
            else:
                kept += self._grown(rows, choices)
        self.keep([index for index, _, _ in kept], [token for _, _, token in kept])
        return [row for _, row, _ in kept]

    def _hopeful(self, rows: list[_Row]) -> list[_Row]:
        """The rows of utterances of which one may still come among the N-best."""
        best: dict[int, float] = {}
        for row, more in zip(rows, self.slack(len(rows)) if rows else [], strict=True):
            best[row.utterance] = max(best.get(row.utterance, NOTHING), row.hypothesis.score + more)
        kept = [index for index, row in enumerate(rows) if best[row.utterance] > self.ended[row.utterance].least]
        if len(kept) < len(rows):
            self.keep(kept)
        return [rows[index] for index in kept]

    def _choices(self, rows: Sequence[_Row], asked: dict[int, Place]) -> dict[int, list[Choice]]:
        """The best choices of each utterance, the best first, from places behind the rows that are asked."""
        scores = self.scores(list(asked.values()), list(asked))  # (N, V)
        some = [rows[index] for index in asked]
        hypotheses = [row.hypothesis for row in some]
        allowed, wants_end, may_end = within_bounds(scores, hypotheses, self.eos)
        before = torch.tensor([hypothesis.score for hypothesis in hypotheses], dtype=allowed.dtype).unsqueeze(1)
        totals = allowed + before.to(allowed.device, non_blocking=True)
        best = _best_of(totals, [row.utterance for row in some], self.width)
        # Of a row that is never chosen, any score.
        own = allowed[best.rows.clamp(max=len(some) - 1), best.tokens]
        ends, held, *found = fetch(scores[:, self.eos], wants_end, best.rows, best.tokens, own, best.totals)
        mark_held_open(hypotheses, held, may_end)
        indices = list(asked)
        return {
            utterance: [
                Choice(indices[place], token, score, ends[place], total)
                for place, token, score, total in zip(*each, strict=True)
                if total > NOTHING
            ]
            for utterance, *each in zip(best.utterances, *found, strict=True)
        }

    def _grown(self, rows: Sequence[_Row], choices: Sequence[Choice]) -> list[tuple[int, _Row, int | None]]:
        """The hypotheses of an utterance that go on: which row each was, and its new token."""
        grown: list[tuple[int, _Row, int | None]] = []
        for choice in choices:
            before = rows[choice.row]
            chosen = choice.token, choice.score, choice.end_score
            if (hypothesis := self.grow(before.utterance, before.hypothesis, *chosen)) is not None:
                assert before.read is not None
                read = self.read.get((before.utterance, tuple(hypothesis.token_ids)))
                grown.append((choice.row, _Row(before.utterance, hypothesis, before.read, read), choice.token))
        return grown

    def _read(self, rows: Sequence[_Row]) -> list[_Row]:
        """Call the model: it reads the last token of each hypothesis, and guesses of the next ones."""
        places = [row.origin for row in rows]
        roots = [
            Root(row.utterance, row.hypothesis.score, row.hypothesis.room, index) for index, row in enumerate(rows)
        ]
        paths = [(guess.root, list(guess.tokens)) for guess in longest(self.guesses(roots, places))]
        if self.lookahead is not None:
            # The scorer's rows of guesses go again.
            self.keep(range(len(rows)))
        self.reader.read(
            [places[root] for root, _ in paths],
            [[rows[root].hypothesis.token_ids[-1], *tokens] for root, tokens in paths],
        )
        self.read = {}
        for index, (root, tokens) in enumerate(paths):
            before = rows[root].hypothesis.token_ids
            for length in range(len(tokens) + 1):
                key = rows[root].utterance, (*before, *tokens[:length])
                self.read.setdefault(key, Place(index, length))
        return [row._replace(read=self.read[row.utterance, tuple(row.hypothesis.token_ids)]) for row in rows]


class _Best(NamedTuple):
    """The best choices of utterances, the best first.

    Attributes:
        utterances: U of them.
        rows: Row of each choice (U, W).
        tokens: Its token (U, W).
        totals: Its total (U, W); -inf where there is no choice.
    """

    utterances: list[int]
    rows: torch.Tensor
    tokens: torch.Tensor
    totals: torch.Tensor


def _best_of(totals: torch.Tensor, utterances: Sequence[int], width: int) -> _Best:
    """The `width` best choices of each utterance, from totals of rows (N, V)."""
    members: dict[int, list[int]] = {}
    for index, utterance in enumerate(utterances):
        members.setdefault(utterance, []).append(index)
    most, vocab_size = max(map(len, members.values())), totals.size(1)
    # Behind the rows, one that is never chosen.
    padded = torch.cat([totals, totals.new_full((1, vocab_size), NOTHING)])
    slots = torch.tensor([[*each, *[len(utterances)] * (most - len(each))] for each in members.values()])
    slots = slots.to(totals.device, non_blocking=True)
    together = padded[slots].flatten(1)  # (U, W V)
    best, places = together.topk(min(width, together.size(1)), dim=1)
    chosen = torch.div(places, vocab_size, rounding_mode="floor")
    return _Best(list(members), slots.gather(1, chosen), places % vocab_size, best)
