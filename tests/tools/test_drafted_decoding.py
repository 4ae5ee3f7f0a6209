"""tools/bench/decoding.py --drafts: ceilings, texts that follow a reference, prompts beyond the vocabulary."""

import pytest
import torch
from drafted_checks import ReferenceScorer
from drafted_report import ceilings
from drafted_ways import BeyondVocabulary

from espnet_larm.search.drafts import TextDrafts
from espnet_larm.search.hypotheses import Bounds, Ending
from espnet_larm.search.multi_token import greedy

EOS, VOCAB_SIZE, SIZE = 0, 11, 4
REFERENCES = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [7], [], [8, 8, 8, 8, 8, 8], [2, 7, 1, 8]]


class Random:
    """A model that says something else at every call, and counts the rows of its calls."""

    def __init__(self, num_rows):
        self.generator = torch.Generator().manual_seed(0)
        self.hidden = self.random(num_rows, SIZE)
        self.num_row_calls = num_rows

    def random(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def logits_of(self, hidden):
        return self.random(*hidden.shape[:-1], VOCAB_SIZE)

    def read(self, tokens, num_new):
        self.num_row_calls += len(num_new)
        return self.random(*tokens.shape, SIZE)

    def give_back(self, num_tokens, hidden):
        self.hidden = hidden

    def select(self, rows):
        self.hidden = self.hidden[rows]


def test_ceilings_are_those_of_the_lengths():
    assert ceilings([1, 8, 9, 12], 1) == (1.0, 1.0)
    # Calls 1 2 3 3 if each could yield 4; the prefill yields one: 1 3 3 4.
    assert ceilings([1, 8, 9, 12], 4) == (30 / 9, 30 / 11)


@pytest.mark.parametrize("num_tokens", [1, 2, 4, 8])
def test_right_drafts_reach_the_ceiling_of_the_search(num_tokens):
    model, scorer = Random(len(REFERENCES)), ReferenceScorer(REFERENCES, EOS)
    drafts = TextDrafts(REFERENCES, num_tokens - 1, EOS)
    found = greedy(model, [Bounds(40)] * len(REFERENCES), EOS, drafts, guards_loops=False, scorer=scorer)
    assert [text.token_ids for text in found.hypotheses] == REFERENCES
    lens = [len(reference) + 1 for reference in REFERENCES]
    _, exact = ceilings(lens, num_tokens)
    assert sum(lens) / found.num_row_calls == exact and found.num_row_calls == model.num_row_calls


def test_a_search_follows_the_references_whatever_is_drafted():
    ctc_tokens = [[3, 1, 5, 1, 5], [7, 7, 7], [4], [8, 2, 8], [1, 8]]
    expected = [len(reference) + 1 for reference in REFERENCES]
    for drafts in (None, TextDrafts(ctc_tokens, 3, EOS)):
        scorer = ReferenceScorer(REFERENCES, EOS)
        found = greedy(
            Random(len(ctc_tokens)), [Bounds(40)] * len(ctc_tokens), EOS, drafts, guards_loops=False, scorer=scorer
        )
        assert [text.token_ids for text in found.hypotheses] == REFERENCES
        assert {text.ending for text in found.hypotheses} == {Ending.BY_ITSELF}
        assert (found.num_row_calls == sum(expected)) == (drafts is None)


def test_ids_beyond_the_vocabulary_are_the_prompt():
    table, prompt = torch.nn.Embedding(VOCAB_SIZE, SIZE), torch.randn(3, SIZE)
    beyond = BeyondVocabulary(table, prompt)
    assert torch.equal(beyond(beyond.prompt_ids()), prompt)
    tokens = torch.arange(VOCAB_SIZE).view(1, -1)
    assert torch.equal(beyond(tokens), table(tokens))
    assert torch.equal(beyond(torch.tensor([VOCAB_SIZE + 2, 5])), torch.stack([prompt[2], table.weight[5]]))
