"""Streamed audio: what reading at once gives, in blocks; and damage is named."""

import numpy as np
import pytest
import soundfile

from espnet_larm.data.audio import read_audio
from espnet_larm.data.stream import count_samples, stream_file, stream_source

RATE = 8000


@pytest.fixture
def flac(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 11 * RATE + 123), RATE)
    return path


def test_blocks_are_the_samples_in_order(flac):
    blocks = list(stream_source(str(flac), RATE))
    assert len(blocks) == 3 and max(map(len, blocks)) == 5 * RATE
    assert np.array_equal(np.concatenate(blocks), read_audio(str(flac)).samples)


def test_commands_are_streamed_too_but_not_as_files(flac):
    blocks = list(stream_source(f"cat {flac} |", RATE))
    assert np.array_equal(np.concatenate(blocks), read_audio(str(flac)).samples)
    with pytest.raises(FileNotFoundError, match="is missing"):
        next(stream_file(flac.with_name("echo harm |"), RATE))


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, 0.0]] * 100), RATE)
    assert np.allclose(np.concatenate(list(stream_file(tmp_path / "a.wav", RATE))), 0.25, atol=1e-4)


def test_files_of_other_rates_are_converted(tmp_path):
    seconds = np.arange(6 * 44100) / 44100
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 300 * seconds), 44100)
    found = np.concatenate(list(stream_file(tmp_path / "a.wav", RATE)))
    expected = 0.5 * np.sin(2 * np.pi * 300 * np.arange(6 * RATE) / RATE)
    assert len(found) == pytest.approx(len(expected), abs=2)
    assert np.abs(found[200:-200] - expected[200 : len(found) - 200]).max() < 0.002


def test_sources_of_other_rates_are_refused_as_in_recipes(flac):
    with pytest.raises(ValueError, match="has 8000 Hz, the model was trained on 16000 Hz"):
        next(stream_source(str(flac), 16000))


def test_samples_are_counted_without_decoding(flac):
    assert count_samples(str(flac)) == 11 * RATE + 123


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_truncated_audio_is_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 12 * RATE), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"a.{suffix} is truncated"):
        list(stream_file(path, RATE))


def test_what_holds_no_usable_sound_is_named(tmp_path):
    (tmp_path / "text").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), RATE, subtype="FLOAT")
    for name, message in (("text", "no audio"), ("empty.wav", "holds no samples"), ("nan.wav", "not finite")):
        with pytest.raises(ValueError, match=message):
            list(stream_file(tmp_path / name, RATE))
