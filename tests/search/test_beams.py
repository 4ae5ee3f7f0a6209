"""Beams over an LM that is a table: with a CTC head of pieces of words, and with strings that are merged."""

import pytest
import torch

from espnet_larm.search.beam import beam
from espnet_larm.search.ctc.prefix import CtcPrefixScores
from espnet_larm.search.ctc_scorer import CtcScorer, Spelled
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.lookahead import Lookahead
from espnet_larm.search.prefix_beam import prefix_beam

EOS, VOCAB_SIZE = 0, 4
# Of the LM's tokens, and of words in the CTC head's pieces.
NAMES = {1: "hel", 2: "lo", 3: " x"}
PIECES = {"hello": [1], "hel": [2, 3], "x": [4], "lo": [5]}


class LastToken:
    """A `TextModel` whose next token depends on the last one alone."""

    def __init__(self, table):
        self.table = table
        self.hidden = torch.eye(len(table))[:1]

    def read(self, tokens, num_new):
        states = torch.eye(len(self.table))[tokens]
        self.hidden = states[torch.arange(len(tokens)), num_new - 1]
        return states

    def logits_of(self, hidden):
        return hidden @ self.table

    def give_back(self, num_tokens, hidden):
        self.hidden = hidden

    def select(self, rows):
        self.hidden = self.hidden[rows]


def spell(token_ids, is_complete):
    *whole, last = "".join(NAMES[token] for token in token_ids).split(" ")

    def pieces(word):
        return PIECES.get(word, [5] * len(word)) if word else []

    sure = [piece for word in whole for piece in pieces(word)]
    return Spelled([*sure, *pieces(last)], []) if is_complete else Spelled(sure, pieces(last))


def scorer():
    log_probs = torch.full((1, 4, 6), -9.0)
    log_probs[0, :, 0] = 0.0
    log_probs[0, 1, :2] = torch.tensor([-7.0, 5.0])
    scorer = CtcPrefixScores(log_probs.log_softmax(-1), torch.tensor([4]))
    return CtcScorer(scorer, spell, EOS, 0.3)


def best(search, table, width, nbest, **options):
    found = search(LastToken(table), [Bounds(4)], EOS, width, nbest, scorer=scorer(), **options)
    return [(text.token_ids, text.score) for text in found.hypotheses[0]]


# The CTC head scores an unfinished word too low: scores rise again.
def test_the_best_text_is_the_same_however_many_are_asked_for():
    for seed in range(60):
        table = (2 * torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
        for width in (2, 3):
            for search in (beam, prefix_beam):
                assert best(search, table, width, 1) == best(search, table, width, width)[:1], (seed, width, search)


def test_a_beam_that_looks_ahead_finds_what_it_finds_without():
    for seed in range(60):
        source = torch.Generator().manual_seed(seed)
        table, heads = (torch.randn(4, size, generator=source) for size in (VOCAB_SIZE, 3 * VOCAB_SIZE))
        lookahead = Lookahead(lambda hidden, heads=heads: (hidden @ heads).view(len(hidden), 3, VOCAB_SIZE))
        for width in (2, 3):
            expected = best(beam, 2 * table, width, width)
            found = best(beam, 2 * table, width, width, lookahead=lookahead)
            assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
            assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_what_scores_may_rise_by_is_what_the_rest_of_a_spelling_costs():
    heard = scorer()
    heard.combine(torch.full((1, VOCAB_SIZE), 0.25).log(), torch.tensor([0]))
    assert heard.slack().tolist() == [0.0]
    heard.take(torch.tensor([1]), torch.tensor([0]))
    unfinished = float(heard.slack())
    assert unfinished == pytest.approx(-0.3 * float(heard.whole)) and unfinished > 1.0
    heard.combine(torch.full((1, VOCAB_SIZE), 0.25).log(), torch.tensor([0]))
    heard.take(torch.tensor([2]), torch.tensor([0]))
    assert float(heard.slack()) < 0.5 * unfinished


def test_merged_strings_are_believed_as_much_as_all_of_them_together():
    """Two tokens spell "a", each less probable than "b"; what follows "b", good at first, would fill the beam."""
    end, a, other_a, b, x, y, z = range(7)
    after = {
        end: {a: 0.3, other_a: 0.29, b: 0.4},
        a: {x: 0.5, end: 0.4},
        other_a: {x: 0.5, end: 0.4},
        b: {y: 0.5, z: 0.45},
        x: {end: 1.0},
        y: {end: 0.1},
        z: {end: 0.1},
    }
    table = torch.full((7, 7), 1e-4)
    for token, following in after.items():
        for each, probability in following.items():
            table[token, each] = probability
    letters = {a: "a", other_a: "a", b: "b", x: "x", y: "y", z: "z"}

    def spelled(tokens):
        return "".join(letters[token] for token in tokens)

    def strings(string_of):
        found = prefix_beam(LastToken(table.log()), [Bounds(3)], end, 2, 2, string_of=string_of)
        return [spelled(text.token_ids) for text in found.hypotheses[0]]

    assert "ax" not in strings(tuple) and "ax" in strings(spelled)
