"""Sessions: texts of the masked offline forward pass, for any pieces and any company; errors; memory."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_larm.live.config import LiveConfig
from espnet_larm.live.session import Feed, LiveRecognizer
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.streaming.context import Context, in_context
from tests.live.conftest import RATE, speech
from tests.streaming.streaming import pieces_of

ENDLESS = LiveConfig(chunk_frames=3, left_chunks=2, endpoint_s=math.inf, max_utterance_s=1e6)
GREEDY = DecodeConfig()
SIZES = st.lists(st.integers(0, 7000), min_size=1, max_size=4).filter(any)


def run(live, samples, sizes):
    """All events of a stream that comes in pieces, and its session."""
    session, events = live.start(), []
    for begin, end in pieces_of(len(samples), sizes):
        events += session.feed(samples[begin:end])
    return events + session.finish(), session


def finals(events):
    return [event for event in events if event.is_final]


def words_of(events):
    return [word for event in finals(events) for word in event.words]


def offline(recognizer, samples, live, decoding=GREEDY):
    """The hypothesis of the masked offline forward pass at the last loop, with times of words."""
    with in_context(live.context):
        (found,) = recognizer.recognize([samples / 32768], recognizer.plan(decoding).with_words())
    return found.hypotheses[max(found.hypotheses)]


def assert_same_words(found, wanted):
    assert [word.text for word in found] == [word.text for word in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert (one.start_s, one.end_s, one.confidence) == pytest.approx(
            (other.start_s, other.end_s, other.confidence), abs=1e-4
        )


@pytest.fixture(scope="module")
def live(recognizer):
    return LiveRecognizer(recognizer, ENDLESS)


@given(length=st.integers(0, 30_000), sizes=SIZES)
def test_a_session_says_what_the_masked_offline_forward_says(recognizer, live, length, sizes):
    samples = speech(length, seed=length)
    events, session = run(live, samples, sizes)
    hypothesis = offline(recognizer, samples, live) if length > 256 else None
    # A space alone is nothing said.
    text = "" if hypothesis is None else hypothesis.text.strip()
    assert [event.text for event in finals(events)] == ([text] if text else [])
    assert_same_words(words_of(events), [] if hypothesis is None else hypothesis.words)
    assert session.heard.audio_s == length / RATE


@pytest.mark.parametrize("options", [{"beam_size": 4}, {"num_loops": 2}, {"skip_blank": 0.9}])
def test_options_of_decoding_are_those_of_the_offline_pass(recognizer, options):
    decoding = DecodeConfig(**options)
    live, samples = LiveRecognizer(recognizer, ENDLESS, decoding), speech(40_000)
    events, _ = run(live, samples, [3001])
    hypothesis = offline(recognizer, samples, live, decoding)
    assert [event.text for event in finals(events)] == [hypothesis.text] and hypothesis.text
    assert_same_words(words_of(events), hypothesis.words)


def test_pauses_part_the_text_and_change_no_word(recognizer):
    live, samples = LiveRecognizer(recognizer, replace(ENDLESS, endpoint_s=0.12, hold_s=0.0)), speech(100_000)
    events, session = run(live, samples, [1600])
    assert len(finals(events)) > 2
    tokens = [token for word in words_of(events) for token in word.token_ids]
    space = recognizer.heads.ctc.token_list.index("<space>")
    wanted = [token for token in offline(recognizer, samples, live).token_ids if token != space]
    assert tokens == wanted
    ends = [event.end_s for event in finals(events)]
    assert ends == sorted(ends) and any(not event.is_final for event in events)
    assert session.heard.shown.words > 0


@given(data=st.data())
def test_sessions_that_share_steps_say_what_each_says_alone(recognizer, live, data):
    lens = data.draw(st.lists(st.integers(0, 12_000), min_size=2, max_size=3), label="lens")
    waiting = {index: speech(length, index) for index, length in enumerate(lens)}
    sessions, events = [live.start() for _ in lens], [[] for _ in lens]
    while waiting:
        group = [index for index in waiting if data.draw(st.booleans(), label="here")] or list(waiting)
        feeds = []
        for index in group:
            size = data.draw(st.integers(0, 6000), label="size")
            feeds.append(Feed(sessions[index], waiting[index][:size], size >= len(waiting[index])))
            waiting[index] = waiting[index][size:]
        for feed, index, found in zip(feeds, group, live.feed(feeds), strict=True):
            events[index] += found
            if feed.is_last:
                del waiting[index]
    for index, length in enumerate(lens):
        alone, _ = run(live, speech(length, index), [10**6])
        assert_same_words(words_of(events[index]), words_of(alone))
        assert sessions[index].heard.audio_s == length / RATE


def test_partial_texts_are_read_at_an_earlier_loop_of_the_same_pass(recognizer):
    config = replace(ENDLESS, partial_loop=2, hold_s=0.0)
    shallow, deep = (LiveRecognizer(recognizer, each) for each in (config, replace(config, partial_loop=None)))
    samples = speech(40_000)
    (few, session), (many, _) = (run(each, samples, [8000]) for each in (shallow, deep))
    assert finals(few) == finals(many)
    *_, last = [event for event in few if not event.is_final]
    two = LiveRecognizer(recognizer, replace(ENDLESS, hold_s=0.0), DecodeConfig(num_loops=2))
    *_, wanted = [event for event in run(two, samples, [8000])[0] if not event.is_final]
    assert last.text == wanted.text != [event for event in many if not event.is_final][-1].text
    assert 0 < session.heard.shown.share_withdrawn <= 1


def test_a_fast_conformer_is_live_too(live_files, tmp_path):
    from espnet_larm.train.task import LarmASRTask

    conf = Path(__file__).parents[2] / "conf/tiny/train_fast_conformer.yaml"
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("\n".join(["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]) + "\n")
    options = ["--config", str(conf), "--token_list", str(tokens), "--token_type", "char", "--output_dir", "x"]
    model = LarmASRTask.build_model(LarmASRTask.get_parser().parse_args(options)).eval()
    torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
    recognizer = Recognizer(model, lambda tokens: "".join(tokens).replace("<space>", " "))
    live = LiveRecognizer(recognizer, replace(ENDLESS, chunk_frames=2))
    assert live.context == Context(2, 2) and live.latency_s == pytest.approx(0.01 * 8 + 0.016)
    samples = speech(30_000)
    assert_same_words(words_of(run(live, samples, [999])[0]), offline(recognizer, samples, live).words)


def test_defaults_are_the_shortest_trained_chunk_and_the_most_trained_left_ones(recognizer):
    assert LiveRecognizer(recognizer).context == Context(4, 3)
    # A chunk of 3 frames of 40 ms, three features of the subsampling, and half a window.
    assert LiveRecognizer(recognizer).latency_s == pytest.approx(0.12 + 0.03 + 0.016)


def test_floats_and_16_bit_samples_are_the_same(live):
    samples = speech(30_000)
    whole, _ = run(live, samples, [5000])
    assert run(live, (samples / 32768).astype(np.float32), [5000])[0] == whole
    assert run(live, samples / 32768, [5000])[0] == whole


def size_of(session):
    unheard = sum(each.nbytes for each in session.unheard[:2])
    path = session.utterances._final
    return unheard + session.state.num_bytes, path.num_frames


def test_memory_does_not_grow_with_the_length_of_a_stream(recognizer):
    live = LiveRecognizer(recognizer, LiveConfig(chunk_frames=3, endpoint_s=0.5, max_utterance_s=3.0))
    session, sizes = live.start(), []
    for number in range(60):
        session.feed(speech(8000, number))
        sizes.append(size_of(session))
    tensors, frames = zip(*sizes, strict=True)
    assert max(tensors) <= max(tensors[:10]) * 1.1 and max(frames) <= 3.0 / 0.04


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (np.zeros((2, 3), np.float32), ValueError, r"shape \(2, 3\); allowed: one dimension"),
        (np.array([np.nan], np.float32), ValueError, "not all finite"),
        (np.array([9000.0]), ValueError, "go up to 9000; floats lie in"),
        (np.zeros(3, np.uint8), TypeError, "type uint8; allowed: arrays of int16, float32, float64"),
        ([0.0], TypeError, "type list; allowed"),
    ],
)
def test_samples_that_are_none_are_refused_and_change_nothing(live, samples, error, message):
    good, session = speech(20_000), live.start()
    events = session.feed(good[:9000])
    with pytest.raises(error, match=message):
        live.feed([Feed(session, good[9000:]), Feed(live.start(), samples)])
    events += session.feed(good[9000:]) + session.finish()
    assert words_of(events) == words_of(run(live, good, [9000])[0])


def test_a_session_that_has_ended_is_refused(live):
    session = live.start()
    assert session.finish() == []
    with pytest.raises(ValueError, match="the session has ended; start a new one"):
        session.feed(speech(100))
    assert live.feed([]) == []


def test_a_session_of_another_recogniser_and_one_that_stands_twice_are_refused(recognizer, live):
    session, other = live.start(), LiveRecognizer(recognizer, ENDLESS).start()
    for feeds in ([Feed(session, speech(10))] * 2, [Feed(other, speech(10))]):
        with pytest.raises(ValueError, match="feeds name a session twice, or one of another recogniser"):
            live.feed(feeds)


@pytest.mark.parametrize(
    ("config", "decoding", "message"),
    [
        ({"partial_loop": 3}, {}, "partial_loop is 3; allowed: 2, 4"),
        ({}, {"num_loops": "auto"}, "num_loops is auto, but there is no loops_calibration.json beside the model"),
        ({}, {"num_loops": 3}, "num_loops is 3; allowed"),
        ({}, {"drafts": "ctc"}, "drafts is ctc: an option of an LM's search"),
    ],
)
def test_options_that_do_not_go_with_the_model_are_refused(recognizer, config, decoding, message):
    with pytest.raises(ValueError, match=message):
        LiveRecognizer(recognizer, LiveConfig(**config), DecodeConfig(**decoding))


def test_options_out_of_range_are_refused():
    for name, value in (("endpoint_s", 0.0), ("endpoint_s", math.nan), ("hold_s", -1.0), ("max_utterance_s", 0.5)):
        with pytest.raises(ValueError, match=f"{name} is"):
            LiveConfig(**{name: value})


def test_models_that_cannot_be_live_are_refused(tiny_experiment, recognizer):
    plain = Recognizer.from_files(tiny_experiment.config, tiny_experiment.model)
    with pytest.raises(ValueError, match="normalises by UtteranceMVN"):
        LiveRecognizer(plain, ENDLESS)
    plain.model.normalize = None
    with pytest.raises(ValueError, match=r"was not trained in chunks .*name chunk_frames and left_chunks"):
        LiveRecognizer(plain)
    assert LiveRecognizer(plain, ENDLESS).context == Context(2, 3)
    plain.preprocess = SimpleNamespace(speech_volume_normalize=1.0)
    with pytest.raises(ValueError, match="speech_volume_normalize"):
        LiveRecognizer(plain, ENDLESS)
    plain.model.postencoder = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="the postencoder Linear, which may read the whole utterance"):
        LiveRecognizer(plain, ENDLESS)
    plain.model.encoder = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="encoder is Linear, which does not stream; allowed for live use"):
        LiveRecognizer(plain, ENDLESS)
