"""Utterances: when texts are shown, become final and are withdrawn, from hand-made posteriors."""

import math

import pytest
import torch

from espnet_larm.live.paths import Search
from espnet_larm.live.utterances import Event, Rules, Shown, Utterances
from espnet_larm.recognize.output.words import FrameTimes

TOKENS = ["<blank>", "▁a", "▁b", "c", "<sos/eos>"]
BLANK, A, B, C, _ = range(5)
# Frame j spans 0.1 j to 0.1 (j + 1) s.
TIMES = FrameTimes(0.1, 1, None, 0.5)


def posteriors(*ids):
    return torch.nn.functional.one_hot(torch.tensor(ids, dtype=torch.long), len(TOKENS)).float().mul(9).log_softmax(1)


def to_text(tokens):
    return "".join(tokens).replace("▁", " ").strip()


def utterances(endpoint=3, most=100, hold=0, tokens=TOKENS, to_text=to_text, has_own_partials=False, beam_size=1):
    rules = Rules(endpoint, most, hold)
    return Utterances(Search(0, (4,), beam_size), tokens, to_text, TIMES, rules, has_own_partials)


def said(events):
    return [("final" if event.is_final else "partial", event.text) for event in events]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_pause_makes_what_was_said_final_with_times_in_the_stream(beam_size):
    found = utterances(beam_size=beam_size)
    assert said(found.read(*[posteriors(BLANK, A, C)] * 2)) == [("partial", "ac")]
    events = found.read(*[posteriors(BLANK, BLANK, BLANK, BLANK, B)] * 2)
    assert said(events) == [("final", "ac"), ("partial", "b")]
    final, partial = events
    assert (final.start_s, final.end_s) == pytest.approx((0.1, 0.3))
    assert [(word.text, word.token_ids) for word in final.words] == [("ac", (A, C))]
    assert (partial.start_s, partial.end_s, partial.words) == (pytest.approx(0.6), pytest.approx(0.8), ())
    (last,) = found.finish()
    assert (last.text, last.start_s, last.end_s) == ("b", pytest.approx(0.7), pytest.approx(0.8))
    assert found.shown == Shown(2, 0)


def test_a_pause_may_begin_and_end_anywhere_in_a_chunk():
    ids = [BLANK, A, BLANK, BLANK, BLANK, B, C, BLANK, BLANK, A, BLANK, BLANK, BLANK, BLANK, A]
    at_once, bit_by_bit = utterances(), utterances()
    whole = [event for event in at_once.read(*[posteriors(*ids)] * 2) + at_once.finish() if event.is_final]
    parts = [event for token in ids for event in bit_by_bit.read(*[posteriors(token)] * 2)] + bit_by_bit.finish()
    assert [event for event in parts if event.is_final] == whole
    assert [event.text for event in whole] == ["a", "bc a", "a"]


def test_the_last_word_is_held_until_silence_or_another_word_follows():
    found = utterances(hold=2)
    assert found.read(*[posteriors(A)] * 2) == []
    assert said(found.read(*[posteriors(C, B)] * 2)) == [("partial", "ac")]
    assert found.read(*[posteriors(BLANK)] * 2) == []
    assert said(found.read(*[posteriors(BLANK)] * 2)) == [("partial", "ac b")]
    assert found.shown == Shown(2, 0)


def test_a_word_that_grows_is_withdrawn_where_it_is_not_held():
    found = utterances(hold=0)
    assert said(found.read(*[posteriors(A)] * 2)) == [("partial", "a")]
    assert said(found.read(*[posteriors(C, B)] * 2)) == [("partial", "ac b")]
    assert found.shown == Shown(3, 1) and found.shown.share_withdrawn == pytest.approx(1 / 3)
    assert Shown().share_withdrawn == 0.0


def test_partial_texts_of_another_loop_are_replaced_by_final_ones():
    found = utterances(has_own_partials=True)
    assert said(found.read(posteriors(A, B), posteriors(A, A))) == [("partial", "a")]
    events = found.read(posteriors(*[BLANK] * 3), posteriors(*[BLANK] * 3))
    assert said(events) == [("final", "a b")]
    assert found.shown == Shown(2, 0)
    # The last loop finds nothing: what the other has shown is withdrawn.
    assert said(found.read(posteriors(BLANK), posteriors(C))) == [("partial", "c")]
    assert said(found.read(posteriors(BLANK, BLANK), posteriors(BLANK, BLANK))) == [("partial", "")]
    assert found.shown == Shown(3, 1)


def test_without_a_pause_all_words_but_the_last_become_final():
    found = utterances(endpoint=math.inf, most=5)
    events = found.read(*[posteriors(A, BLANK, B, C, C, C, A, BLANK, BLANK, BLANK)] * 2)
    assert said(events) == [("final", "a"), ("final", "bc"), ("partial", "a")]
    assert events[1].start_s == pytest.approx(0.2) and events[1].end_s == pytest.approx(0.6)
    # One word as long as an utterance may be ends where it is cut, and is not said again.
    long = utterances(endpoint=math.inf, most=4)
    assert said(long.read(*[posteriors(A, A, A, A, A, A, B)] * 2) + long.finish()) == [
        *(("final", "a"), ("partial", "b"), ("final", "b"))
    ]


def test_silence_is_dropped_and_nothing_is_said():
    found = utterances()
    for _ in range(50):
        assert found.read(*[posteriors(BLANK, 4, BLANK, BLANK)] * 2) == []
        assert found._final.num_frames < 3
    (event,) = found.read(*[posteriors(A)] * 2)
    assert event.end_s == pytest.approx(20.1)
    assert utterances().finish() == []


def test_tokens_that_tell_no_words_are_words_of_their_own():
    found = utterances(tokens=["<blank>", "x", "y", "z", "<sos/eos>"], to_text="".join, endpoint=math.inf, most=4)
    events = found.read(*[posteriors(A, B, C, A)] * 2)
    assert said(events) == [("final", "xyz"), ("partial", "x")]
    assert [word.text for word in events[0].words] == ["x", "y", "z"]


def test_a_space_ends_a_word():
    def text(tokens):
        return "".join(tokens).replace("<space>", " ")

    found = utterances(tokens=["<blank>", "x", "<space>", "z", "<sos/eos>"], to_text=text, hold=9, endpoint=5)
    assert found.read(*[posteriors(A, C)] * 2) == []
    assert found.read(*[posteriors(B)] * 2) == [Event(False, "xz", 0.0, pytest.approx(0.3))]
    # Nothing but a space is no text.
    only = utterances(tokens=["<blank>", "x", "<space>", "z", "<sos/eos>"], to_text=text, endpoint=2)
    assert only.read(*[posteriors(B, BLANK, BLANK)] * 2) + only.finish() == []
