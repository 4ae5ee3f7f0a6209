"""Modified Kneser-Ney beside its definition in dictionaries, as kenlm reads it from the ARPA file."""

import math
import random
import shutil
import subprocess
from collections import Counter, defaultdict

import numpy as np
import pytest

from espnet_larm.recipe.ngram.kneser_ney import (
    END,
    FALLBACK,
    START,
    add_words,
    count_ngrams,
    discounts_of,
    smooth,
    vocabulary_of,
    write_arpa,
)
from espnet_larm.search.kenlm_ngram import KenlmNgram

WORDS = [f"w{number}" for number in range(12)]
# Two words that no sentence holds.
VOCABULARY = vocabulary_of(["<blank>", *WORDS, "<eos>"], "<eos>")


def sentences_of(number, seed=0):
    """Sentences of words of very different frequencies, some empty, so that all discounts can be estimated."""
    source = random.Random(seed)
    weights = [1 / (rank + 1) ** 1.5 for rank in range(len(WORDS))]
    return [source.choices(WORDS, weights, k=source.randrange(8)) for _ in range(number)]


def train(path, sentences, order, vocabulary=VOCABULARY):
    orders = count_ngrams(sentences, vocabulary, order)
    smoothed = smooth(orders, vocabulary.index(START))
    write_arpa(path, vocabulary, orders, smoothed)
    return smoothed


class Reference:
    """The definition, by recursion over contexts."""

    def __init__(self, sentences, order, vocabulary):
        self.num_predicted = len(vocabulary) - 1
        texts = [(START, *words, END) for words in sentences]
        raw = Counter(
            text[place : place + length]
            for text in texts
            for length in range(1, order + 1)
            for place in range(len(text) - length + 1)
        )
        before = defaultdict(set)
        for gram in raw:
            before[gram[1:]].add(gram[0])
        self.counts = {
            gram: count if len(gram) == order or gram[0] == START else len(before[gram])
            for gram, count in raw.items()
            if gram != (START,)
        }
        self.discounts = {
            length: discounts_of(np.array([count for gram, count in self.counts.items() if len(gram) == length]))
            for length in range(1, order + 1)
        }

    def discount(self, gram):
        return self.discounts[len(gram)][min(self.counts[gram], 3) - 1]

    def prob(self, word, context):
        seen = [gram for gram in self.counts if gram[:-1] == context]
        below = self.prob(word, context[1:]) if context else 1 / self.num_predicted
        if not seen:
            return below
        total, gram = sum(self.counts[gram] for gram in seen), (*context, word)
        kept = self.counts[gram] - self.discount(gram) if gram in self.counts else 0
        return kept / total + sum(map(self.discount, seen)) / total * below


def test_a_tiny_text_has_the_probabilities_of_a_calculation_by_hand(tmp_path):
    pytest.importorskip("kenlm")
    vocabulary = vocabulary_of(["a", "b", "<eos>"], "<eos>")
    train(tmp_path / "2.arpa", [["a", "b"], ["a"]], 2, vocabulary)
    ngram = KenlmNgram(tmp_path / "2.arpa", ["a", "b", "<eos>", "<unk>"], 2)
    start = ngram.start()
    after_a = ngram.score(start, 0)[1]
    after_b = ngram.score(after_a, 1)[1]
    # Bigrams: <s> a twice, a b, b </s> and a </s> once. Left neighbours: a 1, b 1, </s> 2. Discounts: FALLBACK.
    single = {"a": 0.25, "b": 0.25, "</s>": 0.375, "<unk>": 0.125}
    expected = {
        start: [0.5 + 0.5 * single["a"], 0.5 * single["b"], 0.5 * single["</s>"], 0.5 * single["<unk>"]],
        after_a: [0.5 * 0.25, 0.25 + 0.5 * 0.25, 0.25 + 0.5 * 0.375, 0.5 * 0.125],
        after_b: [0.5 * 0.25, 0.5 * 0.25, 0.5 + 0.5 * 0.375, 0.5 * 0.125],
    }
    for state, probs in expected.items():
        assert [10 ** ngram.score(state, token)[0] for token in range(4)] == pytest.approx(probs, rel=1e-5)


@pytest.mark.parametrize(
    ("order", "number", "is_estimated"), [(2, 300, False), (3, 3, False), (3, 300, True), (4, 60, False)]
)
def test_probabilities_are_those_of_the_definition_and_sum_to_one_in_every_context(
    tmp_path, order, number, is_estimated
):
    kenlm = pytest.importorskip("kenlm")
    sentences = sentences_of(number)
    smoothed = train(tmp_path / "n.arpa", sentences, order)
    reference = Reference(sentences, order, VOCABULARY)
    assert [one.discounts for one in smoothed] == [reference.discounts[length] for length in range(1, order + 1)]
    assert (smoothed[-1].discounts != FALLBACK) == is_estimated
    model = KenlmNgram(tmp_path / "n.arpa", [], -1).model
    source, predicted = random.Random(1), [word for word in VOCABULARY if word != START]
    contexts = [(START,), (START, "w1"), (START, "w11", "w11"), ("<blank>", "w0")]
    contexts += [tuple(source.choices(predicted, k=source.randrange(1, order))) for _ in range(20)]
    for context in contexts:
        state = kenlm.State()
        model.NullContextWrite(state)
        for word in context:
            model.BaseScore(state, word, after := kenlm.State())
            state = after
        found = [10 ** model.BaseScore(state, word, kenlm.State()) for word in predicted]
        assert sum(found) == pytest.approx(1.0, abs=1e-5)
        expected = [reference.prob(word, context[-order + 1 :]) for word in predicted]
        assert found == pytest.approx(expected, rel=1e-4)
        assert 10 ** model.BaseScore(state, START, kenlm.State()) < 1e-30


def test_discounts_are_chen_and_goodmans_and_fall_back_where_counts_say_nothing():
    counts = np.repeat([0, 1, 2, 3, 4, 7], [5, 40, 12, 6, 3, 9])
    share = 40 / (40 + 24)
    expected = 1 - 2 * share * 12 / 40, 2 - 3 * share * 6 / 12, 3 - 4 * share * 3 / 6
    assert discounts_of(counts) == pytest.approx(expected)
    assert discounts_of(np.array([1, 1, 2, 4])) == FALLBACK
    # Counts that a text hardly has by itself, and a discount below 0.
    assert discounts_of(np.repeat([1, 2, 3, 4], [10, 5, 2, 20])) == FALLBACK


def test_words_that_no_text_holds_are_all_equally_probable_and_known(tmp_path):
    pytest.importorskip("kenlm")
    train(tmp_path / "3.arpa", sentences_of(20), 3)
    ngram = KenlmNgram(tmp_path / "3.arpa", ["<blank>", "<unk>", "nowhere", "w0"], -1)
    assert ngram.knows(["<blank>", "w11", "</s>", "nowhere"]) == [True, True, True, False]
    scores = [ngram.score(ngram.start(), token)[0] for token in range(4)]
    assert scores[0] == scores[1] == scores[2] < scores[3]


def test_perplexity_is_of_all_words_and_ends(tmp_path):
    pytest.importorskip("kenlm")
    train(tmp_path / "3.arpa", sentences_of(50), 3)
    texts, reference = [["w0", "w3", "w0"], ["w1"]], Reference(sentences_of(50), 3, VOCABULARY)
    logs = []
    for words in texts:
        context = [START]
        for word in (*words, END):
            logs.append(math.log(reference.prob(word, tuple(context[-2:]))))
            context.append(word)
    perplexity, number = KenlmNgram(tmp_path / "3.arpa", [], -1).perplexity(texts)
    assert number == 6
    assert perplexity == pytest.approx(math.exp(-sum(logs) / 6), rel=1e-4)


def test_words_that_lmplz_leaves_out_share_what_it_gives_to_unknown_ones(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    sentences = [["w0", "w1"], ["w1", "w0"]]
    few = vocabulary_of(["w0", "w1", "<eos>"], "<eos>")
    train(tmp_path / "few.arpa", sentences, 2, few)
    assert add_words(tmp_path / "few.arpa", tmp_path / "all.arpa", VOCABULARY) == len(VOCABULARY) - len(few)
    before, after = (kenlm.Model(str(tmp_path / f"{name}.arpa")) for name in ("few", "all"))
    states = [kenlm.State(), kenlm.State()]
    before.BeginSentenceWrite(states[0])
    after.BeginSentenceWrite(states[1])
    scores = {word: 10 ** after.BaseScore(states[1], word, kenlm.State()) for word in VOCABULARY if word != START}
    assert sum(scores.values()) == pytest.approx(1.0, abs=1e-5)
    assert scores["w5"] == scores["<unk>"] == scores["<blank>"]
    assert scores["w0"] == pytest.approx(10 ** before.BaseScore(states[0], "w0", kenlm.State()), rel=1e-5)


def read_arpa(path):
    lines = (line.split("\t") for line in path.read_text().splitlines())
    return {name: (float(prob), *map(float, backoff)) for prob, name, *backoff in (line for line in lines if line[1:])}


@pytest.mark.skipif(shutil.which("lmplz") is None, reason="no lmplz on PATH")
@pytest.mark.parametrize(("order", "number"), [(2, 2), (3, 300), (5, 3000)])
def test_over_the_words_of_a_text_the_numbers_are_those_of_lmplz(tmp_path, order, number):
    sentences = [words for words in sentences_of(number) if words]
    train(
        tmp_path / "ours.arpa", sentences, order, vocabulary_of({word for each in sentences for word in each}, "<eos>")
    )
    (tmp_path / "text").write_text("".join(f"{' '.join(words)}\n" for words in sentences))
    files = ["--text", str(tmp_path / "text"), "--arpa", str(tmp_path / "theirs.arpa")]
    command = ["lmplz", "-o", str(order), "--discount_fallback", "-S", "100M", "-T", str(tmp_path), *files]
    subprocess.run(command, check=True, capture_output=True)
    ours, theirs = (read_arpa(tmp_path / f"{name}.arpa") for name in ("ours", "theirs"))
    # Never, for us; always, for lmplz.
    assert (ours.pop(START)[0], theirs.pop(START)[0]) == (-99.0, 0.0)
    assert ours.keys() == theirs.keys()
    assert all(found == pytest.approx((*theirs[name], 0.0)[: len(found)], abs=1e-5) for name, found in ours.items())


def test_a_file_that_is_no_ngram_is_refused_with_what_makes_one(tmp_path):
    pytest.importorskip("kenlm")
    (tmp_path / "no.arpa").write_text("w0 w1\n")
    (tmp_path / "no.bin").write_bytes(bytes(range(1, 256)) * 20)
    for name in ("no.arpa", "no.bin"):
        with pytest.raises(ValueError, match=rf"{name} is no ARPA file and none of kenlm's binary ones: .*Stage 9"):
            KenlmNgram(tmp_path / name, [], -1)
    with pytest.raises(FileNotFoundError, match=r"the n-gram .*nowhere.arpa is missing; stage 9"):
        KenlmNgram(tmp_path / "nowhere.arpa", [], -1)


def test_without_kenlm_the_line_that_installs_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kenlm", None)
    with pytest.raises(ImportError, match=r'pip install "espnet-larm\[ngram\]"'):
        KenlmNgram(tmp_path / "any.arpa", [], -1)
