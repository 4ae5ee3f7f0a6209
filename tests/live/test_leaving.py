"""Chunks that leave a live stream by a rule: texts are those of the offline form, and loops are spared."""

import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_larm.live.config import LiveConfig
from espnet_larm.live.session import Feed, LiveRecognizer
from espnet_larm.live.step import Step
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.leaving.calibration import CTC, Calibrated
from espnet_larm.recognize.leaving.leave import run_chunks_until_left
from espnet_larm.recognize.model.features import extract_features
from tests.live.conftest import speech
from tests.live.test_early import finals
from tests.live.test_session import ENDLESS, run
from tests.streaming.streaming import pieces_of

# Of this model about half of the chunks leave early.
AUTO = DecodeConfig(num_loops="auto", loop_rule="confidence", loop_threshold=-0.03)
SIZES = st.lists(st.integers(0, 7000), min_size=1, max_size=4).filter(any)


@pytest.fixture(scope="module")
def live(recognizer):
    return LiveRecognizer(recognizer, ENDLESS, AUTO)


def offline(recognizer, samples, live):
    """Text of the offline form, and loops of the chunks."""
    model, ctc = recognizer.model, recognizer.heads.ctc
    xs = extract_features(model, torch.from_numpy(samples / 32768)).unsqueeze(0)
    with torch.no_grad():
        read_outs = model.encoder.read_outs(
            xs, torch.tensor([xs.size(1)]), model.ctc, context=live.context, by_chunk=True
        )
        leaving = recognizer.plan(AUTO).leaving
        read, loops = run_chunks_until_left(
            read_outs, ctc.log_probs, model.blank_id, leaving, live.context.chunk_frames
        )
        ((best,),) = ctc.find(read.hs_pad, read.hlens, 1)
    return best.text.strip(), loops[0].tolist(), int(read.hlens)


@given(length=st.integers(3000, 30_000), sizes=SIZES)
def test_a_session_says_what_the_offline_form_says(recognizer, live, length, sizes):
    samples = speech(length, seed=length)
    events, session = run(live, samples, sizes)
    text, loops, num_frames = offline(recognizer, samples, live)
    assert [event.text for event in events if event.is_final] == ([text] if text else [])
    lens = [min(3, num_frames - start) for start in range(0, num_frames, 3)]
    assert session.heard.mean_loops == pytest.approx(
        sum(loop * length for loop, length in zip(loops, lens, strict=True)) / num_frames
    )


def test_some_chunks_leave_early_and_others_do_not(recognizer, live):
    _, loops, _ = offline(recognizer, speech(100_000), live)
    assert 0.2 < loops.count(2) / len(loops) < 0.8 and set(loops) == {2, 4}
    _, session = run(live, speech(100_000), [4000])
    assert 2 < session.heard.mean_loops < 4
    plain = LiveRecognizer(recognizer, ENDLESS)
    assert not plain.lets_chunks_leave and live.lets_chunks_leave
    assert run(plain, speech(20_000), [4000])[1].heard.mean_loops == 4


@given(sizes=SIZES, partial_loop=st.sampled_from([2, 4]))
def test_partial_texts_change_no_final_one(recognizer, sizes, partial_loop):
    config = replace(ENDLESS, endpoint_s=0.2, hold_s=0.0, partial_loop=partial_loop)
    live, samples = LiveRecognizer(recognizer, config, AUTO), speech(40_000)
    plain, early = live.start(), live.start()
    wanted, events, told = [], [], []
    for begin, end in pieces_of(len(samples), sizes):
        wanted += plain.feed(samples[begin:end])
        events += early.feed(samples[begin:end], told.append)
    assert finals(events + early.finish()) == finals(wanted + plain.finish()) != []
    assert not finals(told) and (partial_loop == 4 or told)


def test_sessions_of_other_ages_say_what_each_says_alone(live):
    samples = [speech(20_000, 1), speech(13_000, 2)]
    alone = [run(live, each, [3200])[0] for each in samples]
    sessions, events = [live.start(), live.start()], [[], []]
    events[0] += sessions[0].feed(samples[0][:5000])
    for begin in range(0, 15_000, 3000):
        feeds = [
            Feed(sessions[0], samples[0][5000 + begin : 8000 + begin]),
            Feed(sessions[1], samples[1][begin : begin + 3000]),
        ]
        for own, found in zip(events, live.feed(feeds), strict=True):
            own.extend(found)
    for own, session, wanted in zip(events, sessions, alone, strict=True):
        assert finals(own + session.finish()) == finals(wanted)


def test_a_threshold_that_nobody_meets_gives_the_texts_of_the_last_loop(recognizer):
    samples = speech(30_000)
    never = replace(AUTO, loop_threshold=1.0)
    events, session = run(LiveRecognizer(recognizer, ENDLESS, never), samples, [2000])
    plain, _ = run(LiveRecognizer(recognizer, ENDLESS), samples, [2000])
    assert finals(events) == finals(plain) and session.heard.mean_loops == 4


def test_models_whose_loops_share_nothing_are_refused(recognizer, monkeypatch):
    monkeypatch.setattr(recognizer.model.encoder, "share_blocks", False)
    with pytest.raises(ValueError, match="trained with encoder_conf: share_blocks: false; set a number of loops"):
        LiveRecognizer(recognizer, LiveConfig(chunk_frames=3, left_chunks=2), AUTO)


def test_posteriors_that_nobody_reads_are_not_copied(recognizer, monkeypatch):
    read, split = [], Step._split

    def noted(step, log_probs, outputs):
        read.extend(outputs.hs_pad)
        return split(step, log_probs, outputs)

    monkeypatch.setattr(Step, "_split", noted)
    never, samples = replace(AUTO, loop_threshold=1.0), speech(10_000)
    run(LiveRecognizer(recognizer, ENDLESS, never), samples, [4000])
    assert set(read) == {4}
    read.clear()
    run(LiveRecognizer(recognizer, replace(ENDLESS, partial_loop=2), never), samples, [4000])
    assert set(read) == {2, 4}


def test_thresholds_of_whole_utterances_are_taken_with_a_warning(recognizer, monkeypatch, caplog):
    monkeypatch.setattr(recognizer, "calibration", {CTC: Calibrated("confidence", {"confidence": -0.25})})
    with caplog.at_level(logging.WARNING):
        LiveRecognizer(recognizer, ENDLESS, AUTO)
        assert caplog.text == ""
        live = LiveRecognizer(recognizer, ENDLESS, DecodeConfig(num_loops="auto"))
    assert live.lets_chunks_leave
    assert "chunks leave by confidence at -0.25, which was calibrated for whole utterances" in caplog.text
