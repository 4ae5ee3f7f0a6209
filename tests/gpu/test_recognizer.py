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
    "with what CTC is sure of": DecodeConfig(accept="relaxed", relaxed_entropy=1.5, relaxed_tau=0.2),
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
    "as confident as need be": DecodeConfig(num_loops="auto", loop_rule="confidence", loop_threshold=-0.8),
}


@pytest.mark.parametrize("how", CTC)
def test_a_looped_encoder_decodes(gpu, larm_task, tiny_experiment, waveforms, how):
    from espnet_larm.recognize.model.loading import load_model

    model, _ = load_model(tiny_experiment.config, tiny_experiment.model, "cpu", torch.float32)
    assert_same(*pair(gpu, model, "".join), waveforms, CTC[how])


@pytest.mark.parametrize("ctc_weight", [None, 0.3])
def test_an_editor_edits(gpu, build_speech_llm, save_lm, tmp_path, waveforms, ctc_weight):
    words = ["<unk>", "<s>", "</s>", *"ABCDEFGH", "AB", "CD"]
    llm = save_lm(tmp_path / "tied", words, tie_word_embeddings=True, max_position_embeddings=512)
    conf = {"llm": llm, "projector_frames": 1, "adaptation": "lora", "lora_conf": {"r": 2}, "editing": {}}
    model = build_speech_llm(words=words, decoder_conf=conf, model_conf={"edit_weight": 1.0, "edit_only": True}).eval()
    with torch.no_grad():
        model.decoder.projector.out.weight.mul_(20)
        torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
    more = {} if ctc_weight is None else {"beam_size": 3, "nbest": 2, "ctc_weight": ctc_weight}
    here, there = pair(gpu, model, " ".join)
    gpu.waits.clear()
    assert_same(here, there, waveforms, DecodeConfig(search="edit", edit_passes=1 if more else 2, **more))
    # A pass for the batch, and no step.
    assert gpu.num_waits <= 60, gpu.waits


def test_streams_are_heard_in_chunks_with_a_bounded_number_of_waits(gpu, tiny_experiment, larm_task, tmp_path):
    from espnet_larm.recognize.model.loading import load_model
    from espnet_larm.streaming.context import Context

    streaming = {"chunk_frames": ["full", 3, 8], "left_chunks": [2, 4]}
    changes = {
        "normalize": None,
        "normalize_conf": {},
        "encoder_conf": {"streaming": streaming, "block": "transformer"},
    }
    config = tiny_experiment.with_config(tmp_path / "config.yaml", **changes)
    weights = torch.load(tiny_experiment.model, weights_only=True)
    weights["encoder.contexts.draws"] = torch.tensor([0, 0])
    torch.save(weights, tmp_path / "model.pth")
    model, _ = load_model(config, tmp_path / "model.pth", "cpu", torch.float32)
    xs = torch.randn(2, 120, 80)
    num_calls = 0

    def hear(model, put):
        nonlocal num_calls
        state, found = model.encoder.start_streams(Context(3, 2), num_streams=2), []
        for start in range(0, 120, 20):
            lens = torch.tensor([20, 11 if start == 60 else 20])
            is_last = torch.tensor([start == 100] * 2)
            outputs, state = model.encoder.stream(state, put(xs[:, start : start + 20]), lens, model.ctc, is_last)
            found.append([each.cpu() for each in (outputs.hlens, *outputs.hs_pad.values())])
            num_calls += 1
        return found

    with torch.no_grad():
        expected = hear(model, lambda each: each)
        there = gpu.put(copy.deepcopy(model))
        gpu.waits.clear()
        num_calls = 0
        found = hear(there, gpu.put)
    for one, other in zip(found, expected, strict=True):
        for some, others in zip(one, other, strict=True):
            torch.testing.assert_close(some, others, rtol=1e-4, atol=1e-4)
    assert gpu.num_waits <= 12 * num_calls, gpu.waits
