"""Beam search over a tiny LM that hears CTC and an n-gram, beside ESPnet's and beside one in dictionaries."""

import math
from typing import NamedTuple

import pytest
import torch

from espnet_larm.recipe.ngram.kneser_ney import START, count_ngrams, smooth, vocabulary_of, write_arpa
from espnet_larm.search.beam import beam
from espnet_larm.search.ctc.prefix import CtcPrefixScores
from espnet_larm.search.ctc_scorer import CtcScorer, Spelled, same_tokens
from espnet_larm.search.hypotheses import Bounds, Ending
from espnet_larm.search.kenlm_ngram import KenlmNgram
from espnet_larm.search.ngram_scorer import NgramScorer, chain
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

EOS, VOCAB_SIZE, ENCODER_SIZE = 2, 13, 6
TOKENS = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(VOCAB_SIZE - 3))]
CTC_WEIGHT, NGRAM_WEIGHT = 0.4, 0.9


@pytest.fixture
def decoder(save_lm, tmp_path):
    llm = save_lm(tmp_path, TOKENS, max_position_embeddings=512)
    return SpeechLlmDecoder(VOCAB_SIZE, ENCODER_SIZE, llm=llm, projector_frames=2).eval()


@pytest.fixture
def frames():
    return torch.randn(4, 30, ENCODER_SIZE) * 5, torch.tensor([30, 21, 26, 18])


@pytest.fixture
def ctc():
    from espnet2.asr.ctc import CTC

    head = CTC(VOCAB_SIZE, ENCODER_SIZE, dropout_rate=0.0).eval()
    torch.nn.init.normal_(head.ctc_lo.weight, std=0.1)
    return head


@pytest.fixture
def arpa(tmp_path):
    """An ARPA file of random texts of some length, three words of which are frequent."""
    pytest.importorskip("kenlm")
    source = torch.Generator().manual_seed(1)
    texts = torch.randint(0, 10, (60, 6), generator=source) * torch.randint(0, 2, (60, 6), generator=source) + 3
    vocabulary = vocabulary_of(TOKENS, "</s>")
    orders = count_ngrams([[TOKENS[index] for index in row] for row in texts.tolist()], vocabulary, 3)
    write_arpa(tmp_path / "3gram.arpa", vocabulary, orders, smooth(orders, vocabulary.index(START)))
    return tmp_path / "3gram.arpa"


def scorers_of(names, log_probs, hlens, arpa, spell=same_tokens):
    made = []
    if "ctc" in names:
        scorer = CtcPrefixScores(log_probs, hlens)
        made.append(CtcScorer(scorer, spell, EOS, CTC_WEIGHT, num_candidates=VOCAB_SIZE))
    if "ngram" in names:
        ngram = KenlmNgram(arpa, TOKENS, EOS)
        made.append(NgramScorer(ngram, len(hlens), EOS, NGRAM_WEIGHT, num_candidates=VOCAB_SIZE))
    return chain(made)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:NgramFullScorer batch score is implemented through for loop:UserWarning")
@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("names", [["ctc"], ["ngram"], ["ctc", "ngram"]], ids="+".join)
def test_the_n_best_is_that_of_espnets_beam_search_with_further_scorers(decoder, frames, ctc, arpa, names, width):
    from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
    from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer
    from espnet2.legacy.nets.scorers.ngram import NgramFullScorer

    theirs = {"decoder": (decoder, 1.0)}
    if "ctc" in names:
        theirs = {"decoder": (decoder, 1 - CTC_WEIGHT), "ctc": (CTCPrefixScorer(ctc, EOS), CTC_WEIGHT)}
    if "ngram" in names:
        theirs["ngram"] = NgramFullScorer(str(arpa), TOKENS), NGRAM_WEIGHT
    search = BatchBeamSearch(
        scorers={name: scorer for name, (scorer, _) in theirs.items()},
        weights={name: weight for name, (_, weight) in theirs.items()},
        beam_size=width,
        vocab_size=VOCAB_SIZE,
        sos=EOS,
        eos=EOS,
        token_list=TOKENS,
        # All tokens are scored by all.
        pre_beam_score_key=None,
    )
    scorer = scorers_of(names, ctc.log_softmax(frames[0]), frames[1], arpa)
    # ESPnet's CTC scores fail on texts of more tokens than frames.
    bounds = [Bounds(length) for length in frames[1].tolist()]
    found = beam(decoder.start(*frames), bounds, EOS, width, width, guards_loops=False, scorer=scorer)
    num_compared = 0
    for hs_pad, length, hypotheses in zip(*frames, found.hypotheses, strict=True):
        most = int(length)
        expected = [(one.yseq.tolist()[1:], float(one.score)) for one in search(hs_pad[:most], maxlenratio=-most)]
        # ESPnet puts an end behind all that have the longest length, without its score.
        expected = [pair for pair in expected if len(pair[0]) < most]
        ours = [one for one in hypotheses if one.ending is Ending.BY_ITSELF and len(one.token_ids) + 1 < most]
        assert [one.token_ids for one in ours] == [tokens[:-1] for tokens, _ in expected[: len(ours)]]
        scores = [score for _, score in expected[: len(ours)]]
        assert [one.score for one in ours] == pytest.approx(scores, abs=1e-3)
        num_compared += len(ours)
    assert num_compared >= 2 * width


class Hypothesis(NamedTuple):
    """A hypothesis of the search in dictionaries."""

    tokens: tuple[int, ...]
    score: float


def begins_and_is(log_probs, text):
    """Log-probabilities of all texts that begin with a text, and of the text alone, frame by frame; blank is 0."""
    table = log_probs.double().exp().tolist()
    # Of prefixes of the text, by their lengths: alignments that end in its last token, and in a blank.
    in_token, in_blank, begins = [0.0] * (len(text) + 1), [1.0] + [0.0] * len(text), 0.0 if text else 1.0
    for frame in table:
        before = list(zip(in_token, in_blank, strict=True))
        for length, (token, blank) in enumerate(before):
            in_blank[length] = (token + blank) * frame[0]
            if length:
                entering = before[length - 1][1]
                if length == 1 or text[length - 1] != text[length - 2]:
                    entering += before[length - 1][0]
                in_token[length] = (token + entering) * frame[text[length - 1]]
                if length == len(text):
                    begins += entering * frame[text[-1]]
    return tuple(math.log(max(value, 1e-300)) for value in (begins, in_token[-1] + in_blank[-1]))


def spell(token_ids, is_complete):
    """Tokens of the LM in four of a CTC head that has its own."""
    spelled = [
        part for token in token_ids for part in ([1 + token % 4, 1 + token // 4] if token > 4 else [1 + token % 4])
    ]
    return Spelled(spelled, [])


class InDictionaries:
    """Each hypothesis scored anew from its first token."""

    def __init__(self, decoder, hs_pad, log_probs, names, arpa):
        self.decoder, self.hs_pad, self.log_probs = decoder, hs_pad.unsqueeze(0), log_probs
        self.has_ctc = "ctc" in names
        self.model = __import__("kenlm").Model(str(arpa)) if "ngram" in names else None

    def scores(self, tokens):
        ys_in = torch.tensor([[EOS, *tokens]])
        logits, _ = self.decoder(self.hs_pad, torch.tensor([self.hs_pad.size(1)]), ys_in, torch.tensor([ys_in.size(1)]))
        scores = dict(enumerate(logits[0, -1].log_softmax(-1).tolist()))
        before = begins_and_is(self.log_probs, spell(tokens, False).sure)[0] if self.has_ctc else 0.0
        for token in scores if self.has_ctc else ():
            whole = spell(tokens if token == EOS else [*tokens, token], False).sure
            heard = begins_and_is(self.log_probs, whole)[token == EOS]
            scores[token] = (1 - CTC_WEIGHT) * scores[token] + CTC_WEIGHT * (heard - before)
        if self.model is not None:
            for token in scores:
                words = [TOKENS[index] for index in (*tokens, token)]
                *_, (last, _, _) = self.model.full_scores(" ".join(words), bos=True, eos=False)
                scores[token] += NGRAM_WEIGHT * last
        return scores

    def search(self, width, most):
        running, ended = [Hypothesis((), 0.0)], []
        for _ in range(most):
            grown = {
                (*one.tokens, token): one.score + score
                for one in running
                for token, score in self.scores(one.tokens).items()
            }
            best = [Hypothesis(tokens, grown[tokens]) for tokens in sorted(grown, key=grown.get, reverse=True)[:width]]
            ended += [one for one in best if one.tokens[-1] == EOS]
            running = [one for one in best if one.tokens[-1] != EOS]
        return sorted(ended, key=lambda one: one.score, reverse=True)


@torch.no_grad()
@pytest.mark.parametrize("names", [["ctc"], ["ctc", "ngram"]], ids="+".join)
def test_with_a_ctc_head_of_other_tokens_the_n_best_is_that_of_a_search_in_dictionaries(decoder, frames, arpa, names):
    hs_pad, hlens, most = frames[0][:, :12], torch.tensor([12, 7, 9, 5]), 7
    log_probs = torch.randn(4, 12, 6).mul(2).log_softmax(-1)
    scorer = scorers_of(names, log_probs, hlens, arpa, spell)
    found = beam(decoder.start(hs_pad, hlens), [Bounds(most)] * 4, EOS, 3, 3, guards_loops=False, scorer=scorer)
    num_compared = 0
    for row, (length, hypotheses) in enumerate(zip(hlens.tolist(), found.hypotheses, strict=True)):
        args = decoder, hs_pad[row, :length], log_probs[row, :length], names, arpa
        expected = InDictionaries(*args).search(3, most)
        ours = [one for one in hypotheses if one.ending is Ending.BY_ITSELF and len(one.token_ids) < most]
        assert [(*one.token_ids, EOS) for one in ours] == [one.tokens for one in expected[: len(ours)]]
        assert [one.score for one in ours] == pytest.approx([one.score for one in expected[: len(ours)]], abs=1e-3)
        num_compared += len(ours)
    assert num_compared >= 4
