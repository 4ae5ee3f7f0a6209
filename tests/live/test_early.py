"""Partial texts of an early loop: told before the deeper loops run, with the same final texts."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_larm.live.config import LiveConfig
from espnet_larm.live.session import Feed, LiveRecognizer
from espnet_larm.live.utterances import Event
from espnet_larm.recognize.config import DecodeConfig
from tests.live.conftest import speech
from tests.live.test_utterances import BLANK, A, B, C, posteriors, said, utterances
from tests.streaming.streaming import pieces_of

EARLY = LiveConfig(chunk_frames=3, left_chunks=2, partial_loop=2, endpoint_s=0.2, hold_s=0.0)
SIZES = st.lists(st.integers(800, 12_000), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def live(recognizer):
    return LiveRecognizer(recognizer, EARLY)


def finals(events):
    """Final texts, their words and times; confidences differ by rounding, since a head reads one chunk or several."""
    return [
        (event.text, [(word.token_ids, word.start_s, word.end_s) for word in event.words])
        for event in events
        if event.is_final
    ]


def shown(events, before=""):
    """What a viewer sees behind the last final text, after some events."""
    for event in events:
        before = "" if event.is_final else event.text
    return before


@pytest.mark.parametrize("beam_size", [1, 3])
@settings(max_examples=6)
@given(length=st.integers(0, 30_000), sizes=SIZES)
def test_final_texts_and_what_is_shown_after_each_piece_stay_the_same(recognizer, beam_size, length, sizes):
    live = LiveRecognizer(recognizer, EARLY, DecodeConfig(beam_size=beam_size))
    samples, plain, early = speech(length, seed=length), live.start(), live.start()
    seen, seen_early = "", ""
    for begin, end in pieces_of(length, sizes):
        told = []
        wanted = plain.feed(samples[begin:end])
        events = early.feed(samples[begin:end], told.append)
        assert not finals(told) and finals(events) == finals(wanted)
        seen, seen_early = shown(wanted, seen), shown(told + events, seen_early)
        assert seen_early == seen
    assert finals(early.finish()) == finals(plain.finish())
    assert early.heard.audio_s == plain.heard.audio_s


def test_a_partial_text_is_told_before_the_deep_loops_run(live, monkeypatch):
    encoder, order = live._encoder, []
    step = encoder._step
    monkeypatch.setattr(encoder, "_step", lambda stack, loop, *rest: (order.append(loop), step(stack, loop, *rest))[1])
    session = live.start()
    for begin, end in pieces_of(20_000, [2400]):
        session.feed(speech(20_000)[begin:end], order.append)
    places = [place for place, each in enumerate(order) if isinstance(each, Event)]
    assert len(places) > 2
    # Directly behind loop 2 of the chunk, and loop 3 comes after it.
    assert all(order[place - 1 : place + 2 : 2] == [2, 3] for place in places)


def test_sessions_of_one_step_are_each_told_their_own(live):
    samples = [speech(9000, seed) for seed in range(3)]
    told = {0: [], 1: [], 2: []}
    sessions = [live.start() for _ in samples]
    feeds = [Feed(session, each) for session, each in zip(sessions, samples, strict=True)]
    found = live.feed(feeds, lambda place, event: told[place].append(event))
    for place, each in enumerate(samples):
        alone = []
        wanted = live.start().feed(each, alone.append)
        assert (said(told[place]), said(found[place])) == (said(alone), said(wanted))
    assert any(told.values())


def test_without_an_early_loop_nothing_is_told_early(recognizer):
    live = LiveRecognizer(recognizer, replace(EARLY, partial_loop=None))
    samples, told = speech(30_000), []
    assert live.start().feed(samples, told.append) == live.start().feed(samples) and told == []


def test_what_follows_a_final_text_of_the_same_step_is_not_told_before_it(live):
    told = []
    events = live.start().feed(speech(100_000), told.append)
    assert len(finals(events)) > 2 and told
    first = next(event for event in events if event.is_final)
    # The chunk in which the final text's pause ends is the last one that is told of.
    assert max(event.end_s for event in told) <= first.end_s + 0.2 + 3 * 0.04 + 0.2
    assert any(not event.is_final for event in events[:-1])


def test_an_error_behind_the_early_loop_changes_nothing(live, monkeypatch):
    samples = speech(30_000)
    session, encoder = live.start(), live._encoder
    events = session.feed(samples[:12_000], [].append)
    step = encoder._step

    def broken(stack, loop, *rest):
        if loop == 3:
            raise RuntimeError("out of memory")
        return step(stack, loop, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(encoder, "_step", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.feed(samples[12_000:], [].append)
    plain = live.start()
    wanted = finals(plain.feed(samples[:12_000]) + plain.feed(samples[12_000:]) + plain.finish())
    assert finals(events + session.feed(samples[12_000:]) + session.finish()) == wanted != []


def test_what_is_foreseen_of_the_next_utterance_stays_shown():
    found = utterances(has_own_partials=True)
    assert said(found.foresee(posteriors(A, BLANK, BLANK, BLANK, B))) == [("partial", "a b")]
    events = found.read(posteriors(A, BLANK, BLANK, BLANK, B), None)
    assert said(events) == [("final", "a"), ("partial", "b")]
    assert found.shown.words == 3 - 1 and found.shown.withdrawn == 0
    assert said(found.foresee(posteriors(C))) == [("partial", "bc")]
    assert found.read(posteriors(C), None) == []
    assert said(found.finish()) == [("final", "bc")]
    assert math.isclose(found.shown.share_withdrawn, 1 / 3)


def test_a_copy_goes_on_by_itself():
    for beam_size in (1, 3):
        first = utterances(has_own_partials=True, beam_size=beam_size)
        first.read(*[posteriors(A)] * 2)
        second = first.copy()
        assert said(second.read(*[posteriors(B, C)] * 2)) == [("partial", "a bc")]
        assert said(first.read(*[posteriors(C)] * 2)) == [("partial", "ac")]
        assert (said(first.finish()), said(second.finish())) == ([("final", "ac")], [("final", "a bc")])
