"""Prefix beam search over a tiny LM, beside the search among all texts, and beside the ordinary beam."""

import pytest
import torch

from espnet_larm.search.beam import beam
from espnet_larm.search.ctc.prefix import CtcPrefixScores
from espnet_larm.search.ctc_scorer import CtcScorer, same_tokens
from espnet_larm.search.hypotheses import Bounds, Ending
from espnet_larm.search.prefix_beam import prefix_beam

EOS = 2


def pairs(hypotheses):
    return [(one.token_ids, one.score) for one in hypotheses]


@pytest.mark.parametrize("num_ahead", [0, 1, 3])
def test_a_wide_beam_finds_the_best_of_all_texts(toy, frames, one_by_one, assert_same, num_ahead):
    """Whatever its heads guess, which here is at random."""
    heads = toy.random_heads(num_ahead) if num_ahead else None
    found = prefix_beam(toy.start(frames), [Bounds(3)] * 4, EOS, 40, 5, scorer=toy.few(), lookahead=heads)
    for one, texts in zip(one_by_one, found.hypotheses, strict=True):
        assert_same(pairs(texts), toy.all_texts(one, 3)[:5])


def test_a_narrow_beam_finds_the_best_of_all_texts_as_often_as_an_ordinary_one(toy):
    """There are 32 utterances with 364 texts each; the figures are printed (pytest -rP)."""
    frames = torch.randn(32, 12, toy.encoder_size) * 5, torch.full((32,), 12)
    singly = [(hs.unsqueeze(0), length.unsqueeze(0)) for hs, length in zip(*frames, strict=True)]
    best = [toy.all_texts(one, 5)[0][0] for one in singly]
    heads = toy.random_heads(3)
    shares = {}
    for width in (1, 2, 4, 8):
        for name, search, options in (("ordinary", beam, {}), ("prefix", prefix_beam, {"lookahead": heads})):
            found = search(toy.start(frames), [Bounds(5)] * 32, EOS, width, scorer=toy.few(), **options)
            shares[name, width] = sum(
                one.token_ids == text for (one,), text in zip(found.hypotheses, best, strict=True)
            ) / len(best)
            print(f"{name}, beam of {width}: the best of all texts in {shares[name, width]:.0%} of 32 utterances")
    for width in (2, 4, 8):
        assert shares["prefix", width] >= shares["ordinary", width] - 0.1
    assert shares["prefix", 8] >= 0.9 and shares["prefix", 1] < 1.0


def test_scores_are_the_lms_own(toy, frames, one_by_one, assert_same):
    """Scores are what one teacher-forced batch gives."""
    heads = toy.random_heads(3)
    found = prefix_beam(toy.start(frames), [Bounds(30)] * 4, EOS, 4, 4, lookahead=heads)
    for one, texts in zip(one_by_one, found.hypotheses, strict=True):
        assert len(texts) == 4 and all(text.ending is Ending.BY_ITSELF for text in texts)
        expected = toy.score(one, [text.token_ids for text in texts])
        assert [text.score for text in texts] == pytest.approx(expected, abs=1e-3)
        assert expected == sorted(expected, reverse=True)


def test_a_batch_gives_what_each_utterance_gives_alone(toy, frames, one_by_one, assert_same):
    bounds = [Bounds(30), Bounds(4), Bounds(30, least=6), Bounds(0)]
    heads = toy.random_heads(3)
    together = prefix_beam(toy.start(frames), bounds, EOS, 4, 3, lookahead=heads)
    num_row_calls = 0
    for one, bound, texts in zip(one_by_one, bounds, together.hypotheses, strict=True):
        alone = prefix_beam(toy.start(one), [bound], EOS, 4, 3, lookahead=heads)
        assert_same(pairs(texts), pairs(alone.hypotheses[0]))
        assert [text.ending for text in texts] == [text.ending for text in alone.hypotheses[0]]
        assert alone.num_calls == alone.num_row_calls
        num_row_calls += alone.num_row_calls
    assert together.num_row_calls == num_row_calls
    assert all(len(text.token_ids) >= 6 for text in together.hypotheses[2])
    assert all(len(text.token_ids) <= 4 for text in together.hypotheses[1])
    assert [text.token_ids for text in together.hypotheses[3]] == [[]]


def test_heads_that_know_the_text_save_calls(toy, frames, one_by_one, assert_same):
    first, bounds = one_by_one[0], [Bounds(40, least=20)]
    alone = prefix_beam(toy.start(first), bounds, EOS, 3, 3)
    heads = toy.foresight(first, [text.token_ids for text in alone.hypotheses[0]], 5)
    found = prefix_beam(toy.start(first), bounds, EOS, 3, 3, lookahead=heads)
    assert found.hypotheses[0][0].score >= alone.hypotheses[0][0].score - 1e-3
    assert found.num_calls <= 0.5 * alone.num_calls and alone.num_calls > 20


@pytest.mark.parametrize("kind", ["llama"])
def test_nothing_is_read_twice(toy, one_by_one):
    first, bounds = one_by_one[0], [Bounds(40, least=20)]
    (alone,) = prefix_beam(toy.start(first), bounds, EOS, 1).hypotheses[0]
    found = prefix_beam(toy.start(first), bounds, EOS, 1, lookahead=toy.foresight(first, [alone.token_ids], 5))
    assert found.hypotheses[0][0].token_ids == alone.token_ids
    assert found.num_row_tokens == 1 + len(alone.token_ids) > 20


def test_a_search_ends_when_nothing_better_can_come(toy, frames):
    one, several = (prefix_beam(toy.start(frames), [Bounds(30)] * 4, EOS, 4, nbest) for nbest in (1, 4))
    assert [pairs(texts)[0][0] for texts in one.hypotheses] == [pairs(texts)[0][0] for texts in several.hypotheses]
    assert one.num_row_calls < several.num_row_calls


@pytest.mark.parametrize("kind", ["llama"])
def test_ends_that_came_too_early_are_marked_whatever_heads_guess(toy, frames):
    bounds, marks = [Bounds(12, least=6)] * 4, []
    for lookahead in (None, toy.random_heads(3)):
        found = prefix_beam(toy.start(frames), bounds, EOS, 40, 40, scorer=toy.few(), lookahead=lookahead)
        marks.append([{tuple(text.token_ids): text.was_held_open for text in texts} for texts in found.hypotheses])
    both = [
        (one[tokens], other[tokens]) for one, other in zip(*marks, strict=True) for tokens in one if tokens in other
    ]
    assert len(both) > 40 and {True, False} == {mark for mark, _ in both}
    assert all(one == other for one, other in both)


@pytest.mark.parametrize("kind", ["llama"])
def test_loops_are_ended(toy, frames, one_by_one, assert_same):
    """With an end that the LM never finds."""
    found = prefix_beam(toy.start(frames), [Bounds(150)] * 4, 8, 2, 2)
    endings = {text.ending for texts in found.hypotheses for text in texts}
    assert Ending.REPETITION in endings


def test_texts_that_spell_the_same_are_found_once(toy, frames, one_by_one, assert_same):
    """Tokens 3 and 4 have the same letter."""
    letters = {3: "a", 4: "a", 5: "b"}

    def string_of(tokens):
        return "".join(letters[token] for token in tokens)

    found = prefix_beam(toy.start(frames), [Bounds(3)] * 4, EOS, 40, 4, scorer=toy.few(), string_of=string_of)
    assert set(letters) == set(toy.tokens)
    for one, texts in zip(one_by_one, found.hypotheses, strict=True):
        strings = [string_of(text.token_ids) for text in texts]
        assert len(set(strings)) == 4
        best = toy.all_texts(one, 3)[0]
        assert_same(pairs(texts)[:1], [best])


def test_ctc_is_heard_on_each_token_and_each_guess(toy, frames, assert_same):
    """By beams that hold all texts."""
    log_probs = (3 * torch.randn(4, 20, 13)).log_softmax(-1)

    def scorer():
        return CtcScorer(CtcPrefixScores(log_probs, frames[1]), same_tokens, EOS, 0.4, num_candidates=13)

    heads = toy.random_heads(3)
    expected = beam(toy.start(frames), [Bounds(2)] * 4, EOS, 180, 5, scorer=scorer())
    for lookahead in (None, heads):
        found = prefix_beam(toy.start(frames), [Bounds(2)] * 4, EOS, 180, 5, scorer=scorer(), lookahead=lookahead)
        for texts, others in zip(found.hypotheses, expected.hypotheses, strict=True):
            assert_same(pairs(texts), pairs(others))
