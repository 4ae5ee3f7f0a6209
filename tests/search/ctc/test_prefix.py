"""CTC prefix scores beside the sum over all alignments."""

import itertools
import math
from collections import defaultdict

import pytest
import torch

from espnet_larm.search.ctc.posteriors import PAD
from espnet_larm.search.ctc.prefix import CtcPrefixScores
from espnet_larm.search.ctc_scorer import CtcScorer, Spelled, same_tokens
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.multi_token import greedy

NUM_FRAMES, NUM_TOKENS, EOS = 6, 4, 3


def texts_of(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Probability of each text: of all its alignments together."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(log_probs.size(1)), repeat=log_probs.size(0)):
        text = tuple(token for token, _ in itertools.groupby(path) if token != 0)
        found[text] += math.exp(sum(float(log_probs[frame, token]) for frame, token in enumerate(path)))
    return found


@pytest.fixture
def log_probs():
    return torch.randn(3, NUM_FRAMES, NUM_TOKENS).double().log_softmax(-1)


LENS = torch.tensor([6, 4, 1])
ALL = torch.arange(3)


def test_scores_of_prefixes_and_texts_are_sums_over_all_alignments(log_probs):
    scorer = CtcPrefixScores(log_probs, LENS)
    prefixes = [(1,), (2,), (1, 1), (2, 1, 2), (3, 3, 3), (1, 2, 3, 1), (2, 2, 2, 2), (0,), (1, 0, 1)]
    longest = max(map(len, prefixes))
    extensions = torch.tensor([[[*prefix, *[PAD] * (longest - len(prefix))] for prefix in prefixes]] * 3)
    found = scorer.extend(scorer.start(), torch.arange(3), extensions)
    for row, length in enumerate(LENS.tolist()):
        texts = texts_of(log_probs[row, :length])
        begins = [sum(p for text, p in texts.items() if text[: len(prefix)] == prefix) for prefix in prefixes]
        torch.testing.assert_close(found.score[row].exp(), torch.tensor(begins).double())
        whole = [texts.get(prefix, 0.0) for prefix in prefixes]
        torch.testing.assert_close(scorer.ended(found)[row].exp(), torch.tensor(whole).double())
        torch.testing.assert_close(scorer.ended(scorer.start())[row].exp(), torch.tensor(texts[()]).double())


def test_several_tokens_at_once_are_what_they_are_one_by_one(log_probs):
    scorer, utterances = CtcPrefixScores(log_probs, LENS), torch.arange(3)
    tokens = torch.tensor([[1, 1, 2], [2, PAD, PAD], [3, 1, PAD]])
    at_once = scorer.extend(scorer.start(), utterances, tokens.unsqueeze(1))
    prefixes = scorer.start()
    for column in tokens.unbind(1):
        one = scorer.extend(prefixes, utterances, column.view(3, 1, 1))
        prefixes = type(one)(*(field[:, 0] for field in one))
    for left, right in zip(at_once, prefixes, strict=True):
        torch.testing.assert_close(left[:, 0], right)


def test_long_audio_and_sure_frames_stay_exact():
    """Where frames are sure, other tokens have probabilities near 0 for thousands of frames."""
    sure = torch.full((1, 3000, 3), -60.0).double()
    path = torch.zeros(3000, dtype=torch.long)
    path[500], path[2000] = 1, 2
    sure[0, torch.arange(3000), path] = 0.0
    scorer = CtcPrefixScores(sure.log_softmax(-1), torch.tensor([3000]))
    found = scorer.extend(scorer.start(), torch.tensor([0]), torch.tensor([[[1, 2], [2, PAD], [1, 1]]]))
    torch.testing.assert_close(found.score[0, 0].abs(), torch.tensor(0.0).double(), atol=1e-6, rtol=0)
    assert float(found.score[0, 1]) < -50 and float(found.score[0, 2]) < -50
    blocked = sure.clone()
    blocked[:, :, 2] = float("-inf")
    blocked[:, 2000] = torch.tensor([0.0, -60.0, float("-inf")])
    scorer = CtcPrefixScores(blocked, torch.tensor([3000]))
    found = scorer.extend(scorer.start(), torch.tensor([0]), torch.tensor([[[1, PAD], [1, 2]]]))
    torch.testing.assert_close(float(found.score[0, 0]), 0.0, atol=1e-6, rtol=0)
    assert float(found.score[0, 1]) == float("-inf")


SPELLINGS = {0: [], 1: [1], 2: [2, 1], 4: [2, 2], 5: [1, 2, 3]}


def spell(token_ids, is_complete):
    """Six tokens of an LM, spelled by three of CTC; a text has one more at its end, and `is_complete` tells it."""
    spelled = [part for token in token_ids for part in SPELLINGS[token]]
    return Spelled([*spelled, 3] if is_complete else spelled, [])


def spell_late(token_ids, is_complete):
    """Spell like `spell`, but what is sure comes a token late, as with pieces of words."""
    if is_complete:
        return spell(token_ids, is_complete)
    sure = spell(token_ids[:-1], is_complete).sure
    return Spelled(sure, spell(token_ids, is_complete).sure[len(sure) :])


class OwnTokens:
    """A `TextModel` of six tokens whose logits depend on the last token."""

    def __init__(self, num_rows):
        self.hidden = torch.zeros(num_rows, 1, dtype=torch.long)
        self.table = torch.randn(6, 6, generator=torch.Generator().manual_seed(4))

    def logits_of(self, hidden):
        return self.table[hidden[..., 0]]

    def read(self, tokens, num_new):
        self.hidden = tokens.gather(1, (num_new - 1).unsqueeze(1))
        return tokens.unsqueeze(2)

    def give_back(self, num_tokens, hidden):
        self.hidden = hidden

    def select(self, rows):
        self.hidden = self.hidden[rows]


def exhaustive(log_probs, weight, most):
    """Greedy search by sums over all alignments of all texts."""
    texts, token_ids, total = texts_of(log_probs), [], 0.0
    table = OwnTokens(1).table

    def begins(prefix):
        return math.log(sum(p for text, p in texts.items() if text[: len(prefix)] == tuple(prefix)) or 1e-300)

    while True:
        lm = table[token_ids[-1] if token_ids else 0].log_softmax(-1)
        before = begins(spell(token_ids, is_complete=False).sure)
        scores = {}
        for token in range(6):
            if token == EOS:
                ctc = math.log(texts.get(tuple(spell(token_ids, is_complete=True).sure), 0.0) or 1e-300)
            else:
                ctc = begins(spell([*token_ids, token], is_complete=False).sure)
            scores[token] = (1 - weight) * float(lm[token]) + weight * (ctc - before)
        best = max(scores, key=scores.__getitem__)
        if best == EOS or len(token_ids) >= most:
            return token_ids, total + scores[EOS]
        total += scores[best]
        token_ids.append(best)


@pytest.mark.parametrize("spelling", [spell, spell_late])
@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_a_search_hears_how_its_texts_are_spelled_under_ctc(log_probs, weight, spelling):
    scorer = CtcScorer(CtcPrefixScores(log_probs, LENS), spelling, EOS, weight)
    found = greedy(OwnTokens(3), [Bounds(4)] * 3, EOS, scorer=scorer)
    lens = set()
    for row, text in enumerate(found.hypotheses):
        token_ids, score = exhaustive(log_probs[row, : LENS[row]], weight, 4)
        assert text.token_ids == token_ids
        if score > -50:
            assert text.score == pytest.approx(score, abs=1e-5)
        lens.add(len(token_ids))
    assert len(lens) > 1 or weight != 0.5


class Guesses:
    """Drafts of up to three tokens, some of them those that will be chosen."""

    def __init__(self, known):
        self.known = known
        self.generator = torch.Generator().manual_seed(0)

    def propose(self, hidden, texts):
        found = []
        for known, text in zip(self.known, texts, strict=True):
            draft = [*known, EOS][len(text.token_ids) :][: int(torch.randint(4, (), generator=self.generator))]
            wrong = torch.rand(len(draft), generator=self.generator) < 0.3
            found.append([(token + 1) % 6 if is_wrong else token for token, is_wrong in zip(draft, wrong, strict=True)])
        return found

    def select(self, rows):
        self.known = [self.known[row] for row in rows.tolist()]


@pytest.mark.parametrize("spelling", [spell, spell_late])
def test_a_search_with_drafts_hears_ctc_as_one_without(log_probs, spelling):
    def search(drafts=None):
        scorer = CtcScorer(CtcPrefixScores(log_probs, LENS), spelling, EOS, 0.3)
        return greedy(OwnTokens(3), [Bounds(6)] * 3, EOS, drafts, scorer=scorer)

    expected = search()
    found = search(Guesses([text.token_ids for text in expected.hypotheses]))
    assert [text.token_ids for text in found.hypotheses] == [text.token_ids for text in expected.hypotheses]
    assert [text.score for text in found.hypotheses] == pytest.approx([text.score for text in expected.hypotheses])
    assert found.num_calls < expected.num_calls and set(found.accepted) > {0}


def test_tokens_of_which_ctc_was_not_asked_are_ruled_out_and_the_end_is_always_asked(log_probs):
    scorer = CtcScorer(CtcPrefixScores(log_probs, LENS), same_tokens, EOS, 0.3, num_candidates=2)
    scores = torch.tensor([[5.0, 4.0, 3.0, 0.0]] * 3).log_softmax(-1)
    combined = scorer.combine(scores, ALL)
    assert combined.isfinite().sum(1).tolist()[:2] == [2, 2] and combined[:2, EOS].isfinite().all()


def test_tokens_that_spell_nothing_are_ruled_out_and_those_that_take_spelling_back_are_the_last_choice(log_probs):
    def takes_back(token_ids, is_complete):
        return Spelled([], []) if token_ids[-1:] == [2] else spell(token_ids, is_complete)

    scorer = CtcScorer(CtcPrefixScores(log_probs, LENS), takes_back, EOS, 0.5, silent=[0, EOS])
    scores = torch.zeros(3, 6).log_softmax(-1)
    combined = scorer.combine(scores, ALL)
    assert not combined[:, 0].isfinite().any() and combined[:, EOS].isfinite().all()
    scorer.take(torch.tensor([4, 4, 4]), ALL)
    combined = scorer.combine(scores, ALL)
    assert (combined[:2, 2] < -1e5).all() and (combined[0, [1, 4, 5]] > -1e5).any()
    scorer.take(torch.tensor([2, 2, 2]), ALL)
    assert scorer.spelled == [[2, 2]] * 3
