"""From waveforms to hypotheses on a GPU, or on one that is not there: what the CPU finds."""

import copy

import pytest
import torch

from espnet_larm.recognize.config import DecodeConfig


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000)]


def pair(gpu, model, join):
    """Recognisers of a model on the CPU and on the GPU."""
    from espnet_larm.recognize.recognizer import Recognizer

    return Recognizer(model, join), Recognizer(gpu.put(copy.deepcopy(model)), join)


def assert_same(here, there, waveforms, config):
    expected, found = here.recognize(waveforms, config), there.recognize(waveforms, config)
    assert any(one.text for one in expected)
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.best.words for one in found] == [one.best.words for one in expected]
    scores = [one.best.score for one in expected]
    assert [one.best.score for one in found] == pytest.approx(scores, abs=1e-3)


LLM = {
    "greedily": DecodeConfig(),
    "with drafts of CTC": DecodeConfig(drafts="ctc", tokens_per_call=4),
    "with drafts of heads": DecodeConfig(drafts="heads"),
    "with a beam and CTC": DecodeConfig(beam_size=3, nbest=2, ctc_weight=0.3),
    "with a prefix beam": DecodeConfig(beam_size=3, beam_type="prefix", ctc_weight=0.3),
    "by the CTC head alone": DecodeConfig(ctc_weight=1.0, with_words=True),
}


@pytest.mark.parametrize("how", LLM)
def test_a_speech_llm_decodes(gpu, build_speech_llm, waveforms, how):
    model = build_speech_llm(decoder_conf={"num_heads": 3}).eval()
    with torch.no_grad():
        model.decoder.projector.out.weight.mul_(20)
    assert_same(*pair(gpu, model, " ".join), waveforms, LLM[how])


CTC = {
    "greedily, with times": DecodeConfig(with_words=True),
    "with a prefix beam": DecodeConfig(beam_size=4, nbest=2),
    "with hotwords": DecodeConfig(beam_size=4, hotwords="HAG"),
    "at an earlier loop": DecodeConfig(num_loops=2),
}


@pytest.mark.parametrize("how", CTC)
def test_a_looped_encoder_decodes(gpu, larm_task, tiny_experiment, waveforms, how):
    from espnet_larm.recognize.model.loading import load_model

    model, _ = load_model(tiny_experiment.config, tiny_experiment.model, "cpu", torch.float32)
    assert_same(*pair(gpu, model, "".join), waveforms, CTC[how])
