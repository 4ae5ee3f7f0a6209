"""Audio as callers have it: paths, pairs, arrays; what is refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_larm.listen.inputs import open_blocks

RATE = 16000
SAMPLES = np.linspace(-0.5, 0.5, RATE, dtype=np.float32)


def read(audio, sample_rate=None, rate=RATE):
    return np.concatenate(list(open_blocks(audio, sample_rate, rate)))


def test_arrays_pairs_tensors_and_paths_are_the_same_audio(tmp_path):
    soundfile.write(tmp_path / "a.wav", SAMPLES, RATE, subtype="FLOAT")
    for audio, rate in (
        (SAMPLES, RATE),
        ((SAMPLES, RATE), None),
        ((SAMPLES.astype(np.float64), np.int64(RATE)), None),
        (torch.from_numpy(SAMPLES), RATE),
        (tmp_path / "a.wav", None),
        (str(tmp_path / "a.wav"), None),
    ):
        np.testing.assert_array_equal(read(audio, rate), SAMPLES)


@pytest.mark.parametrize(("kind", "scale"), [(np.int16, 2**15), (np.int32, 2**31)])
def test_integers_have_their_full_scale(kind, scale):
    np.testing.assert_allclose(read((SAMPLES * scale).astype(kind), RATE), SAMPLES, atol=2 / 2**15)


def test_another_rate_is_resampled_as_one_signal():
    times = np.arange(3 * 44100) / 44100
    found = read(np.sin(2 * np.pi * 300 * times).astype(np.float32), 44100)
    wanted = np.sin(2 * np.pi * 300 * np.arange(3 * RATE) / RATE)
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found[1000:-1000], wanted[1000:-1000], atol=1e-3)


@pytest.mark.parametrize(
    ("audio", "rate", "error", "message"),
    [
        (SAMPLES, None, ValueError, "sample_rate is missing; samples need their rate in Hz"),
        (SAMPLES.reshape(2, -1), RATE, ValueError, r"the shape \(2, 8000\); allowed: one dimension"),
        (SAMPLES[:0], RATE, ValueError, "samples are empty"),
        (np.array([0.0, np.nan]), RATE, ValueError, "not all finite numbers"),
        (SAMPLES * 32768, RATE, ValueError, "go up to 16384; floats lie in"),
        (SAMPLES.astype(np.uint8), RATE, TypeError, "of type uint8; allowed: float32, float64, int16, int32"),
        (list(SAMPLES), RATE, TypeError, "audio is a list; allowed: a path, a pair"),
        (None, None, TypeError, "audio is a NoneType"),
        ((SAMPLES, RATE), RATE, ValueError, "the samples come with their rate, 16000"),
        ((SAMPLES, 0), None, ValueError, "sample_rate is 0; allowed: 1 to 1000000"),
        ("a.wav", RATE, ValueError, "sample_rate is 16000, but a.wav is a path"),
        (Path("nowhere.wav"), None, FileNotFoundError, "nowhere.wav is missing"),
    ],
)
def test_what_is_no_audio_is_refused_with_a_sentence(audio, rate, error, message):
    with pytest.raises(error, match=message):
        read(audio, rate)
