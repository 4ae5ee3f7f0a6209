"""Inputs of speech encoders, beside those of the feature extractors of transformers."""

import numpy as np
import pytest
import torch
import transformers

from espnet_larm.pretrained.inputs import ParakeetMel, WhisperMel, unit_variance

LENGTHS = (16000, 8001, 400, 24000)


def waveforms():
    """Noise with an offset, and digital silence within."""
    generator = np.random.default_rng(0)
    made = [(0.3 * generator.standard_normal(length) + 0.05).astype(np.float32) for length in LENGTHS]
    made[0][4000:6000] = 0.0
    return made


def padded(rows):
    tensors = [torch.from_numpy(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), torch.tensor([len(row) for row in rows])


@pytest.mark.parametrize("num_bands", [80, 128])
def test_inputs_are_those_of_transformers_for_whisper(num_bands):
    extractor = transformers.WhisperFeatureExtractor(feature_size=num_bands)
    wanted = extractor(waveforms(), sampling_rate=16000, return_tensors="pt").input_features
    windows = torch.nn.functional.pad(padded(waveforms())[0], (0, 480000 - max(LENGTHS)))
    torch.testing.assert_close(WhisperMel(num_bands, 16000)(windows), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_bands", [80, 128])
@pytest.mark.parametrize("preemphasis", [0.97, None])
def test_inputs_are_those_of_transformers_for_parakeet(num_bands, preemphasis):
    extractor = transformers.ParakeetFeatureExtractor(feature_size=num_bands, preemphasis=preemphasis)
    mel = ParakeetMel(num_bands, 16000, 512, 400, 160, preemphasis)
    found, lens = mel(*padded(waveforms()))
    for row, length, samples in zip(found, lens.tolist(), waveforms(), strict=True):
        wanted = extractor(samples, sampling_rate=16000, return_tensors="pt")
        assert length == int(wanted["attention_mask"].sum())
        torch.testing.assert_close(row[:length], wanted["input_features"][0, :length], atol=1e-4, rtol=1e-4)
        assert not row[length:].any()


def test_inputs_are_those_of_transformers_for_waveforms():
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    wanted = extractor(waveforms(), sampling_rate=16000, padding=True, return_tensors="pt").input_values
    torch.testing.assert_close(unit_variance(*padded(waveforms())), wanted, atol=1e-5, rtol=1e-5)
