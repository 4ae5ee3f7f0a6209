"""A word n-gram, a lexicon and hotwords in CTC's prefix beam.

A hypothesis's score is its CTC log-probability plus weight * log10 of the n-gram's probability of its words, plus a
bonus a word, less a penalty a word that the n-gram does not know, plus a bonus a hotword. A word is scored when the
next one begins or the utterance ends. Until then hypotheses are compared with the best score, without context, of the
words that begin as theirs does, so that a long word does not look better than two short ones.
Sources: Graves and Jaitly (ICML 2014) and Hannun et al., arXiv:1408.2873, for words in prefix beams; Collobert et al.,
arXiv:1609.03193, for a lexicon's tree with the best score below each node. Departure: each spelling of a word in tokens
counts, and all hypotheses of a batch are scored at once; only words that end are asked of the n-gram, one by one.
Shapes: B utterances, W hypotheses in the beam, V tokens, K tokens of a frame that may be added.
"""

from collections.abc import Collection, Hashable
from typing import Any, NamedTuple

import torch

from espnet_larm.search.ctc.lexicon import NO_WORD, NOTHING, ROOT, UNKNOWN, Lexicon
from espnet_larm.search.fetch import fetch
from espnet_larm.search.ngram_scorer import Ngram

# Tokens of a frame that may be added to hypotheses, the best by CTC.
NUM_CANDIDATES = 40


class Weights(NamedTuple):
    """Weights of a fusion.

    Attributes:
        ngram: Weight of the n-gram's logarithms to base 10.
        word_bonus: Added for each word.
        oov_penalty: Taken off for each word that the n-gram, or a lexicon without one, does not know.
        hotword: Added for each hotword.
    """

    ngram: float = 0.0
    word_bonus: float = 0.0
    oov_penalty: float = 0.0
    hotword: float = 0.0


class Fusion(NamedTuple):
    """What scores the words of a prefix beam. It holds nothing of a search.

    Attributes:
        lexicon: The words.
        ngram: Probabilities of words, by their index in the lexicon; the two numbers behind the last word stand for an
            unknown word and for the end. None for hotwords and lexicon alone.
        weights: Weights of the terms.
        hotwords: Indices of words with a bonus.
        unknown_words: Indices of words that the n-gram does not know.
        is_open: Whether there may be words that the lexicon does not have.
    """

    lexicon: Lexicon
    ngram: Ngram | None
    weights: Weights
    hotwords: Collection[int] = ()
    unknown_words: Collection[int] = ()
    is_open: bool = True

    def begin(self, batch_size: int, beam_size: int, device: torch.device) -> "WordBeam":
        """The words of empty hypotheses (B, W)."""
        return WordBeam(self, batch_size, beam_size, device)


class WordBeam:
    """The words of a beam's hypotheses, (B, W) each.

    Attributes:
        base: Score of the words that have ended.
        node: Node of the lexicon that the letters since then lead to.
        state: Number of the n-gram's state behind the words that have ended.
        end: What the score gains if the word ends here.
        after: Number of the n-gram's state if it does.
    """

    def __init__(self, fusion: Fusion, batch_size: int, beam_size: int, device: torch.device) -> None:
        self.fusion = fusion
        self.lexicon = fusion.lexicon.to(device)
        self._states: list[Hashable] = [None if fusion.ngram is None else fusion.ngram.start()]
        self._numbers: dict[Hashable, int] = {self._states[0]: 0}
        self._ends: dict[tuple[int, int], tuple[float, int]] = {}
        shape = batch_size, beam_size
        self.base = torch.zeros(shape, device=device)
        self.end = torch.zeros(shape, device=device)
        self.node = torch.full(shape, ROOT, device=device)
        self.state = torch.zeros(shape, dtype=torch.long, device=device)
        self.after = torch.zeros(shape, dtype=torch.long, device=device)

    def with_words(self, candidates: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """The scores by which hypotheses are compared.

        Args:
            candidates: CTC log-probabilities (B, W + W * V) of hypotheses that stay, and of each with each token.
            frame: Log-probabilities of the frame's tokens (B, V).

        Returns:
            (B, W + W * V); -inf where a word is ruled out, or the token is not among the frame's best.
        """
        size, width = self.node.size(1), frame.size(1)
        ranked = torch.full_like(candidates, NOTHING)
        ranked[:, :size] = candidates[:, :size] + (self.base + self.lexicon.best[self.node]).to(candidates.dtype)
        tokens = frame.topk(min(NUM_CANDIDATES, width), dim=1).indices.unsqueeze(1).expand(-1, size, -1)  # (B, W, K)
        base = self._base_with(tokens)
        more = base + self.lexicon.best[self.lexicon.step(self.node.unsqueeze(2), tokens)]
        places = size + torch.arange(size, device=frame.device).view(1, -1, 1) * width + tokens
        places = places.flatten(1)
        return ranked.scatter_(1, places, candidates.gather(1, places) + more.flatten(1).to(candidates.dtype))

    def advance(self, parent: torch.Tensor, stays: torch.Tensor, token: torch.Tensor, is_there: torch.Tensor) -> None:
        """Follow the hypotheses that were chosen.

        Args:
            parent: Index of the hypothesis (B, W) that each came from.
            stays: Whether it has its parent's tokens (B, W).
            token: The token that it has more (B, W); any number where it stays.
            is_there: Whether there is such a hypothesis (B, W).
        """
        base, end, node, state, after = (
            field.gather(1, parent) for field in (self.base, self.end, self.node, self.state, self.after)
        )
        token = token.clamp(min=0)
        ends = ~stays & self.lexicon.starts[token]
        self.base = torch.where(ends, base + end, base)
        self.state = torch.where(ends, after, state)
        self.node = torch.where(stays, node, self.lexicon.step(node, token))
        self.end, self.after = end, after
        grown = ~stays & is_there
        rows = list(zip(*fetch(*(each.flatten() for each in (grown, self.state, self.node))), strict=True))
        places = [place for place, (has_grown, _, _) in enumerate(rows) if has_grown]
        if not places:
            return
        found = [self._end_of(*rows[place][1:]) for place in places]
        scores, numbers = zip(*found, strict=True)
        there, of_words, after_words = (
            torch.tensor(each).to(end.device, non_blocking=True) for each in (places, scores, numbers)
        )
        self.end.view(-1)[there], self.after.view(-1)[there] = of_words, after_words

    def total(self, is_there: torch.Tensor) -> torch.Tensor:
        """Score of all words (B, W), the last ones and the ends of the utterances among them.

        An utterance none of whose hypotheses may end here, by the lexicon, is scored without its last word.

        Args:
            is_there: Whether there is such a hypothesis (B, W).
        """
        ended = self.base + self.end
        may_end = ((ended > NOTHING) & is_there).any(1, keepdim=True)
        ngram, weight = self.fusion.ngram, self.fusion.weights.ngram
        if ngram is not None:
            number = len(self.lexicon.words) + 1
            ends = [0.0] * len(self._states)
            for each in set(self.after.flatten().tolist()):
                ends[each] = weight * ngram.score(self._states[each], number)[0]
            ended = ended + torch.tensor(ends).to(ended.device, non_blocking=True)[self.after]
        return torch.where(may_end, ended, self.base)

    def _base_with(self, tokens: torch.Tensor) -> torch.Tensor:
        """The score of ended words (B, W, K) with each token (B, W, K) more."""
        base = self.base.unsqueeze(2)
        return torch.where(self.lexicon.starts[tokens], base + self.end.unsqueeze(2), base)

    def _end_of(self, state: int, node: int) -> tuple[float, int]:
        """What a word's end adds, and the number of the state after it."""
        known = self._ends.get((state, node))
        if known is None:
            known = self._ends[state, node] = self._ask(state, node)
        return known

    def _ask(self, state: int, node: int) -> tuple[float, int]:
        if node == ROOT:
            return 0.0, state
        fusion, weights = self.fusion, self.fusion.weights
        word = NO_WORD if node == UNKNOWN else self.lexicon.word_of[node]
        if word == NO_WORD and not fusion.is_open:
            return NOTHING, state
        score = weights.word_bonus
        if word in fusion.hotwords:
            score += weights.hotword
        elif word == NO_WORD or word in fusion.unknown_words:
            score -= weights.oov_penalty
        if fusion.ngram is None:
            return score, state
        number = len(self.lexicon.words) if word == NO_WORD or word in fusion.unknown_words else word
        log10, after = fusion.ngram.score(self._states[state], number)
        return score + weights.ngram * log10, self._number_of(after)

    def _number_of(self, state: Any) -> int:
        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = len(self._states)
            self._states.append(state)
        return number
