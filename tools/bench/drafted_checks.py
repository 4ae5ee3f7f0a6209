"""Drafts along references, and long hypotheses with and without drafts.

Shapes: N rows, V tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from decoding_inputs import Inputs
from drafted_ways import drafts_maker
from llm_ways import Frames, margins_where_parted
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.recognize.drafting import Drafting
from espnet_larm.recognize.output.effort import Effort, Prompts
from espnet_larm.search.drafts import Drafts
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.multi_token import greedy

# Longer than any hypothesis: the end is never allowed before the bound.
NEVER = 10**6


class ReferenceScorer:
    """Makes a search follow texts: the next token of each is the only one with a score. A `Scorer`.

    Args:
        references: Tokens of each row's reference, without the end.
        eos: Token that ends a hypothesis.
    """

    def __init__(self, references: Sequence[Sequence[int]], eos: int) -> None:
        self.rest = [[*reference, eos] for reference in references]

    def combine(self, log_probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Score the reference's next token alone."""
        scores = torch.full_like(log_probs, float("-inf"))
        tokens = torch.tensor([self.rest[row][0] for row in rows.tolist()], device=scores.device)
        return scores.scatter(1, tokens.unsqueeze(1), 0.0)

    def take(self, tokens: torch.Tensor, rows: torch.Tensor) -> None:
        """Go on behind the taken tokens."""
        for token, row in zip(tokens.tolist(), rows.tolist(), strict=True):
            assert token == self.rest[row][0]
            self.rest[row] = self.rest[row][1:]

    def slack(self) -> torch.Tensor:
        """No score rises again (N,)."""
        return torch.zeros(len(self.rest))

    def select(self, rows: torch.Tensor) -> None:
        """Keep some rows."""
        self.rest = [self.rest[row] for row in rows.tolist()]


def along_references(inputs: Inputs, drafting: Drafting) -> Effort:
    """Effort of a verified search whose hypotheses are the references."""
    effort, references = Effort(), inputs.references()
    make = drafts_maker(inputs, drafting)
    for frames in inputs.batches:
        wanted = [references[index] for index in frames.indices]
        found = greedy(
            inputs.decoder.start(frames.hs_pad, frames.hlens),
            # Drafts go beyond the end of a text here as in any search.
            [Bounds(max(len(each), limit)) for each, limit in zip(wanted, frames.most, strict=True)],
            inputs.eos,
            make(frames),
            guards_loops=False,
            scorer=ReferenceScorer(wanted, inputs.eos),
        )
        assert [text.token_ids for text in found.hypotheses] == wanted
        texts = [inputs.texts[index] for index in frames.indices]
        effort = effort.plus(Effort.of(found, found.hypotheses, texts, Prompts()))
    return effort


class Long(NamedTuple):
    """Long hypotheses beside those of greedy search one by one.

    Attributes:
        num_same: Number of equal hypotheses.
        margins: Nats between greedy search's two best tokens where the others part.
    """

    num_same: int
    margins: list[float]


def long_greedy(inputs: Inputs, few: Sequence[Frames], num_tokens: int) -> list[list[int]]:
    """Greedy hypotheses, one by one, that do not end before `num_tokens` or the end of the context.

    Args:
        inputs: Inputs with the LM.
        few: Batches of one utterance.
        num_tokens: Tokens of each hypothesis.
    """
    return [_held_open(inputs, one, num_tokens, None)[0] for one in few]


def long_texts(
    inputs: Inputs, few: Sequence[Frames], num_tokens: int, expected: Sequence[list[int]], drafting: Drafting | None
) -> dict[str, Long]:
    """Compare long hypotheses with drafts, one by one and in a batch, with those of greedy search.

    Args:
        inputs: Inputs of `long_greedy`.
        few: Batches of one utterance, as for `long_greedy`.
        num_tokens: Tokens of each hypothesis, as for `long_greedy`.
        expected: Result of `long_greedy`.
        drafting: Drafts to verify; None for greedy search in a batch alone.
    """
    make = None if drafting is None else drafts_maker(inputs, drafting)
    together = Frames(
        [index for one in few for index in one.indices],
        pad_sequence([one.hs_pad[0] for one in few], batch_first=True),
        torch.cat([one.hlens for one in few]),
        [limit for one in few for limit in one.most],
    )
    found = {"batched": _held_open(inputs, together, num_tokens, make and make(together))}
    if make is not None:
        singly = [_held_open(inputs, one, num_tokens, make(one))[0] for one in few]
        found = {"one by one": singly} | found
    return {
        how: Long(
            sum(left == right for left, right in zip(expected, texts, strict=True)),
            margins_where_parted(inputs.decoder, together, expected, texts, inputs.eos, may_end=False),
        )
        for how, texts in found.items()
    }


def _held_open(inputs: Inputs, frames: Frames, num_tokens: int, drafts: Drafts | None) -> list[list[int]]:
    begun = inputs.decoder.start(frames.hs_pad, frames.hlens)
    room = (inputs.decoder.backbone.max_positions - begun.next_positions).tolist()
    bounds = [Bounds(min(num_tokens, each), NEVER) for each in room]
    found = greedy(begun, bounds, inputs.eos, drafts, guards_loops=False)
    return [text.token_ids for text in found.hypotheses]
