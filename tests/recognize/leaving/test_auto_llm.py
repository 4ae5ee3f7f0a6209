"""num_loops auto with an LM: it reads of each utterance the frames of the loop at which that left."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.leaving.calibration import Calibrated

NUM_LOOPS = 4


@pytest.fixture
def recognizer(build_speech_llm):
    from espnet_larm.recognize.recognizer import Recognizer

    model = build_speech_llm(encoder_conf={"num_loops": NUM_LOOPS}, model_conf={"interctc_weight": 0.75}).eval()
    with torch.no_grad():
        # Small embeddings of speech would all give one text, and FiLM begins at zero.
        model.decoder.projector.out.weight.mul_(20)
        for parameter in model.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.ctc.ctc_lo.weight.mul_(10)
    return Recognizer(model, " ".join)


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000, 12000)]


@pytest.fixture
def auto(recognizer, waveforms):
    """Options with which utterances leave at different loops."""
    for threshold in np.linspace(-1.5, -0.01, 60):
        config = DecodeConfig(num_loops="auto", loop_rule="confidence", loop_threshold=float(threshold))
        used = {each.loops for each in recognizer.recognize(waveforms, replace(config, ctc_weight=1.0))}
        if len(used) > 1:
            return config
    raise AssertionError("all utterances leave together")


@pytest.mark.parametrize("options", [{}, {"beam_size": 3, "nbest": 2}, {"ctc_weight": 0.3}, {"drafts": "ctc"}])
def test_the_lm_says_what_it_says_of_each_utterance_at_its_loop(recognizer, waveforms, auto, options):
    together = recognizer.recognize(waveforms, replace(auto, **options))
    assert len({each.loops for each in together}) > 1 and len({each.best.score for each in together}) == 4
    for found, waveform in zip(together, waveforms, strict=True):
        fixed = DecodeConfig(num_loops=found.loops, **options)
        (alone,) = recognizer.recognize([waveform], fixed)
        assert found.best.token_ids == alone.best.token_ids
        assert [each.token_ids for each in found.others] == [each.token_ids for each in alone.others]
        assert found.best.score == pytest.approx(alone.best.score, abs=1e-3)


def test_the_lm_and_ctc_have_calibrations_of_their_own(recognizer):
    recognizer.calibration = {"ctc": Calibrated("confidence", {"confidence": -0.3})}
    with pytest.raises(ValueError, match="no loops_calibration.json .* for decoding by its LM"):
        recognizer.plan(DecodeConfig(num_loops="auto"))
    plan = recognizer.plan(DecodeConfig(num_loops="auto", ctc_weight=1.0))
    assert plan.leaving.threshold == -0.3 and plan.llm is None


def test_a_model_without_a_ctc_head_is_refused(build_speech_llm):
    from espnet_larm.recognize.recognizer import Recognizer

    changes = {"model_conf": {"ctc_weight": 0.0, "interctc_weight": 0.0}, "encoder_conf": {"feedback": False}}
    recognizer = Recognizer(build_speech_llm(**changes).eval(), str)
    with pytest.raises(ValueError, match="num_loops is auto, but the model has no CTC head"):
        recognizer.plan(DecodeConfig(num_loops="auto", loop_rule="confidence", loop_threshold=-0.1))


def test_traces_have_the_errors_of_the_lms_hypotheses(recognizer, tiny_experiment):
    from espnet_larm.calibrate.loop_traces import trace
    from espnet_larm.recognize.audio import AudioTable

    table = AudioTable(tiny_experiment.data / "wav.scp", "sound", 16000)
    keys = table.keys(None)
    found = trace(recognizer, table, dict.fromkeys(keys, "A B C"))
    assert found.is_by_llm and found.loops == (1, 2, 3, 4) and found.errors.shape == (7, 4)
    waveforms = [table.load([key]).waveforms[key] for key in keys]
    for column, loop in enumerate(found.loops):
        texts = [recognizer.recognize([each], DecodeConfig(num_loops=loop))[0].text for each in waveforms]
        assert [each[column] for each in found.texts] == texts
        assert np.isfinite(found.numbers["confidence"][:, column]).all()
    assert np.isnan(found.numbers["state"][:, :2]).all() and np.isfinite(found.numbers["state"][:, 2:]).all()
