"""Greedy search, one or several tokens a call, in batches whose rows end and accept drafts as they can.

One call of the model reads each text's last token and a draft of the next ones. Then greedy steps are replayed on what
it said. Verified, a text goes on along its draft as long as the draft is greedy search's own choice, so that the texts
are greedy search's, and what is chosen where the draft ends or errs comes from the same call: never a second one.
Unverified, all that is drafted is taken, which is what a threshold on its probabilities is for: faster, and not the
same words. Without drafts it is greedy search.
A second opinion (`Adviser`, such as a CTC head) may be heard on each token. Nothing else of the model is known here.
Source: Raj et al., arXiv:2409.08148, verification- and threshold-based decoding.
Shapes: N rows still running, L tokens a call, D model size, V tokens.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from espnet_larm.search.drafts import Drafts, NoDrafts
from espnet_larm.search.hypotheses import Bounds, Text, hold_open


class TextModel(Protocol):
    """A batch of texts that an autoregressive model has begun.

    Attributes:
        hidden: State (N, D) that the next token of each row is predicted from.
    """

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
        """Keep these rows (N',), on the CPU, in this order."""
        ...


class Adviser(Protocol):
    """A second opinion on the next token of rows, which go on one token at a time and not all of them each time."""

    def combine(self, log_probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The model's log-probabilities of rows (N', V) and its own as one score a token; -inf for what is ruled out.

        Args:
            log_probs: Of the rows.
            rows: Which (N',), on the CPU.
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


class Found(NamedTuple):
    """What was found, and what it took.

    Attributes:
        texts: Of each row.
        num_calls: Calls of the model, the prefill included.
        num_row_calls: Rows of all calls: what the calls would be one utterance at a time.
        num_row_tokens: Tokens of all rows of all calls, drafts included, a prompt being one.
        proposed: How often a row's call had 0, 1, ... drafted tokens.
        accepted: How often it took 0, 1, ... of them.
    """

    texts: list[Text]
    num_calls: int
    num_row_calls: int
    num_row_tokens: int
    proposed: Counter[int]
    accepted: Counter[int]


@torch.no_grad()
def greedy(
    model: TextModel,
    bounds: Sequence[Bounds],
    eos: int,
    drafts: Drafts | None = None,
    verifies: bool = True,
    guards_loops: bool = True,
    adviser: Adviser | None = None,
    measure: Callable[[list[int]], int] = len,
) -> Found:
    """Take the best token until it is the end.

    Args:
        model: At the start of its texts.
        bounds: Of the length of each row's text.
        eos: The token that ends a text.
        drafts: Of the model's rows; none by default.
        verifies: Whether a draft is taken only as far as it is what greedy search chooses.
        guards_loops: End texts that repeat themselves.
        adviser: Is heard on each token; scores are then its own.
        measure: The size of a text, from its tokens, which `Bounds.least` is about.

    Returns:
        Texts by row, in the order of the model's rows at the start.
    """
    source = drafts or NoDrafts()
    replay = _Replay(eos, verifies, adviser)
    texts = [Text(one, guards_loops, measure) for one in bounds]
    running, hidden = texts, model.hidden.unsqueeze(1)  # (N, L, D)
    proposed: list[list[int]] = [[] for _ in texts]
    found = Found(texts, 1, len(texts), len(texts), Counter(), Counter())
    while True:
        taken = replay(model.logits_of(hidden), running, proposed)
        found.proposed.update(map(len, proposed))
        found.accepted.update(taken)
        if any(proposed):
            last, rows = torch.tensor(taken), torch.arange(len(taken))
            num_back = torch.tensor([len(draft) for draft in proposed]) - last
            model.give_back(num_back, hidden[rows.to(hidden.device), last.to(hidden.device)])
        going = [row for row, text in enumerate(running) if text.ending is None]
        if not going:
            return found
        if len(going) < len(running):
            running, kept = [running[row] for row in going], torch.tensor(going)
            model.select(kept)
            source.select(kept)
            if adviser is not None:
                adviser.select(kept)
        proposed = [
            draft[: text.bounds.most - len(text.token_ids)]
            for draft, text in zip(source.propose(model.hidden, running), running, strict=True)
        ]
        tokens, num_new = padded([[text.token_ids[-1], *draft] for text, draft in zip(running, proposed, strict=True)])
        hidden = model.read(tokens.to(hidden.device), num_new)
        found = found._replace(
            num_calls=found.num_calls + 1,
            num_row_calls=found.num_row_calls + len(running),
            num_row_tokens=found.num_row_tokens + int(num_new.sum()),
        )


class _Replay:
    """Greedy steps on what a model said of drafts; arguments as those of `greedy`."""

    def __init__(self, eos: int, verifies: bool, adviser: Adviser | None) -> None:
        self.eos = eos
        self.verifies = verifies
        self.adviser = adviser

    def __call__(self, logits: torch.Tensor, texts: Sequence[Text], drafts: Sequence[Sequence[int]]) -> list[int]:
        """Go on with each text until its draft ends or errs; how many drafted tokens each took.

        Args:
            logits: Behind each text, and behind each of its drafted tokens (N, L, V).
            texts: The rows.
            drafts: Of each.
        """
        taken, rows, place = [0] * len(texts), list(range(len(texts))), 0
        while rows:
            tokens = self._step(logits[:, place], texts, drafts, rows, place)
            going = [row for row in rows if texts[row].ending is None]
            if self.adviser is not None and going:
                self.adviser.take(torch.tensor([tokens[row] for row in going]), torch.tensor(going))
            drafted = [row for row in rows if place < len(drafts[row]) and tokens[row] == drafts[row][place]]
            for row in drafted:
                taken[row] += 1
            rows, place = [row for row in drafted if texts[row].ending is None], place + 1
        return taken

    def _step(
        self,
        logits: torch.Tensor,
        texts: Sequence[Text],
        drafts: Sequence[Sequence[int]],
        rows: Sequence[int],
        place: int,
    ) -> dict[int, int]:
        """Give rows their next tokens, from logits of all rows (N, V)."""
        there = torch.tensor(rows)
        own = logits if len(rows) == len(texts) else logits[there.to(logits.device)]
        scores = own.log_softmax(-1)
        if self.adviser is not None:
            scores = self.adviser.combine(scores, there)
        chosen = self._choose(scores, [texts[row] for row in rows], [drafts[row][place : place + 1] for row in rows])
        both = torch.tensor([[token, self.eos] for token in chosen], device=scores.device)
        for row, token, (score, end) in zip(rows, chosen, scores.gather(1, both).tolist(), strict=True):
            texts[row].add(token, score, end, self.eos)
        return dict(zip(rows, chosen, strict=True))

    def _choose(self, scores: torch.Tensor, texts: list[Text], drafted: list[Sequence[int]]) -> list[int]:
        """The next token of rows, from scores (N', V): what greedy search takes, or unverified what is drafted."""
        if self.verifies:
            found: list[int] = hold_open(scores, texts, self.eos).argmax(-1).tolist()
            return found
        fixed = scores.clone()
        for row, draft in enumerate(drafted):
            if draft:
                # As if nothing else came near; an end that comes too early leaves the others as they are.
                fixed[row, draft[0]] = float("inf")
        taken: list[int] = hold_open(fixed, texts, self.eos).argmax(-1).tolist()
        return taken


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N, L), and how many are valid (N,)."""
    num_new = torch.tensor([len(row) for row in rows])
    longest = int(num_new.max())
    return torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows]), num_new
