"""Prefix beam search: hypotheses of different lengths, extended by one to K tokens a call.

A call reads W beginnings (prefixes) of each utterance, each to its end, so that afterwards the LM's own probabilities
are known behind every one of their tokens. From all those places the search goes on: with the tokens that the LM finds
best there, and behind them with what draft heads guess. Prefixes of different lengths are compared by their score a
token; W of them are read by the next call, in which the LM itself scores what heads have guessed. Scores of the N-best
are therefore the LM's, as if each had been read by it in one batch (test_scores_are_the_lms_own).
Source: Raj et al., arXiv:2409.08148, whose prefix-based beam search is known from its abstract alone. Departure: what
heads guess is scored by the LM call by call, where the final N-best alone could be; that costs no call.
Shapes: U utterances, N rows, W prefixes an utterance at most, K tokens a call, V tokens.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.beam import FoundBeams, within_bounds
from espnet_larm.search.hypotheses import Bounds, Ended, Text, found_texts
from espnet_larm.search.lookahead import NOTHING, Guess, Lookahead, Root, look_ahead
from espnet_larm.search.multi_token import Adviser, TextModel
from espnet_larm.search.pruning import merge, prune, rank
from espnet_larm.search.reader import Place, Reader

# So many times the beam's width of choices are looked at, since some of them spell the same.
MORE = 2


class _Node(NamedTuple):
    """A text that the model has read to its end.

    Attributes:
        utterance: Index.
        text: What was read.
        place: Where.
        advised: The adviser's row.
        bonus: What merged strings have added to the log-probability.
    """

    utterance: int
    text: Text
    place: Place
    advised: int
    bonus: float = 0.0


class _Leaf(NamedTuple):
    """What is read next.

    Attributes:
        node: Index of the node that it goes on.
        text: The node's with one token more, which the LM has chosen.
        tokens: Guessed behind it.
        advised: The adviser's rows of the text and behind each token.
        bonus: As in `_Node`.
    """

    node: int
    text: Text
    tokens: tuple[int, ...]
    advised: tuple[int, ...]
    bonus: float


@torch.no_grad()
def prefix_beam(
    model: TextModel,
    bounds: Sequence[Bounds],
    eos: int,
    width: int,
    nbest: int = 1,
    guards_loops: bool = True,
    adviser: Adviser | None = None,
    measure: Callable[[list[int]], int] = len,
    lookahead: Lookahead | None = None,
    string_of: Callable[[list[int]], Hashable] = tuple,
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
        string_of: What tokens spell. Prefixes that spell the same are merged: the best one goes on, compared by the
            probability of all of them.
    """
    assert 1 <= nbest <= width
    search = _Search(Reader(model), eos, width, nbest, adviser, lookahead, string_of)
    return search([Text(one, guards_loops, measure) for one in bounds])


class _Search:
    """Arguments as those of `prefix_beam`."""

    def __init__(
        self,
        reader: Reader,
        eos: int,
        width: int,
        nbest: int,
        adviser: Adviser | None,
        lookahead: Lookahead | None,
        string_of: Callable[[list[int]], Hashable],
    ) -> None:
        self.reader = reader
        self.eos = eos
        self.width = width
        self.nbest = nbest
        self.adviser = adviser
        self.lookahead = lookahead
        self.string_of = string_of

    def __call__(self, texts: Sequence[Text]) -> FoundBeams:
        ended = [Ended(self.nbest, self.string_of) for _ in texts]
        nodes = [_Node(index, text, Place(index, 0), index) for index, text in enumerate(texts)]
        scores = self._score([(node.place, node.advised) for node in nodes])
        num_row_calls = len(nodes)
        while True:
            leaves = self._leaves(nodes, scores, ended)
            if not leaves:
                break
            utterances = [nodes[leaf.node].utterance for leaf in leaves]
            num_row_calls += len(set(utterances))
            self.reader.read(
                [nodes[leaf.node].place for leaf in leaves],
                [[leaf.text.token_ids[-1], *leaf.tokens] for leaf in leaves],
            )
            nodes, scores = self._walk(leaves, utterances, ended)
        return FoundBeams(found_texts(ended), self.reader.num_calls, num_row_calls, self.reader.num_row_tokens)

    def _score(self, spots: Sequence[tuple[Place, int]]) -> torch.Tensor:
        """Scores of the tokens (S, V) behind places, with the adviser's rows there."""
        scores = self.reader.log_probs([place for place, _ in spots])
        if self.adviser is not None:
            scores = self.adviser.combine(scores, torch.tensor([advised for _, advised in spots]))
        return scores

    def _walk(
        self, leaves: Sequence[_Leaf], utterances: Sequence[int], ended: Sequence[Ended]
    ) -> tuple[list[_Node], torch.Tensor]:
        """What was read of leaves: their nodes, each once, and the scores of the tokens behind them (S, V)."""
        spots: dict[tuple[int, tuple[int, ...]], int] = {}
        places: list[tuple[Place, int]] = []
        for row, (leaf, utterance) in enumerate(zip(leaves, utterances, strict=True)):
            for length, advised in enumerate(leaf.advised):
                key = utterance, (*leaf.text.token_ids, *leaf.tokens[:length])
                if key not in spots:
                    spots[key] = len(places)
                    places.append((Place(row, length), advised))
        scores = self._score(places)
        ends_best = (scores.argmax(-1) == self.eos).tolist()
        found: dict[int, _Node] = {}
        dead: set[int] = set()
        for leaf, utterance in zip(leaves, utterances, strict=True):
            text = leaf.text
            before = spots[utterance, tuple(text.token_ids)]
            found.setdefault(before, _Node(utterance, text, *places[before], leaf.bonus))
            for token in leaf.tokens:
                here = spots[utterance, (*text.token_ids, token)]
                if here in dead:
                    break
                if here not in found:
                    # As `hold_open` has it, before the text is copied.
                    text.was_held_open |= ends_best[before] and not text.may_end
                    score, end_score = scores[before, [token, self.eos]].tolist()
                    text = text.copy()
                    if score == NOTHING or not text.add(token, score, end_score, self.eos):
                        dead.add(here)
                        if text.ending is not None:
                            ended[utterance].add(text)
                        break
                    found[here] = _Node(utterance, text, *places[here], leaf.bonus)
                text, before = found[here].text, here
        return list(found.values()), scores[list(found)]

    def _leaves(self, nodes: Sequence[_Node], scores: torch.Tensor, ended: Sequence[Ended]) -> list[_Leaf]:
        """What is read next, of all utterances, from the scores of tokens behind the nodes (S, V)."""
        allowed = within_bounds(scores, [node.text for node in nodes], self.eos)
        totals = allowed + allowed.new_tensor([node.text.score for node in nodes]).unsqueeze(1)
        end_scores = scores[:, self.eos].tolist()
        self._end(nodes, totals, end_scores, ended)
        roots: list[tuple[int, Text, float]] = []
        for index, token, more in self._best(nodes, totals):
            node = nodes[index]
            text = node.text.copy()
            if text.add(token, float(allowed[index, token]), end_scores[index], self.eos):
                roots.append((index, text, node.bonus + more))
            else:
                ended[node.utterance].add(text)
        roots = self._hopeful(nodes, roots, ended)
        return self._chosen(nodes, roots) if roots else []

    def _hopeful(
        self, nodes: Sequence[_Node], roots: list[tuple[int, Text, float]], ended: Sequence[Ended]
    ) -> list[tuple[int, Text, float]]:
        """Those roots that may come among the N-best; the adviser has a row for each of them afterwards."""
        slack = [0.0] * len(roots)
        if self.adviser is not None and roots:
            self.adviser.select(torch.tensor([nodes[index].advised for index, _, _ in roots]))
            self.adviser.take(torch.tensor([text.token_ids[-1] for _, text, _ in roots]), torch.arange(len(roots)))
            slack = self.adviser.slack().tolist()
        kept = [
            place
            for place, (index, text, _) in enumerate(roots)
            if text.score + slack[place] > ended[nodes[index].utterance].least
        ]
        if self.adviser is not None and kept:
            self.adviser.select(torch.tensor(kept))
        return [roots[place] for place in kept]

    def _end(
        self, nodes: Sequence[_Node], totals: torch.Tensor, end_scores: Sequence[float], ended: Sequence[Ended]
    ) -> None:
        """End texts whose end is one of the W best choices among the nodes of the same length."""
        best = totals.topk(min(self.width, totals.size(1)), dim=1).values
        ends = totals[:, self.eos].tolist()
        groups: dict[tuple[int, int], list[int]] = {}
        for index, node in enumerate(nodes):
            groups.setdefault((node.utterance, len(node.text.token_ids)), []).append(index)
        values = best.tolist()
        for (utterance, _), members in groups.items():
            ranked = sorted((value for index in members for value in values[index]), reverse=True)[: self.width]
            for index in members:
                if ends[index] > NOTHING and ends[index] >= ranked[-1]:
                    text = nodes[index].text.copy()
                    text.add(self.eos, end_scores[index], end_scores[index], self.eos)
                    ended[utterance].add(text)

    def _best(self, nodes: Sequence[_Node], totals: torch.Tensor) -> list[tuple[int, int, float]]:
        """Of each utterance the W best nodes with their next tokens, the end and what has been read left out.

        And what merging has added to each.
        """
        index_of = {(node.utterance, tuple(node.text.token_ids)): index for index, node in enumerate(nodes)}
        known = [
            (index_of[node.utterance, before], node.text.token_ids[-1])
            for node in nodes
            if node.text.token_ids and (node.utterance, before := tuple(node.text.token_ids[:-1])) in index_of
        ]
        new = totals.index_fill(1, torch.tensor([self.eos], device=totals.device), NOTHING)
        if known:
            rows, tokens = torch.tensor(known, device=new.device).unbind(1)
            new[rows, tokens] = NOTHING
        values, tokens = new.topk(min(MORE * self.width, new.size(1)), dim=1)
        choices: dict[int, list[tuple[float, int, int]]] = {}
        for index, (some_values, some_tokens) in enumerate(zip(values.tolist(), tokens.tolist(), strict=True)):
            choices.setdefault(nodes[index].utterance, []).extend(
                (value + nodes[index].bonus, index, token)
                for value, token in zip(some_values, some_tokens, strict=True)
                if value > NOTHING
            )
        return [choice for each in choices.values() for choice in self._merged(nodes, each)]

    def _merged(
        self, nodes: Sequence[_Node], choices: Sequence[tuple[float, int, int]]
    ) -> list[tuple[int, int, float]]:
        """The W best of an utterance's (score, node, token), with what merging has added."""
        longer = (
            (rank(score, len(nodes[index].text.token_ids) + 1), score, index, token) for score, index, token in choices
        )
        best = sorted(longer, reverse=True)[: MORE * self.width]
        candidates = [([*nodes[index].text.token_ids, token], score, (index, token)) for _, score, index, token in best]
        return [(*choice, more) for choice, more in merge(candidates, self.string_of)[: self.width]]

    def _chosen(self, nodes: Sequence[_Node], roots: Sequence[tuple[int, Text, float]]) -> list[_Leaf]:
        """Of all that roots and guesses behind them give, W leaves an utterance."""
        known = [
            Root(nodes[index].utterance, text.score + bonus, text.room, place)
            for place, (index, text, bonus) in enumerate(roots)
        ]
        guesses = [Guess(index, (), root.score, (root.advised,)) for index, root in enumerate(known)]
        if self.lookahead is not None:
            states = self.reader.states([nodes[index].place for index, _, _ in roots])
            log_probs = self.lookahead.logits_of(states).log_softmax(-1)
            guesses = look_ahead(known, log_probs, self.width, self.eos, self.lookahead.least, self.adviser)
        by_utterance: dict[int, list[Guess]] = {}
        for guess in guesses:
            by_utterance.setdefault(known[guess.root].utterance, []).append(guess)
        leaves, begun = [], [text.token_ids for _, text, _ in roots]
        for each in by_utterance.values():
            for guess, more in prune(each, begun, self.width, self.string_of):
                index, text, bonus = roots[guess.root]
                leaves.append(_Leaf(index, text, guess.tokens, guess.advised, bonus + more))
        if self.adviser is not None:
            self.adviser.select(torch.tensor([row for leaf in leaves for row in leaf.advised]))
            rows = iter(range(sum(len(leaf.advised) for leaf in leaves)))
            leaves = [leaf._replace(advised=tuple(next(rows) for _ in leaf.advised)) for leaf in leaves]
        return leaves
