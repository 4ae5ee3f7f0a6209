"""The picture of sound: its shape, where a tone stands in it, and that blocks do not matter."""

import base64

import numpy as np
import pytest

from espnet_larm.serve.demo import spectrogram
from espnet_larm.serve.demo.spectrogram import NUM_BANDS, spectrogram_of

RATE = 16000


def noise(num_samples):
    return (0.1 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)


def tone(frequency_hz, rate=RATE):
    return np.sin(2 * np.pi * frequency_hz * np.arange(rate) / rate).astype(np.float32)


@pytest.mark.parametrize(("num_samples", "num_columns"), [(1, 1), (159, 1), (160, 2), (16000, 101)])
def test_a_column_is_centred_at_each_hop_of_the_sound(num_samples, num_columns):
    found = spectrogram_of([noise(num_samples)], RATE)
    assert found.levels.shape == (num_columns, NUM_BANDS) and found.hop_s == 0.01
    assert found.seconds == num_samples / RATE


def test_blocks_give_what_the_whole_gives():
    samples = noise(12345)
    whole = spectrogram_of([samples], RATE).levels
    assert np.array_equal(spectrogram_of(np.split(samples, [1, 700, 701, 9000]), RATE).levels, whole)


def test_a_higher_tone_stands_higher_and_a_click_where_it_is():
    bands = [int(spectrogram_of([tone(each)], RATE).levels[50].argmax()) for each in (200, 1000, 4000)]
    assert bands == sorted(set(bands))
    samples = np.zeros(RATE, np.float32)
    samples[8000] = 1.0
    loudest = spectrogram_of([samples], RATE).levels.max(axis=1)
    assert loudest.argmax() == 50 and loudest[:45].max() == loudest[55:].max() == 0


def test_the_loudest_has_full_level_and_silence_none():
    assert spectrogram_of([1e-3 * tone(1000)], RATE).levels.max() == 255
    assert spectrogram_of([np.zeros(RATE, np.float32)], RATE).levels.max() == 0
    # 40 dB below the loudest, of 70 that are seen.
    levels = spectrogram_of([tone(1000), 0.01 * tone(1000)], RATE).levels.max(axis=1)
    assert levels[150] == pytest.approx(255 * 30 / 70, abs=3)


def test_long_sound_has_fewer_columns_a_second_and_keeps_its_clicks(monkeypatch):
    monkeypatch.setattr(spectrogram, "MOST_COLUMNS", 40)
    samples = np.zeros(RATE, np.float32)
    samples[8000] = 1.0
    found = spectrogram_of([samples], RATE)
    assert found.hop_s == pytest.approx(0.03) and len(found.levels) == 34
    assert found.levels.max(axis=1).argmax() == 50 // 3


def test_as_json_has_a_column_after_the_other():
    found = spectrogram_of([tone(1000, 8000)], 8000)
    said = found.as_json()
    levels = np.frombuffer(base64.b64decode(said["levels"]), np.uint8)
    assert np.array_equal(levels.reshape(said["num_columns"], said["num_bands"]), found.levels)
    assert said["seconds"] == 1.0 and said["hop_s"] == 0.01
