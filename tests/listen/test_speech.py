"""Where speech is: none in silence, noise and music, all of it in utterances."""

import numpy as np
import pytest
import soxr

from espnet_larm.listen.speech import find_speech

RATE = 16000


@pytest.mark.parametrize("name", ["silence", "faint", "loud", "music"])
def test_what_is_no_speech_has_none(noises, name):
    assert find_speech(noises[name], RATE) == []


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.5, 1.0])
def test_what_is_loud_in_an_utterance_is_in_a_stretch_whatever_silence_is_around(utterances, seconds):
    silence = np.zeros(int(seconds * RATE), np.float32)
    for samples in utterances:
        padded = np.concatenate([silence, samples, silence])
        inside = np.zeros(len(padded), bool)
        for start, end in find_speech(padded, RATE):
            inside[start:end] = True
        # Breath, and clicks of the microphone, are outside.
        power = np.square(padded, dtype=np.float64)
        assert power[inside].sum() > 0.97 * power.sum()


def test_silence_around_is_cut_to_a_margin_and_a_long_pause_parts_stretches(utterances):
    silence = np.zeros(5 * RATE, np.float32)
    found = find_speech(np.concatenate([silence, utterances[0], silence, utterances[1], silence]), RATE)
    assert len(found) == 2
    for stretch, start, samples in zip(found, (0, len(utterances[0]) + 5 * RATE), utterances, strict=False):
        assert stretch.start - start >= 4.7 * RATE and stretch.end - start < 5.4 * RATE + len(samples)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_are_resampled_for_the_detector(utterances, rate):
    (found,) = find_speech(soxr.resample(utterances[0], RATE, rate), rate)
    (wanted,) = find_speech(utterances[0], RATE)
    np.testing.assert_allclose(np.array(found) / rate, np.array(wanted) / RATE, atol=0.1)


def test_no_samples_have_no_speech():
    assert find_speech(np.zeros(0, np.float32), RATE) == []
    assert find_speech(np.zeros(100, np.float32), RATE) == []
