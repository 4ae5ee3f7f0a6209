"""Greedy search, one or several tokens a call, in batches whose rows end and accept drafts as they can.

One call of the model reads each hypothesis's last token and a draft of the next ones. Then greedy steps are replayed on
its probabilities. Verified, a hypothesis follows its draft as long as the draft is greedy search's own choice, so that
the result is greedy search's, and the token that is chosen where the draft ends or errs comes from the same call: never
from a second one. Unverified, the whole draft is taken, which is what a threshold on its probabilities is for: faster,
and other words. Without drafts it is greedy search. A search may also begin with a whole hypothesis of somebody else's,
as far as the model believes its tokens (`Opening`), and goes on behind them.
A `Scorer`, such as a CTC head, may score each token too. Nothing else of the model is known here.
Source: Raj et al., arXiv:2409.08148, verification- and threshold-based decoding; of the opening Saon et al.,
arXiv:2603.11243, whose acceptance by likelihood it is.
Shapes: N rows still running, L tokens a call, P of all rows together, D model size, V tokens.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from espnet_larm.search.drafts import Drafts, NoDrafts
from espnet_larm.search.hypotheses import Bounds, TokenHypothesis, choose


class HypothesisModel(Protocol):
    """A batch of hypotheses that an autoregressive model has begun.

    Attributes:
        hidden: State (N, D) that the next token of each row is predicted from.
    """

    hidden: torch.Tensor

    def read(self, tokens: torch.Tensor, num_new: torch.Tensor) -> torch.Tensor:
        """Go on with tokens (N, L), of which num_new (N,) are valid; the hidden states after each (N, L, D)."""
        ...

    def logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, (..., D) to (..., V)."""
        ...

    def give_back(self, num_tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        """Forget the last tokens (N,) of each row; `hidden` (N, D) is of the position that is the last then."""
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), on the CPU, in this order."""
        ...


class Scorer(Protocol):
    """Scores the next token of rows together with a model. Rows go on by a token at a time, not all each time."""

    def combine(self, log_probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Combine the model's log-probabilities of rows (N', V) with its own scores; -inf for what is ruled out.

        Args:
            log_probs: The model's log-probabilities.
            rows: Indices of the rows (N',), on the CPU.
        """
        ...

    def take(self, tokens: torch.Tensor, rows: torch.Tensor) -> None:
        """Rows (N'), of those last asked about, go on with tokens (N',), none of them the end."""
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (N',), on the CPU, in this order, some perhaps several times."""
        ...

    def slack(self) -> torch.Tensor:
        """By how much the score of each row (N,) may rise again at most: 0 where scores only fall."""
        ...


class Opening(NamedTuple):
    """Hypotheses that a search takes over, as far as its model believes them, before it chooses tokens of its own.

    Attributes:
        drafts: The tokens of each row's hypothesis, its end included.
        least: The probability that the model must exceed for a token; at 0 it takes all tokens, at 1 none.
    """

    drafts: Sequence[Sequence[int]]
    least: float


class Found(NamedTuple):
    """The hypotheses of a greedy search, and what it took.

    Attributes:
        hypotheses: The hypothesis of each row.
        num_calls: Calls of the model, the prefill included.
        num_row_calls: Rows of all calls: the calls if each were decoded alone.
        num_row_tokens: Tokens of all rows of all calls, drafts included, a prompt being one.
        proposed: How often a row's call had 0, 1, ... drafted tokens; an opening is not counted.
        accepted: How often it took 0, 1, ... of them.
        num_whole: Rows that took the whole of their opening.
    """

    hypotheses: list[TokenHypothesis]
    num_calls: int
    num_row_calls: int
    num_row_tokens: int
    proposed: Counter[int]
    accepted: Counter[int]
    num_whole: int = 0


@torch.no_grad()
def greedy(
    model: HypothesisModel,
    bounds: Sequence[Bounds],
    eos: int,
    drafts: Drafts | None = None,
    verifies: bool = True,
    guards_loops: bool = True,
    scorer: Scorer | None = None,
    measure: Callable[[list[int]], int] = len,
    opening: Opening | None = None,
) -> Found:
    """Take the best token until it is the end.

    Args:
        model: The model, at the start of its hypotheses.
        bounds: Bounds of the length of each row's hypothesis.
        eos: The token that ends a hypothesis.
        drafts: A source of drafts; None for none.
        verifies: Whether a draft is taken only as far as it is what greedy search chooses.
        guards_loops: Whether hypotheses that repeat themselves are ended.
        scorer: Scores each token together with the model; None for the model alone.
        measure: The size of a hypothesis, from its tokens, which `Bounds.least` is about.
        opening: What each hypothesis begins with, read in one call; None for nothing.

    Returns:
        The hypotheses by row, in the order of the model's rows at the start.
    """
    source = drafts or NoDrafts()
    replay = _Replay(eos, verifies, scorer)
    hypotheses = [TokenHypothesis(one, guards_loops, measure) for one in bounds]
    running, hidden = hypotheses, model.hidden.unsqueeze(1)  # (N, L, D)
    proposed: list[list[int]] = [[] for _ in hypotheses]
    found = Found(hypotheses, 1, len(hypotheses), len(hypotheses), Counter(), Counter())
    if opening is not None:
        proposed = _within_bounds(opening.drafts, running)
        if any(proposed):
            states, found = _read(model, proposed, found)
            hidden = torch.cat([hidden, states], dim=1)
    least = None if opening is None else opening.least
    while True:
        # Of padding, nothing is asked.
        starts = torch.tensor([len(draft) + 1 for draft in proposed]).cumsum(0)
        is_read = torch.arange(hidden.size(1)) < starts.diff(prepend=starts.new_zeros(1)).unsqueeze(1)
        # Places, not a mask: a GPU would be waited for until it has counted them.
        rows_read, places_read = is_read.nonzero().to(hidden.device, non_blocking=True).unbind(1)
        logits = model.logits_of(hidden[rows_read, places_read])
        taken = replay(logits, [0, *starts.tolist()], running, proposed, least)
        if least is None:
            found.proposed.update(map(len, proposed))
            found.accepted.update(taken)
        else:
            whole = [number == len(draft) for number, draft in zip(taken, proposed, strict=True)]
            found, least = found._replace(num_whole=sum(whole)), None
        if any(proposed):
            last, places = torch.tensor(taken), torch.arange(len(taken))
            num_back = torch.tensor([len(draft) for draft in proposed]) - last
            places, last = (each.to(hidden.device, non_blocking=True) for each in (places, last))
            model.give_back(num_back, hidden[places, last])
        going = [row for row, hypothesis in enumerate(running) if hypothesis.ending is None]
        if not going:
            return found
        if len(going) < len(running):
            running, kept = [running[row] for row in going], torch.tensor(going)
            model.select(kept)
            source.select(kept)
            if scorer is not None:
                scorer.select(kept)
        proposed = _within_bounds(source.propose(model.hidden, running), running)
        rows = [[hypothesis.token_ids[-1], *draft] for hypothesis, draft in zip(running, proposed, strict=True)]
        hidden, found = _read(model, rows, found)


def _within_bounds(drafts: Sequence[Sequence[int]], hypotheses: Sequence[TokenHypothesis]) -> list[list[int]]:
    return [
        list(draft[: hypothesis.bounds.most - len(hypothesis.token_ids)])
        for draft, hypothesis in zip(drafts, hypotheses, strict=True)
    ]


def _read(model: HypothesisModel, rows: Sequence[Sequence[int]], found: Found) -> tuple[torch.Tensor, Found]:
    """The states (N, L, D) after each row's tokens, which one call reads, and the counts with this call."""
    tokens, num_new = padded(rows)
    hidden = model.read(tokens.to(model.hidden.device, non_blocking=True), num_new)
    return hidden, found._replace(
        num_calls=found.num_calls + 1,
        num_row_calls=found.num_row_calls + len(rows),
        num_row_tokens=found.num_row_tokens + int(num_new.sum()),
    )


class _Replay:
    """Greedy steps on a model's logits behind drafts; the arguments are those of `greedy`."""

    def __init__(self, eos: int, verifies: bool, scorer: Scorer | None) -> None:
        self.eos = eos
        self.verifies = verifies
        self.scorer = scorer

    def __call__(
        self,
        logits: torch.Tensor,
        starts: Sequence[int],
        hypotheses: Sequence[TokenHypothesis],
        drafts: Sequence[Sequence[int]],
        least: float | None = None,
    ) -> list[int]:
        """Go on with each hypothesis until its draft ends or errs; how many drafted tokens each took.

        Args:
            logits: Logits behind each hypothesis and behind each of its drafted tokens, row by row (P, V).
            starts: Where those of each row begin.
            hypotheses: The rows.
            drafts: The draft of each.
            least: The probability above which a drafted token is taken (`Opening.least`); None as `verifies` says.
        """
        taken, rows, place = [0] * len(hypotheses), list(range(len(hypotheses))), 0
        while rows:
            there = torch.tensor([starts[row] + place for row in rows])
            own = logits if len(rows) == len(logits) else logits[there.to(logits.device, non_blocking=True)]
            tokens = self._step(own, hypotheses, drafts, rows, place, least)
            going = [row for row in rows if hypotheses[row].ending is None]
            if self.scorer is not None and going:
                self.scorer.take(torch.tensor([tokens[row] for row in going]), torch.tensor(going))
            drafted = [row for row in rows if place < len(drafts[row]) and tokens[row] == drafts[row][place]]
            for row in drafted:
                taken[row] += 1
            rows, place = [row for row in drafted if hypotheses[row].ending is None], place + 1
        return taken

    def _step(
        self,
        logits: torch.Tensor,
        hypotheses: Sequence[TokenHypothesis],
        drafts: Sequence[Sequence[int]],
        rows: Sequence[int],
        place: int,
        least: float | None,
    ) -> dict[int, int]:
        """Give rows their next tokens, from their logits (N', V)."""
        scores = logits.log_softmax(-1)
        if self.scorer is not None:
            scores = self.scorer.combine(scores, torch.tensor(rows))
        wanted = self._wanted(scores, [drafts[row][place : place + 1] for row in rows], least)
        chosen = choose(wanted, scores, [hypotheses[row] for row in rows], self.eos)
        for row, choice in zip(rows, chosen, strict=True):
            hypotheses[row].add(*choice, self.eos)
        return {row: choice.token for row, choice in zip(rows, chosen, strict=True)}

    def _wanted(self, scores: torch.Tensor, drafted: list[Sequence[int]], least: float | None) -> torch.Tensor:
        """How much tokens are wanted, from their scores (N', V); unverified, what is drafted is wanted most."""
        if self.verifies and least is None:
            return scores
        rows = torch.tensor([row for row, draft in enumerate(drafted) if draft], dtype=torch.long)
        tokens = torch.tensor([token for draft in drafted for token in draft], dtype=torch.long)
        places = rows.to(scores.device, non_blocking=True), tokens.to(scores.device, non_blocking=True)
        fixed = torch.full_like(scores[places], math.inf)
        if least is not None:
            is_believed = scores[places] > (math.log(least) if least > 0.0 else -math.inf)
            fixed = torch.where(is_believed, fixed, scores[places])
        # As if nothing else came near; an end that comes too early leaves the others as they are.
        return scores.index_put(places, fixed)


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N, L), and how many are valid (N,)."""
    num_new = torch.tensor([len(row) for row in rows])
    longest = int(num_new.max())
    return torch.tensor([[*row, *list(row[-1:] or [0]) * (longest - len(row))] for row in rows]), num_new
