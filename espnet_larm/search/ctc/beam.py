"""CTC prefix beam search on tensors, all utterances of a batch and all their hypotheses at once. It knows no model.

Frame by frame, each hypothesis stays (a blank, or its last token repeated) or grows by a token; a hypothesis that is
reached both ways is one, its probabilities summed. The only loop is over frames. A frame of padding is a certain
blank, which changes no score: a batch gives what each utterance gives alone (test_padding_changes_nothing).
Source: Graves (2012); Hannun et al., arXiv:1408.2873. Departures: hypotheses are told apart by a 64-bit hash of their
tokens instead of by the tokens themselves; two of a beam would meet by chance once in 10^17 searches. Words may be
scored beside it (fusion.py).
Shapes: B utterances, T frames, V tokens, W hypotheses in the beam, L tokens of the longest result.
"""

import copy
from typing import NamedTuple

import torch

from espnet_larm.search.ctc.fusion import Fusion, WordBeam
from espnet_larm.search.ctc.lexicon import NOTHING
from espnet_larm.search.ctc.posteriors import PAD

# An odd multiplier spreads tokens over all 64 bits; integers wrap.
HASH_FACTOR = 6364136223846793005
EMPTY_HASH = 1442695040888963407
STAYS = -1


class CtcNbest(NamedTuple):
    """The best hypotheses of each utterance, best first.

    Attributes:
        tokens: Token ids (B, W, L), PAD after a hypothesis's last.
        lens: Tokens (B, W) of each hypothesis; PAD where the utterance has fewer than W hypotheses.
        scores: Log-probabilities (B, W) of the hypotheses, summed over the alignments that stayed in the beam; -inf
            where there is no hypothesis.
    """

    tokens: torch.Tensor
    lens: torch.Tensor
    scores: torch.Tensor

    def to_lists(self) -> list[list[list[int]]]:
        """Token ids of each hypothesis of each utterance, without padding and absent hypotheses."""
        return [
            [row[:length] for row, length in zip(rows, lens, strict=True) if length != PAD]
            for rows, lens in zip(self.tokens.tolist(), self.lens.tolist(), strict=True)
        ]


class _Beam(NamedTuple):
    """Hypotheses after some frames, (B, W) each.

    Attributes:
        blank: Log-probability of the alignments that end in a blank.
        token: Log-probability of the alignments that end in the last token.
        last: The last token, the blank for the empty hypothesis.
        key: Hash of the tokens.
        parent_key: Hash of the tokens but the last.
    """

    blank: torch.Tensor
    token: torch.Tensor
    last: torch.Tensor
    key: torch.Tensor
    parent_key: torch.Tensor

    def pick(self, rows: torch.Tensor) -> "_Beam":
        """The hypotheses at these places (B, W)."""
        return _Beam(*(field.gather(1, rows) for field in self))


def prefix_beam(
    log_probs: torch.Tensor, lens: torch.Tensor, beam_size: int, blank: int = 0, fusion: Fusion | None = None
) -> CtcNbest:
    """Search.

    Args:
        log_probs: Log-probabilities (B, T, V) of tokens at frames.
        lens: Valid frames (B,), 0 to T.
        beam_size: W, 1 or more. With W large enough to hold every hypothesis the result is exact.
        blank: Id of the blank.
        fusion: What scores words, whose scores are then added to the hypotheses'.

    Raises:
        ValueError: beam_size is below 1.
    """
    search = PrefixSearch(len(log_probs), beam_size, log_probs, blank, fusion)
    search.read(_pad_with_blanks(log_probs, lens, blank))
    return search.found()


class PrefixSearch:
    """A search that reads its frames piece by piece, and can be asked at any time.

    Args:
        num_utterances: B.
        beam_size: W, 1 or more.
        like: A tensor of the type and device of the log-probabilities.
        blank: Id of the blank.
        fusion: What scores words.

    Raises:
        ValueError: beam_size is below 1.
    """

    def __init__(
        self, num_utterances: int, beam_size: int, like: torch.Tensor, blank: int = 0, fusion: Fusion | None = None
    ) -> None:
        if beam_size < 1:
            raise ValueError(f"beam_size is {beam_size}; allowed: 1 or more.")
        self._blank = blank
        self._beam = _start(like, num_utterances, beam_size, blank)
        self._words = None if fusion is None else fusion.begin(num_utterances, beam_size, like.device)
        self._parents: list[torch.Tensor] = []
        self._tokens: list[torch.Tensor] = []

    def copy(self) -> "PrefixSearch":
        """A search that goes on from here by itself."""
        other = copy.copy(self)
        # What it holds is replaced from frame to frame, never written to; numbers of an n-gram's states are shared.
        other._words = copy.copy(self._words)
        other._parents, other._tokens = list(self._parents), list(self._tokens)
        return other

    def read(self, log_probs: torch.Tensor) -> None:
        """Go on by further frames (B, T, V); the same as all frames at once (test_pieces_are_the_whole)."""
        for frame in log_probs.transpose(0, 1).contiguous():  # (T, B, V)
            self._beam, parent, token = _advance(self._beam, frame, self._blank, self._words)
            self._parents.append(parent)
            self._tokens.append(token)

    def found(self) -> CtcNbest:
        """The hypotheses, as if the utterances ended here."""
        scores = torch.logaddexp(self._beam.blank, self._beam.token)
        if self._words is not None:
            scores = scores + self._words.total(scores > NOTHING).to(scores.dtype)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return _trace_back(self._parents, self._tokens, order, scores)


def _pad_with_blanks(log_probs: torch.Tensor, lens: torch.Tensor, blank: int) -> torch.Tensor:
    padded = torch.arange(log_probs.size(1), device=lens.device) >= lens.unsqueeze(1)  # (B, T)
    certain = log_probs.new_full((log_probs.size(2),), NOTHING)
    certain[blank] = 0.0
    return torch.where(padded.unsqueeze(2), certain, log_probs)


def _start(like: torch.Tensor, num_utterances: int, beam_size: int, blank: int) -> _Beam:
    """The empty hypothesis, and W - 1 places that hold none: their keys are their own, their parents nobody's."""
    shape = (num_utterances, beam_size)
    nothing = like.new_full(shape, NOTHING)
    empty = nothing.clone()
    empty[:, 0] = 0.0
    places = torch.arange(beam_size, device=like.device).expand(shape)
    return _Beam(empty, nothing, torch.full_like(places, blank), places + EMPTY_HASH, -1 - places)


def _advance(
    beam: _Beam, frame: torch.Tensor, blank: int, words: WordBeam | None
) -> tuple[_Beam, torch.Tensor, torch.Tensor]:
    """One frame (B, V) further: the new beam, and which hypothesis and token (B, W) each came from."""
    size, width = beam.last.size(1), frame.size(1)
    total = torch.logaddexp(beam.blank, beam.token)
    same = frame.gather(1, beam.last)
    grown = total.unsqueeze(2) + frame.unsqueeze(1)  # (B, W, V)
    # The token that a hypothesis ends in begins anew only after a blank.
    grown.scatter_(2, beam.last.unsqueeze(2), (beam.blank + same).unsqueeze(2))
    grown[:, :, blank] = NOTHING
    stays_blank = total + frame[:, blank].unsqueeze(1)
    stays_token = _merge(beam, total, beam.token + same, grown, blank)
    candidates = torch.cat([torch.logaddexp(stays_blank, stays_token), grown.flatten(1)], dim=1)
    if words is None:
        values, places = candidates.topk(size, dim=1)
    else:
        ranks, places = words.with_words(candidates, frame).topk(size, dim=1)
        values = candidates.gather(1, places).masked_fill(ranks == NOTHING, NOTHING)
    stays = places < size
    grows = (places - size).clamp_min(0)
    parent = torch.where(stays, places, torch.div(grows, width, rounding_mode="floor"))
    token = torch.where(stays, STAYS, grows % width)
    if words is not None:
        words.advance(parent, stays, token, values > NOTHING)
    old = beam._replace(blank=stays_blank, token=stays_token).pick(parent)
    return (
        _Beam(
            blank=old.blank.masked_fill(~stays, NOTHING),
            token=torch.where(stays, old.token, values),
            last=torch.where(stays, old.last, token),
            key=torch.where(stays, old.key, old.key * HASH_FACTOR + token + 1),
            parent_key=torch.where(stays, old.parent_key, old.key),
        ),
        parent,
        token,
    )


def _merge(
    beam: _Beam, total: torch.Tensor, stays_token: torch.Tensor, grown: torch.Tensor, blank: int
) -> torch.Tensor:
    """Give each hypothesis what its parent in the beam grows into it, and take that growth from `grown` (B, W, V)."""
    size, width = grown.shape[1:]
    is_child = (beam.parent_key.unsqueeze(2) == beam.key.unsqueeze(1)) & (total > NOTHING).unsqueeze(2)  # (B, child, W)
    by_token = grown.transpose(1, 2).gather(1, beam.last.unsqueeze(2).expand(-1, -1, size))  # (B, child, W)
    # A parent stands in the beam once: the maximum is its growth, or nothing.
    incoming, parent = by_token.masked_fill(~is_child, NOTHING).max(dim=2)
    taken = torch.where(incoming > NOTHING, parent * width + beam.last, blank)
    grown.view(grown.size(0), -1).scatter_(1, taken, NOTHING)
    return torch.logaddexp(stays_token, incoming)


def _trace_back(
    parents: list[torch.Tensor], tokens: list[torch.Tensor], rows: torch.Tensor, scores: torch.Tensor
) -> CtcNbest:
    """Tokens of the hypotheses at these places (B, W) of the last beam."""
    steps = []
    for parent, token in zip(reversed(parents), reversed(tokens), strict=True):
        steps.append(token.gather(1, rows))
        rows = parent.gather(1, rows)
    path = torch.stack(steps[::-1], dim=2) if steps else rows.new_full((*rows.shape, 0), STAYS)  # (B, W, T)
    grows = (path != STAYS) & (scores > NOTHING).unsqueeze(2)
    lens = grows.sum(dim=2)
    packed = path.new_full((*rows.shape, int(lens.max()) if lens.numel() else 0), PAD)
    packed[torch.arange(packed.size(2), device=lens.device) < lens.unsqueeze(2)] = path[grows]
    return CtcNbest(packed, lens.masked_fill(scores == NOTHING, PAD), scores)
