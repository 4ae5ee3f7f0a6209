"""What both beams keep: the model and what it read last, hypotheses that have ended, the scorer's rows, and counts.

Shapes: U utterances, N rows, L tokens a call, D model size, V tokens.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.hypotheses import Bounds, Ended, TokenHypothesis
from espnet_larm.search.lookahead import NOTHING, Guess, Lookahead, Root, look_ahead
from espnet_larm.search.multi_token import HypothesisModel, Scorer, padded


class Place(NamedTuple):
    """A place behind a token of the last call.

    Attributes:
        row: Row of the call.
        token: Index of the token in its row.
    """

    row: int
    token: int


class Reader:
    """A model, and what it read last. It reads several tokens behind any of the hypotheses that it has read.

    Args:
        model: The model, at the start of its hypotheses.

    Attributes:
        hidden: States (N, L, D) behind the tokens of the last call; at the start behind the prompts, L being 1.
        num_calls: Calls so far, the prefill included.
        num_row_tokens: Tokens of all calls, a prompt being one.
    """

    def __init__(self, model: HypothesisModel) -> None:
        self.model = model
        self.hidden = model.hidden.unsqueeze(1)
        self._lens = torch.ones(len(self.hidden), dtype=torch.long)
        self.num_calls, self.num_row_tokens = 1, len(self.hidden)

    def states(self, places: Sequence[Place]) -> torch.Tensor:
        """States behind tokens of the last call (P, D)."""
        rows, tokens_read = torch.tensor(places).to(self.hidden.device, non_blocking=True).unbind(1)
        return self.hidden[rows, tokens_read]

    def log_probs(self, places: Sequence[Place]) -> torch.Tensor:
        """Log-probabilities of the tokens that follow (P, V)."""
        return self.model.logits_of(self.states(places)).log_softmax(-1)

    def read(self, places: Sequence[Place], tokens: Sequence[Sequence[int]]) -> None:
        """Go on from places of the last call, a row each, with one token or more each."""
        rows, tokens_read = torch.tensor(places).unbind(1)
        num_back = self._lens[rows] - 1 - tokens_read
        hidden = self.states(places)
        self.model.select(rows)
        if bool(num_back.any()):
            self.model.give_back(num_back, hidden)
        together, self._lens = padded(tokens)
        self.hidden = self.model.read(together.to(hidden.device, non_blocking=True), self._lens)
        self.num_calls += 1
        self.num_row_tokens += int(self._lens.sum())


class FoundBeams(NamedTuple):
    """The hypotheses of a beam search, and what it took.

    Attributes:
        hypotheses: N-best of each utterance, the best first.
        num_calls: Calls of the model, the prefill included.
        num_row_calls: Utterances of all calls: the calls if each were decoded alone.
        num_row_tokens: Tokens of all rows of all calls, a prompt being one.
    """

    hypotheses: list[list[TokenHypothesis]]
    num_calls: int
    num_row_calls: int
    num_row_tokens: int


class Beam:
    """What both beams have in common.

    Args:
        model: The model, at the start of its hypotheses, a row an utterance.
        bounds: Bounds of the length of each utterance's hypotheses.
        eos: The token that ends a hypothesis.
        width: W, the hypotheses of an utterance in a beam, 1 or more.
        nbest: Hypotheses to find of each utterance, 1 to W.
        guards_loops: Whether hypotheses that repeat themselves are ended.
        scorer: Scores each token together with the model; None for the model alone.
        measure: The size of a hypothesis, from its tokens, which `Bounds.least` is about.
        lookahead: Guesses the beam's next steps from the model's states; None for a token a call.
        string_of: The string that tokens spell; of hypotheses that spell the same, the best one is found.
    """

    def __init__(
        self,
        model: HypothesisModel,
        bounds: Sequence[Bounds],
        eos: int,
        width: int,
        nbest: int = 1,
        guards_loops: bool = True,
        scorer: Scorer | None = None,
        measure: Callable[[list[int]], int] = len,
        lookahead: Lookahead | None = None,
        string_of: Callable[[list[int]], Hashable] = tuple,
    ) -> None:
        assert 1 <= nbest <= width
        self.reader = Reader(model)
        self.eos, self.width, self.scorer, self.lookahead, self.string_of = eos, width, scorer, lookahead, string_of
        self.hypotheses = [TokenHypothesis(one, guards_loops, measure) for one in bounds]
        self.ended = [Ended(nbest, string_of) for _ in bounds]
        self.num_row_calls = 0
        # Of the scorer's rows, as long as they stay; None where they went on since it was asked.
        self._slack: list[float] | None = None

    def scores(self, places: Sequence[Place], rows: Sequence[int]) -> torch.Tensor:
        """Scores of the tokens (P, V) behind places, with the scorer's rows there."""
        scores = self.reader.log_probs(places)
        return scores if self.scorer is None else self.scorer.combine(scores, torch.tensor(rows))

    def slack(self, num_rows: int) -> list[float]:
        """By how much the score of each of the scorer's rows may rise again."""
        if self.scorer is None:
            return [0.0] * num_rows
        if self._slack is None:
            self._slack = self.scorer.slack().tolist()
        return self._slack

    def keep(self, rows: Sequence[int], tokens: Sequence[int | None] = ()) -> None:
        """Keep these of the scorer's rows, in this order, each with its next token; None waits for one."""
        if self.scorer is None or not rows:
            return
        self.scorer.select(torch.tensor(rows))
        self._slack = None if self._slack is None else [self._slack[row] for row in rows]
        taken = [(place, token) for place, token in enumerate(tokens) if token is not None]
        if taken:
            self._slack = None
            self.scorer.take(torch.tensor([token for _, token in taken]), torch.tensor([place for place, _ in taken]))

    def grow(
        self, utterance: int, before: TokenHypothesis, token: int, score: float, end_score: float
    ) -> TokenHypothesis | None:
        """A copy of a hypothesis with a token more; None if it ends with that, and is kept among those that have."""
        hypothesis = before.copy()
        if hypothesis.add(token, score, end_score, self.eos):
            return hypothesis
        self.ended[utterance].add(hypothesis)
        return None

    def guesses(self, roots: Sequence[Root], places: Sequence[Place]) -> list[Guess]:
        """The roots, and guesses of how they go on, from the states that their last tokens were chosen from."""
        if self.lookahead is None:
            return [Guess(index, (), root.score, (root.scored,)) for index, root in enumerate(roots)]
        # The scorer gets rows of guesses.
        self._slack = None
        log_probs = self.lookahead.logits_of(self.reader.states(places)).log_softmax(-1)
        return look_ahead(roots, log_probs, self.width, self.eos, self.lookahead.least, self.scorer)

    def found(self) -> FoundBeams:
        """The N-best of each utterance, and the counts.

        Raises:
            ValueError: An utterance has none.
        """
        found = [each.best() for each in self.ended]
        if not all(found):
            raise ValueError(
                "a beam found no hypothesis, since the LM's scores are no numbers: its weights are broken, or float16 "
                "overflows (take --dtype bfloat16 or float32)."
            )
        return FoundBeams(found, self.reader.num_calls, self.num_row_calls, self.reader.num_row_tokens)


class WithinBounds(NamedTuple):
    """What hypotheses may go on with.

    Attributes:
        scores: Scores (N, V), -inf for what is not allowed: a hypothesis ends at its bound, and not before its least
            size.
        wants_end: Whether an end was the best token before that (N,).
        may_end: Whether each hypothesis is long enough to end, known on the CPU.
    """

    scores: torch.Tensor
    wants_end: torch.Tensor
    may_end: list[bool]


def within_bounds(scores: torch.Tensor, hypotheses: Sequence[TokenHypothesis], eos: int) -> WithinBounds:
    """What is allowed of scores (N, V)."""
    may_end = [hypothesis.may_end for hypothesis in hypotheses]
    full = [row for row, hypothesis in enumerate(hypotheses) if hypothesis.room == 0]
    early = [row for row, may in enumerate(may_end) if not may]
    allowed = scores.clone()
    if early:
        allowed[torch.tensor(early).to(scores.device, non_blocking=True), eos] = NOTHING
    if full:
        rows = torch.tensor(full).to(scores.device, non_blocking=True)
        own = scores[rows]
        # Whatever the best token is, an end is what it costs.
        best = own.argmax(1, keepdim=True)
        allowed[rows] = torch.full_like(own, NOTHING).scatter_(1, best, own[:, eos].unsqueeze(1))
    return WithinBounds(allowed, scores.argmax(-1) == eos, may_end)


def mark_held_open(hypotheses: Sequence[TokenHypothesis], wants_end: Sequence[bool], may_end: Sequence[bool]) -> None:
    """Mark hypotheses whose best token was an end that came too early."""
    for hypothesis, wants, may in zip(hypotheses, wants_end, may_end, strict=True):
        hypothesis.was_held_open |= wants and not may
