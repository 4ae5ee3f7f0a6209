"""The recogniser: what a batch gives, loops, encoders of ESPnet's, and what it refuses."""

import argparse
import dataclasses
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_larm.recognize.batch import Heads
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.ctc import CtcSearcher

TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]


@pytest.fixture(scope="module")
def recognizer(tiny_experiment):
    from espnet_larm.recognize.recognizer import Recognizer

    return Recognizer.from_files(tiny_experiment.config, tiny_experiment.model)


@pytest.fixture(scope="module")
def waveforms(tiny_experiment):
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(tiny_experiment.data.glob("*.wav"))]


@pytest.fixture
def build(larm_task, tmp_path):
    """A recogniser around an encoder of ESPnet's with random weights."""

    def build(encoder, encoder_conf, **model_conf):
        from espnet_larm.recognize.recognizer import Recognizer

        config = tmp_path / "config.yaml"
        values = {"token_list": TOKENS, "encoder": encoder, "encoder_conf": encoder_conf, "model_conf": model_conf}
        config.write_text(yaml.safe_dump({"decoder": "transformer", **values}))
        args = larm_task.get_parser().parse_args(["--config", str(config), "--output_dir", str(tmp_path)])
        model = larm_task.build_model(args).eval()
        if model.ctc is not None:
            torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
        return Recognizer(model, "".join)

    return build


SMALL = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 3}


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_samples_that_are_no_numbers_are_refused(recognizer, waveforms, bad):
    broken = waveforms[1].copy()
    broken[7] = bad
    for given in (broken, torch.as_tensor(broken)):
        with pytest.raises(ValueError, match="waveform 1 holds samples that are not finite numbers"):
            recognizer.recognize([waveforms[0], given])


def assert_same_transcripts(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.hypotheses.keys() == other.hypotheses.keys()
        for number, hypothesis in one.hypotheses.items():
            assert hypothesis.token_ids == other.hypotheses[number].token_ids
            # Sums over padded frames round differently.
            assert hypothesis.score == pytest.approx(other.hypotheses[number].score, rel=1e-4, abs=1e-4)


def test_random_weights_give_text_that_differs_between_utterances_and_loops(recognizer, waveforms):
    texts = [hypothesis.text for one in recognizer.recognize(waveforms) for hypothesis in one.hypotheses.values()]
    assert len(set(texts)) == 14
    assert all(len(text) > 2 for text in texts)


def test_batch_gives_what_each_utterance_gives_alone(recognizer, waveforms):
    alone = [recognizer.recognize([waveform])[0] for waveform in waveforms]
    assert_same_transcripts(recognizer.recognize(waveforms), alone)


def test_features_and_read_outs_of_a_batch_are_those_of_each_utterance(recognizer, waveforms):
    from espnet_larm.recognize.model.features import extract_features, pad_features
    from espnet_larm.recognize.model.read_outs import read_outs

    with torch.no_grad():
        features = [extract_features(recognizer.model, torch.from_numpy(waveform)) for waveform in waveforms]
        for loop, hs_pad, hlens, _ in read_outs(recognizer.model, *pad_features(features)):
            for index, one in enumerate(features):
                alone = {read.number: read for read in read_outs(recognizer.model, *pad_features([one]))}[loop]
                assert hlens[index] == alone.hlens[0]
                torch.testing.assert_close(hs_pad[index, : hlens[index]], alone.hs_pad[0], rtol=1e-4, atol=1e-4)


def test_features_are_those_of_espnets_model(recognizer, waveforms):
    from espnet_larm.recognize.model.features import extract_features

    speech, lens = torch.from_numpy(waveforms[1])[None], torch.tensor([len(waveforms[1])])
    with torch.no_grad():
        expected, _ = recognizer.model.normalize(*recognizer.model._extract_feats(speech, lens))
        assert torch.equal(extract_features(recognizer.model, speech[0]), expected[0])


def test_waveform_is_not_written_to(recognizer, waveforms):
    before = waveforms[0].copy()
    recognizer.recognize([waveforms[0]])
    assert np.array_equal(before, waveforms[0])


def test_beam_gives_the_search_on_the_models_posteriors(recognizer, waveforms):
    from espnet_larm.recognize.model.features import extract_features, pad_features
    from espnet_larm.recognize.model.read_outs import read_outs
    from espnet_larm.search.ctc.beam import prefix_beam

    model = recognizer.model
    (found,) = recognizer.recognize(waveforms[:1], DecodeConfig(beam_size=8, nbest=3))
    with torch.no_grad():
        features = extract_features(model, torch.from_numpy(waveforms[0]))
        *_, (_, hs_pad, hlens, _) = read_outs(model, *pad_features([features]))
        log_probs = model.ctc.log_softmax(hs_pad)
    log_probs[:, :, model.eos] = -torch.inf
    expected = prefix_beam(log_probs, hlens, 8)
    assert [one.token_ids for one in (found.best, *found.others)] == expected.to_lists()[0][:3]
    assert found.best.score == pytest.approx(expected.scores[0, 0].item())


def test_a_beam_over_a_batch_gives_what_each_utterance_gives_alone(recognizer, waveforms):
    config = DecodeConfig(beam_size=5, nbest=5)
    alone = [recognizer.recognize([waveform], config)[0] for waveform in waveforms]
    together = recognizer.recognize(waveforms, config)
    assert_same_transcripts(together, alone)
    assert [[other.text for other in one.others] for one in together] == [
        [other.text for other in one.others] for one in alone
    ]


def test_greedy_search_has_no_other_hypotheses(recognizer, waveforms):
    assert recognizer.recognize(waveforms[:1])[0].others == ()


def test_loops_are_read_out_up_to_the_wanted_one(recognizer, waveforms):
    for num_loops, expected in ((None, [2, 4]), (2, [2]), (6, [2, 4, 6])):
        transcript = recognizer.recognize(waveforms[:1], DecodeConfig(num_loops=num_loops))[0]
        assert list(transcript.hypotheses) == expected
        assert transcript.text == transcript.hypotheses[expected[-1]].text


def test_a_loop_is_the_same_whatever_the_last_one_is(recognizer, waveforms):
    few, many = (recognizer.recognize(waveforms, DecodeConfig(num_loops=loops)) for loops in (2, 6))
    assert [one.hypotheses[2] for one in few] == [one.hypotheses[2] for one in many]


def test_loops_that_cannot_be_read_out_are_refused_with_the_allowed(recognizer, waveforms):
    with pytest.raises(ValueError, match="num_loops is 3; allowed: 2, 4, 6, 8"):
        recognizer.recognize(waveforms, DecodeConfig(num_loops=3))


def test_cost_of_a_loop_holds_features_and_grows(recognizer, waveforms, monkeypatch):
    # Each look at the clock takes a second, so that a busy machine changes nothing.
    seconds = itertools.count()
    monkeypatch.setattr(Heads, "now", lambda _: float(next(seconds)))
    cost = recognizer.decode(waveforms, DecodeConfig(num_loops=6)).cost
    assert 0 < cost.features < cost.read_outs[2] < cost.read_outs[4] < cost.read_outs[6]


def test_cost_of_a_loop_leaves_out_the_searches_before_it(recognizer, waveforms, monkeypatch):
    # A clock that only searches move, so that a busy machine changes nothing.
    plain, clock = CtcSearcher.find, [0.0]

    def slow(*args):
        clock[0] += 5
        return plain(*args)

    monkeypatch.setattr(CtcSearcher, "find", slow)
    monkeypatch.setattr(Heads, "now", lambda _: clock[0])
    cost = recognizer.decode(waveforms[:1], DecodeConfig(num_loops=6)).cost
    assert cost.read_outs == {2: 5, 4: 5, 6: 5}


@pytest.mark.parametrize("num_samples", [0, 1, 256, 257, 959])
def test_too_short_utterance_is_empty_and_the_others_are_decoded(recognizer, waveforms, num_samples):
    short = np.ones(num_samples, dtype=np.float32)
    found = recognizer.recognize([waveforms[0], short, waveforms[1]])
    assert found[1].skipped and found[1].text == "" and list(found[1].hypotheses) == [2, 4]
    assert_same_transcripts([found[0], found[2]], recognizer.recognize(waveforms[:2]))


def test_stereo_is_refused(recognizer):
    with pytest.raises(ValueError, match=r"a waveform has the shape \(5, 2\); allowed: one dimension"):
        recognizer.recognize([np.zeros((5, 2))])


def test_espnets_encoder_gives_what_its_model_gives_one_by_one(build, waveforms):
    recognizer = build("transformer", SMALL, ctc_weight=1.0)
    assert recognizer.plan().numbers == (3,)
    for waveform, found in zip(waveforms, recognizer.recognize(waveforms), strict=True):
        with torch.no_grad():
            encoded, _ = recognizer.model.encode(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        path = torch.unique_consecutive(recognizer.model.ctc.argmax(encoded)[0]).tolist()
        assert found.best.token_ids == [token for token in path if token not in (0, len(TOKENS) - 1)]


def test_espnets_intermediate_layers_are_read_out(build, waveforms):
    conf = {**SMALL, "interctc_layer_idx": [1, 2], "interctc_use_conditioning": True}
    recognizer = build("conformer", conf, ctc_weight=1.0, interctc_weight=0.5)
    found = recognizer.recognize(waveforms)
    assert {tuple(one.hypotheses) for one in found} == {(1, 2, 3)}
    assert_same_transcripts(found, [recognizer.recognize([waveform])[0] for waveform in waveforms])


def test_espnets_encoder_with_a_short_utterance(build, waveforms):
    found = build("transformer", SMALL, ctc_weight=1.0).recognize([waveforms[0], np.ones(400, np.float32)])
    assert found[0].text and "too short" in found[1].skipped


def test_chunks_that_are_entered_are_what_the_encoder_sees(recognizer, waveforms):
    from espnet_larm.streaming.context import Context, in_context

    whole = recognizer.recognize(waveforms)
    with in_context(Context(1, 4)):
        chunks = recognizer.recognize(waveforms)
        assert_same_transcripts(chunks, [recognizer.recognize([waveform])[0] for waveform in waveforms])
    assert all(one.best.score != other.best.score for one, other in zip(chunks, whole, strict=True))
    assert_same_transcripts(recognizer.recognize(waveforms), whole)


def test_fast_conformer_gives_a_batch_what_each_utterance_gives_alone(build, waveforms):
    conf = {**SMALL, "subsampling_channels": 4, "subsampling_factor": 4}
    recognizer = build("fast_conformer", conf, ctc_weight=1.0)
    found = recognizer.recognize(waveforms)
    assert all(one.hypotheses[1].text for one in found)
    assert_same_transcripts(found, [recognizer.recognize([waveform])[0] for waveform in waveforms])


def test_blank_frames_that_skip_are_those_of_each_utterance_alone(recognizer, waveforms):
    # Random weights are sure of little.
    skipping = DecodeConfig(skip_blank=0.01)
    together = recognizer.recognize(waveforms, skipping)
    assert [each.best.score for each in together] != [each.best.score for each in recognizer.recognize(waveforms)]
    for found, waveform in zip(together, waveforms, strict=True):
        (alone,) = recognizer.recognize([waveform], skipping)
        assert found.hypotheses[2].token_ids == alone.hypotheses[2].token_ids
        assert found.best.token_ids == alone.best.token_ids
        assert found.best.score == pytest.approx(alone.best.score, rel=1e-4, abs=1e-4)


def test_skipping_is_refused_where_no_frame_could_skip(recognizer, build, monkeypatch):
    config = DecodeConfig(skip_blank=0.9)
    with pytest.raises(ValueError, match="skip_blank is 0.9, but TransformerEncoder has no loops"):
        build("transformer", SMALL, ctc_weight=1.0).plan(config)
    monkeypatch.setattr(recognizer.model.encoder, "checkpoint_period", 4)
    with pytest.raises(ValueError, match="skip_blank is 0.9, but the encoder has one checkpoint loop, 4"):
        recognizer.plan(config)
    with pytest.raises(ValueError, match="skip_blank is 1.5; allowed: 0 to 1"):
        DecodeConfig(skip_blank=1.5)


def test_loops_of_an_encoder_without_loops_are_refused(build):
    with pytest.raises(ValueError, match="num_loops is 2, but TransformerEncoder has no loops"):
        build("transformer", SMALL, ctc_weight=1.0).plan(DecodeConfig(num_loops=2))


def test_model_without_ctc_is_refused(build):
    with pytest.raises(ValueError, match="no CTC head .* --upstream"):
        build("transformer", SMALL, ctc_weight=0.0)


def test_equal_lengths_are_said(build, caplog):
    with caplog.at_level(logging.INFO):
        build("transformer", SMALL, ctc_weight=1.0)
    assert "TransformerEncoder is not padding-invariant: batches of equal length" in caplog.text


def test_double_precision_agrees(tiny_experiment, recognizer, waveforms):
    double = type(recognizer).from_files(tiny_experiment.config, tiny_experiment.model, dtype="float64")
    assert_same_transcripts(double.recognize(waveforms), recognizer.recognize(waveforms))


@pytest.mark.parametrize(("fs", "expected"), [("8k", 8000), (22050, 22050), (None, 16000)])
def test_sample_rate_is_the_front_ends(recognizer, monkeypatch, fs, expected):
    conf = {} if fs is None else {"fs": fs}
    args = argparse.Namespace(
        token_type="char", bpemodel=None, frontend_conf=conf, token_list=TOKENS, use_preprocessor=False
    )
    module = SimpleNamespace(load_model=lambda *_: (recognizer.model, args))
    monkeypatch.setattr("espnet_larm.recognize.recognizer.load_model", module.load_model)
    assert type(recognizer).from_files("config.yaml", "model.pth").sample_rate_hz == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_silence_in_half_precision_gives_numbers(tiny_experiment, waveforms, dtype):
    half = build_half(tiny_experiment, dtype)
    silence = np.zeros(16000, dtype=np.float32)
    for size in (1, 3):
        config = DecodeConfig(beam_size=size, nbest=size, with_words=True)
        for found in half.recognize([silence, waveforms[0]], config):
            scores = [one.score for one in (*found.hypotheses.values(), *found.others)]
            assert np.isfinite(scores).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_features_are_computed_in_single_precision(tiny_experiment, recognizer, waveforms, dtype):
    from espnet_larm.recognize.model.features import extract_features

    half = build_half(tiny_experiment, dtype)
    for waveform in (waveforms[0], np.zeros(8000, dtype=np.float32), waveforms[1] * 1e-5):
        expected = extract_features(recognizer.model, torch.from_numpy(waveform))
        found = extract_features(half.model, torch.from_numpy(waveform))
        assert found.dtype == half.heads.dtype
        assert torch.equal(found, expected.to(half.heads.dtype))


def test_half_precision_recognises_what_single_precision_does(tiny_experiment, recognizer, waveforms):
    found = build_half(tiny_experiment, "float16").recognize(waveforms)
    for one, other in zip(found, recognizer.recognize(waveforms), strict=True):
        # Close calls between random tokens go either way.
        assert abs(one.best.score - other.best.score) < 0.05 * abs(other.best.score) + 0.5


def build_half(tiny_experiment, dtype):
    from espnet_larm.recognize.recognizer import Recognizer

    return Recognizer.from_files(tiny_experiment.config, tiny_experiment.model, dtype=dtype)


def test_a_recogniser_holds_nothing_of_a_call_and_threads_may_share_it(recognizer, waveforms):
    configs = [
        DecodeConfig(num_loops=2),
        DecodeConfig(num_loops=6, beam_size=3, nbest=2),
        DecodeConfig(with_words=True),
    ]
    expected = [recognizer.recognize(waveforms, config) for config in configs]
    before = [dict(vars(part)) for part in (recognizer, recognizer.heads, recognizer.model, recognizer.model.encoder)]
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(recognizer.recognize, waveforms, config) for config in configs * 3]
        assert [call.result() for call in calls] == expected * 3
    after = [vars(part) for part in (recognizer, recognizer.heads, recognizer.model, recognizer.model.encoder)]
    assert before == after


def test_a_plan_of_one_model_is_made_once_and_used_often(recognizer, waveforms):
    plan = recognizer.plan(DecodeConfig(num_loops=2))
    assert plan.numbers == (2,) and recognizer.recognize(waveforms, plan) == recognizer.recognize(waveforms, plan)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.config.num_loops = 4
