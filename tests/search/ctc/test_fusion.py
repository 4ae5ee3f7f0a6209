"""Words in CTC's prefix beam beside an exhaustive sum, with and without a lexicon, an n-gram and hotwords."""

import math
from itertools import groupby, product

import pytest
import torch

from espnet_larm.search.ctc.beam import PrefixSearch, prefix_beam
from espnet_larm.search.ctc.fusion import Fusion, Weights
from espnet_larm.search.ctc.lexicon import NO_WORD, NOTHING, ROOT, UNKNOWN, Lexicon, Spelled

# Blank, pieces with and without the start of a word, a start alone.
TOKENS = [None, Spelled("a", True), Spelled("b", True), Spelled("b", False), Spelled("", True)]
WORDS = ["a", "ab", "ba", "bb"]


class Bigram:
    """Random probabilities of words, an unknown one and the end, behind each of them and the start."""

    def __init__(self, num_words):
        generator = torch.Generator().manual_seed(3)
        self.log10 = torch.randn(num_words + 3, num_words + 2, generator=generator).log_softmax(1) / math.log(10)

    def start(self):
        return len(self.log10) - 1

    def score(self, state, token):
        return float(self.log10[state, token]), token


def fusion_of(weights, *, is_open=True, ngram=True, hotwords=(), unknown_words=(), words=WORDS):
    unknown = 0.0 if is_open else NOTHING
    lexicon = Lexicon(words, TOKENS, [0.0] * len(words), unknown)
    bigram = Bigram(len(words)) if ngram else None
    return Fusion(lexicon, bigram, weights, frozenset(hotwords), frozenset(unknown_words), is_open)


def words_of(text):
    """The words that tokens spell."""
    words = [""]
    for token in text:
        words += [""] if TOKENS[token].starts else []
        words[-1] += TOKENS[token].letters
    return [word for word in words if word]


def score_of(text, fusion):
    """What words add, one text at a time."""
    weights, total = fusion.weights, 0.0
    state = fusion.ngram.start() if fusion.ngram else None
    for word in words_of(text):
        index = fusion.lexicon.words.index(word) if word in fusion.lexicon.words else NO_WORD
        if index == NO_WORD and not fusion.is_open:
            return NOTHING
        total += weights.word_bonus
        is_unknown = index == NO_WORD or index in fusion.unknown_words
        if index in fusion.hotwords:
            total += weights.hotword
        elif is_unknown:
            total -= weights.oov_penalty
        if fusion.ngram:
            log10, state = fusion.ngram.score(state, len(fusion.lexicon.words) if is_unknown else index)
            total += weights.ngram * log10
    if fusion.ngram:
        total += weights.ngram * fusion.ngram.score(state, len(fusion.lexicon.words) + 1)[0]
    return total


def exhaustive(log_probs, fusion):
    totals = {}
    for path in product(range(log_probs.size(1)), repeat=len(log_probs)):
        text = tuple(token for token, _ in groupby(path) if token)
        score = sum(float(row[token]) for row, token in zip(log_probs, path, strict=True))
        totals.setdefault(text, []).append(score)
    return {
        text: float(torch.tensor(scores, dtype=torch.float64).logsumexp(0)) + score_of(text, fusion)
        for text, scores in totals.items()
    }


def random_log_probs(num_utterances, num_frames):
    return torch.randn(num_utterances, num_frames, len(TOKENS), dtype=torch.float64).mul(2).log_softmax(2)


CASES = {
    "open": {"weights": Weights(1.5, 0.5, 2.0)},
    "closed": {"weights": Weights(1.5, -0.5, 2.0), "is_open": False},
    "hotwords alone": {"weights": Weights(hotword=3.0), "ngram": False, "hotwords": [1]},
    "all": {"weights": Weights(0.7, 0.3, 1.0, 2.0), "hotwords": [3], "unknown_words": [2, 3]},
}


@pytest.mark.parametrize("case", CASES)
def test_a_beam_that_holds_everything_is_exact(case):
    fusion = fusion_of(**CASES[case])
    log_probs = random_log_probs(3, 4)
    found = prefix_beam(log_probs, torch.full((3,), 4), 800, fusion=fusion)
    for row, texts, scores in zip(log_probs, found.to_lists(), found.scores, strict=True):
        expected = {text: score for text, score in exhaustive(row, fusion).items() if score > NOTHING}
        assert {tuple(text) for text in texts} == set(expected)
        wanted = torch.tensor([expected[tuple(text)] for text in texts], dtype=torch.float64)
        torch.testing.assert_close(scores[: len(texts)], wanted, rtol=1e-5, atol=1e-5)
        assert wanted.tolist() == sorted(wanted.tolist(), reverse=True)


def test_weights_of_nothing_change_no_hypothesis():
    log_probs, lens = random_log_probs(4, 12), torch.tensor([12, 9, 1, 0])
    plain = prefix_beam(log_probs, lens, 4)
    fused = prefix_beam(log_probs, lens, 4, fusion=fusion_of(Weights()))
    assert fused.to_lists() == plain.to_lists()
    torch.testing.assert_close(fused.scores, plain.scores)


def test_a_batch_gives_what_each_utterance_gives_alone():
    fusion = fusion_of(Weights(1.0, 0.2, 1.0))
    log_probs, lens = random_log_probs(4, 15), torch.tensor([15, 8, 1, 0])
    together = prefix_beam(log_probs, lens, 5, fusion=fusion)
    for index, length in enumerate(lens.tolist()):
        alone = prefix_beam(log_probs[index : index + 1, :length], lens[index : index + 1], 5, fusion=fusion)
        assert alone.to_lists()[0] == together.to_lists()[index]
        torch.testing.assert_close(alone.scores[0], together.scores[index])


def test_a_copy_of_a_search_goes_on_by_itself():
    fusion = fusion_of(Weights(0.7, 0.4, 1.0, 0.8), hotwords=(1,))
    first, second = random_log_probs(2, 12)
    search = PrefixSearch(1, 4, first, 0, fusion)
    search.read(first[None, :6])
    other = search.copy()
    search.read(first[None, 6:])
    other.read(second[None, 6:])
    mixed = torch.cat([first[:6], second[6:]])
    for found, whole in ((search, first), (other, mixed)):
        wanted = prefix_beam(whole[None], torch.tensor([12]), 4, 0, fusion)
        assert found.found().to_lists() == wanted.to_lists()
        torch.testing.assert_close(found.found().scores, wanted.scores)


def test_a_narrow_beam_finds_the_best_and_a_lexicon_holds():
    fusion = fusion_of(Weights(2.0, 0.0, 1.0), is_open=False)
    for row in random_log_probs(6, 5):
        (texts,) = prefix_beam(row.unsqueeze(0), torch.tensor([5]), 30, fusion=fusion).to_lists()
        expected = exhaustive(row, fusion)
        assert tuple(texts[0]) == max(expected, key=expected.__getitem__)
        assert all(word in WORDS for text in texts for word in words_of(text))


def test_an_utterance_that_cannot_end_in_a_word_keeps_what_was_recognised():
    # The one word is of two letters, and there is a frame for one.
    fusion = fusion_of(Weights(), is_open=False, ngram=False, words=["ab"])
    log_probs = torch.full((1, 1, len(TOKENS)), -50.0, dtype=torch.float64)
    log_probs[0, 0, 1] = 0.0
    (texts,) = prefix_beam(log_probs, torch.tensor([1]), 1, fusion=fusion).to_lists()
    assert texts == [[1]]


def test_a_hotword_is_preferred_from_its_first_letters():
    fusion = fusion_of(Weights(hotword=4.0), ngram=False, hotwords=[1])
    probs = torch.tensor([[0.1, 0.5, 0.3, 0.05, 0.05], [0.1, 0.02, 0.6, 0.23, 0.05]])
    log_probs = probs.log().unsqueeze(0)
    plain, hot = (prefix_beam(log_probs, torch.tensor([2]), 5, fusion=each).to_lists()[0][0] for each in (None, fusion))
    assert words_of(plain) == ["a", "b"] and words_of(hot) == ["ab"]


def test_all_spellings_of_a_word_lead_to_its_node():
    tokens = [Spelled("abc", True), Spelled("a", True), Spelled("b", False), Spelled("bc", False), Spelled("c", False)]
    lexicon = Lexicon(["abc", "ab", "x"], [*tokens, None, Spelled("", True)], [1.0, 2.0, 3.0], -1.0)

    def walk(*path):
        node = torch.tensor(ROOT)
        for token in path:
            node = lexicon.step(node, torch.tensor(token))
        return int(node)

    assert walk(0) == walk(1, 3) == walk(1, 2, 4) != UNKNOWN
    assert lexicon.word_of[walk(0)] == 0 and lexicon.word_of[walk(1, 2)] == 1 and lexicon.word_of[walk(1)] == NO_WORD
    # The word before does not matter where a new one begins; unknown stays unknown until then.
    assert walk(0, 0) == walk(2, 0) == walk(0) and walk(4) == walk(0, 2) == walk(4, 2) == walk(5) == UNKNOWN
    assert walk(0, 6) == walk(6) == ROOT and walk(6, 2) == UNKNOWN
    assert lexicon.best[walk(1)] == 2.0 and lexicon.best[walk(0)] == 1.0 and lexicon.best[ROOT] == 3.0
    assert lexicon.best[UNKNOWN] == -1.0


def test_few_words_are_asked_of_the_ngram():
    fusion = fusion_of(Weights(1.0))
    asked = []
    plain = fusion.ngram.score
    fusion.ngram.score = lambda *each: asked.append(each) or plain(*each)
    prefix_beam(random_log_probs(8, 50), torch.full((8,), 50), 10, fusion=fusion)
    # Each node behind each state once, and the ends.
    assert 0 < len(asked) <= (len(WORDS) + 2) * (len(fusion.lexicon.word_of) + 1)


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives():
    fusion, log_probs = fusion_of(Weights(1.0, 0.2, 1.0)), random_log_probs(4, 15)
    lens = torch.full((4,), 15)
    there = prefix_beam(log_probs.cuda(), lens.cuda(), 5, fusion=fusion)
    assert there.to_lists() == prefix_beam(log_probs, lens, 5, fusion=fusion).to_lists()
