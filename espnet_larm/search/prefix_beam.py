"""Prefix beam search: hypotheses of different lengths, extended by one to K tokens a call.

A call reads W beginnings (prefixes) of each utterance, each to its end, so that afterwards the LM's own probabilities
are known behind every one of their tokens. From all those places the search goes on: with the tokens that the LM finds
best there, and behind them with what draft heads guess. Prefixes of different lengths are compared by their score a
token; W of them are read by the next call, in which the LM itself scores the guesses of heads. Scores of the N-best
are therefore the LM's, as if each had been read by it in one batch (test_scores_are_the_lms_own).
Source: Raj et al., arXiv:2409.08148, whose prefix-based beam search is known from its abstract alone. Departure: what
heads guess is scored by the LM call by call, where the final N-best alone could be; that costs no call.
Shapes: U utterances, N rows, W prefixes an utterance at most, K tokens a call, V tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.search.bookkeeping import Beam, FoundBeams, Place, mark_held_open, within_bounds
from espnet_larm.search.fetch import fetch
from espnet_larm.search.hypotheses import Bounds, TokenHypothesis
from espnet_larm.search.lookahead import NOTHING, Guess, Root
from espnet_larm.search.multi_token import HypothesisModel
from espnet_larm.search.pruning import merge, prune, rank

# So many times the beam's width of choices are looked at, since some of them spell the same.
MORE = 2


class _Node(NamedTuple):
    """A hypothesis that the model has read to its end.

    Attributes:
        utterance: Index of its utterance.
        hypothesis: The hypothesis.
        place: The place where it was read.
        scored: The scorer's row of it.
        bonus: Log-probability that merged strings have added.
    """

    utterance: int
    hypothesis: TokenHypothesis
    place: Place
    scored: int
    bonus: float = 0.0


class _Leaf(NamedTuple):
    """A prefix that is read next.

    Attributes:
        node: Index of the node that it continues.
        hypothesis: The node's with one token more, which the LM has chosen.
        tokens: The tokens that are guessed behind it.
        scored: The scorer's rows of the hypothesis and behind each token.
        bonus: Log-probability that merged strings have added.
    """

    node: int
    hypothesis: TokenHypothesis
    tokens: tuple[int, ...]
    scored: tuple[int, ...]
    bonus: float


class _Known(NamedTuple):
    """What is known on the CPU of the tokens behind S nodes.

    Attributes:
        end_scores: Score of an end (S).
        end_totals: Total of an end (S); -inf where it is not allowed.
        best: The W best totals (S, W).
        values: The best totals without ends and what was read (S, M).
        tokens: Their tokens (S, M).
        scores: Their scores (S, M).
    """

    end_scores: list[float]
    end_totals: list[float]
    best: list[list[float]]
    values: list[list[float]]
    tokens: list[list[int]]
    scores: list[list[float]]


@torch.no_grad()
def prefix_beam(
    model: HypothesisModel, bounds: Sequence[Bounds], eos: int, width: int, *rest: Any, **options: Any
) -> FoundBeams:
    """Search the N-best hypotheses of each utterance, which may differ in length. Arguments are those of `Beam`.

    Prefixes that spell the same (`string_of`) are merged: the best one goes on, compared by the probability of all.
    """
    return _Search(model, bounds, eos, width, *rest, **options)()


class _Search(Beam):
    """The prefix beam."""

    def __call__(self) -> FoundBeams:
        nodes = [_Node(index, each, Place(index, 0), index) for index, each in enumerate(self.hypotheses)]
        scores = self.scores([node.place for node in nodes], [node.scored for node in nodes])
        self.num_row_calls = len(nodes)
        while leaves := self._leaves(nodes, scores):
            utterances = [nodes[leaf.node].utterance for leaf in leaves]
            self.num_row_calls += len(set(utterances))
            self.reader.read(
                [nodes[leaf.node].place for leaf in leaves],
                [[leaf.hypothesis.token_ids[-1], *leaf.tokens] for leaf in leaves],
            )
            nodes, scores = self._walk(leaves, utterances)
        return self.found()

    def _walk(self, leaves: Sequence[_Leaf], utterances: Sequence[int]) -> tuple[list[_Node], torch.Tensor]:
        """The nodes that were read of leaves, each once, and the scores of the tokens behind them (S, V)."""
        spots: dict[tuple[int, tuple[int, ...]], int] = {}
        places: list[tuple[Place, int]] = []
        for row, (leaf, utterance) in enumerate(zip(leaves, utterances, strict=True)):
            for length, scored in enumerate(leaf.scored):
                key = utterance, (*leaf.hypothesis.token_ids, *leaf.tokens[:length])
                if key not in spots:
                    spots[key] = len(places)
                    places.append((Place(row, length), scored))
        scores = self.scores([place for place, _ in places], [scored for _, scored in places])
        read = [
            (spots[utterance, (*leaf.hypothesis.token_ids, *leaf.tokens[:length])], token)
            for leaf, utterance in zip(leaves, utterances, strict=True)
            for length, token in enumerate(leaf.tokens)
        ]
        there = torch.tensor(read, dtype=torch.long).view(-1, 2).to(scores.device, non_blocking=True)
        rows, tokens = there.unbind(1)
        some, end_scores, ends_best = fetch(scores[rows, tokens], scores[:, self.eos], scores.argmax(-1) == self.eos)
        score_of = dict(zip(read, some, strict=True))
        found: dict[int, _Node] = {}
        dead: set[int] = set()
        for leaf, utterance in zip(leaves, utterances, strict=True):
            hypothesis = leaf.hypothesis
            before = spots[utterance, tuple(hypothesis.token_ids)]
            found.setdefault(before, _Node(utterance, hypothesis, *places[before], leaf.bonus))
            for token in leaf.tokens:
                here = spots[utterance, (*hypothesis.token_ids, token)]
                if here in dead:
                    break
                if here not in found:
                    # As `hold_open` has it, before the hypothesis is copied.
                    hypothesis.was_held_open |= ends_best[before] and not hypothesis.may_end
                    score = score_of[before, token]
                    hypothesis = hypothesis.copy()
                    if score == NOTHING or not hypothesis.add(token, score, end_scores[before], self.eos):
                        dead.add(here)
                        if hypothesis.ending is not None:
                            self.ended[utterance].add(hypothesis)
                        break
                    found[here] = _Node(utterance, hypothesis, *places[here], leaf.bonus)
                hypothesis, before = found[here].hypothesis, here
        return list(found.values()), scores[torch.tensor(list(found)).to(scores.device, non_blocking=True)]

    def _leaves(self, nodes: Sequence[_Node], scores: torch.Tensor) -> list[_Leaf]:
        """The leaves of all utterances that are read next, from the scores of tokens behind the nodes (S, V)."""
        known = self._known(nodes, scores)
        self._end(nodes, known)
        roots: list[tuple[int, TokenHypothesis, float]] = []
        for index, place, more in self._best(nodes, known):
            node = nodes[index]
            chosen = known.tokens[index][place], known.scores[index][place], known.end_scores[index]
            if (hypothesis := self.grow(node.utterance, node.hypothesis, *chosen)) is not None:
                roots.append((index, hypothesis, node.bonus + more))
        roots = self._hopeful(nodes, roots)
        return self._chosen(nodes, roots) if roots else []

    def _hopeful(
        self, nodes: Sequence[_Node], roots: list[tuple[int, TokenHypothesis, float]]
    ) -> list[tuple[int, TokenHypothesis, float]]:
        """The roots that may come among the N-best; the scorer has a row for each of them afterwards."""
        self.keep([nodes[index].scored for index, _, _ in roots], [each.token_ids[-1] for _, each, _ in roots])
        slack = self.slack(len(roots)) if roots else []
        kept = [
            place
            for place, (index, hypothesis, _) in enumerate(roots)
            if hypothesis.score + slack[place] > self.ended[nodes[index].utterance].least
        ]
        self.keep(kept)
        return [roots[place] for place in kept]

    def _known(self, nodes: Sequence[_Node], scores: torch.Tensor) -> "_Known":
        """What the next leaves are chosen by, from the scores of tokens behind the nodes (S, V), in one copy."""
        hypotheses = [node.hypothesis for node in nodes]
        allowed, wants_end, may_end = within_bounds(scores, hypotheses, self.eos)
        before = torch.tensor([hypothesis.score for hypothesis in hypotheses], dtype=allowed.dtype).unsqueeze(1)
        totals = allowed + before.to(allowed.device, non_blocking=True)
        best = totals.topk(min(self.width, totals.size(1)), dim=1).values
        values, tokens = self._new(nodes, totals).topk(min(MORE * self.width, totals.size(1)), dim=1)
        ends, end_totals = scores[:, self.eos], totals[:, self.eos]
        held, *known = fetch(wants_end, ends, end_totals, best, values, tokens, allowed.gather(1, tokens))
        mark_held_open(hypotheses, held, may_end)
        return _Known(*known)

    def _end(self, nodes: Sequence[_Node], known: "_Known") -> None:
        """End hypotheses whose end is one of the W best choices among the nodes of the same length."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, node in enumerate(nodes):
            groups.setdefault((node.utterance, len(node.hypothesis.token_ids)), []).append(index)
        ends, scores = known.end_totals, known.end_scores
        for (utterance, _), members in groups.items():
            ranked = sorted((value for index in members for value in known.best[index]), reverse=True)[: self.width]
            for index in members:
                if ends[index] > NOTHING and ends[index] >= ranked[-1]:
                    self.grow(utterance, nodes[index].hypothesis, self.eos, scores[index], scores[index])

    def _new(self, nodes: Sequence[_Node], totals: torch.Tensor) -> torch.Tensor:
        """Totals (S, V) without ends and what was read."""
        index_of = {(node.utterance, tuple(node.hypothesis.token_ids)): index for index, node in enumerate(nodes)}
        known = [
            (index_of[node.utterance, before], node.hypothesis.token_ids[-1])
            for node in nodes
            if node.hypothesis.token_ids
            and (node.utterance, before := tuple(node.hypothesis.token_ids[:-1])) in index_of
        ]
        new = totals.clone()
        new[:, self.eos] = NOTHING
        if known:
            rows, tokens = torch.tensor(known).to(new.device, non_blocking=True).unbind(1)
            new[rows, tokens] = NOTHING
        return new

    def _best(self, nodes: Sequence[_Node], known: "_Known") -> list[tuple[int, int, float]]:
        """The W best (node, place among its best tokens, what merging adds) of each utterance."""
        choices: dict[int, list[tuple[float, int, int, int]]] = {}
        for index, (some_values, some_tokens) in enumerate(zip(known.values, known.tokens, strict=True)):
            choices.setdefault(nodes[index].utterance, []).extend(
                (value + nodes[index].bonus, index, token, place)
                for place, (value, token) in enumerate(zip(some_values, some_tokens, strict=True))
                if value > NOTHING
            )
        return [choice for each in choices.values() for choice in self._merged(nodes, each)]

    def _merged(
        self, nodes: Sequence[_Node], choices: Sequence[tuple[float, int, int, int]]
    ) -> list[tuple[int, int, float]]:
        """The W best of an utterance's (score, node, token, place), with what merging adds."""
        longer = (
            (rank(score, len(nodes[index].hypothesis.token_ids) + 1), score, index, token, place)
            for score, index, token, place in choices
        )
        best = sorted(longer, reverse=True)[: MORE * self.width]
        candidates = [
            ([*nodes[index].hypothesis.token_ids, token], score, (index, place))
            for _, score, index, token, place in best
        ]
        return [(*choice, more) for choice, more in merge(candidates, self.string_of)[: self.width]]

    def _chosen(self, nodes: Sequence[_Node], roots: Sequence[tuple[int, TokenHypothesis, float]]) -> list[_Leaf]:
        """The W best leaves of each utterance, from roots and the guesses behind them."""
        known = [
            Root(nodes[index].utterance, hypothesis.score + bonus, hypothesis.room, place)
            for place, (index, hypothesis, bonus) in enumerate(roots)
        ]
        guesses = self.guesses(known, [nodes[index].place for index, _, _ in roots])
        by_utterance: dict[int, list[Guess]] = {}
        for guess in guesses:
            by_utterance.setdefault(known[guess.root].utterance, []).append(guess)
        leaves, begun = [], [hypothesis.token_ids for _, hypothesis, _ in roots]
        for each in by_utterance.values():
            for guess, more in prune(each, begun, self.width, self.string_of):
                index, hypothesis, bonus = roots[guess.root]
                leaves.append(_Leaf(index, hypothesis, guess.tokens, guess.scored, bonus + more))
        if self.scorer is not None:
            self.keep([row for leaf in leaves for row in leaf.scored])
            rows = iter(range(sum(len(leaf.scored) for leaf in leaves)))
            leaves = [leaf._replace(scored=tuple(next(rows) for _ in leaf.scored)) for leaf in leaves]
        return leaves
