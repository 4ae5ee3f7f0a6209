"""PCM: bytes in any pieces are the samples, at another rate as one signal; what is none is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_larm.data.stream import resampled
from espnet_larm.live.pcm import PcmReader
from tests.live.conftest import speech
from tests.streaming.streaming import pieces_of

SIZES = st.lists(st.integers(0, 3001), min_size=1, max_size=4).filter(any)


def read(reader, data, sizes):
    parts = [reader.read(data[begin:end]) for begin, end in pieces_of(len(data), sizes)]
    return np.concatenate([*parts, reader.finish()])


@given(sizes=SIZES)
def test_any_pieces_are_the_samples(sizes):
    samples = speech(5000)
    found = read(PcmReader(16000, 16000), samples.astype("<i2").tobytes(), sizes)
    assert np.array_equal(found, samples.astype(np.float32) / 32768)


@given(sizes=SIZES)
def test_another_rate_is_resampled_as_one_signal(sizes):
    samples = speech(6000)
    found = read(PcmReader(8000, 16000), samples.astype("<i2").tobytes(), sizes)
    wanted = np.concatenate(list(resampled([samples.astype(np.float32) / 32768], 8000, 16000)))
    assert len(found) == len(wanted) == 12_000
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("sizes", [[100], [1]])
def test_a_wav_file_is_refused(sizes):
    with pytest.raises(ValueError, match="begins as a WAV file; send raw samples"):
        read(PcmReader(16000, 16000), b"RIFF\x00\x00\x00\x00WAVE", sizes)


def test_half_a_sample_at_the_end_and_wrong_rates_are_refused():
    assert len(read(PcmReader(16000, 16000), b"ab", [1])) == 1
    reader = PcmReader(16000, 16000)
    assert len(reader.read(b"abcde")) == 2
    with pytest.raises(ValueError, match="ended within a sample"):
        reader.finish()
    with pytest.raises(ValueError, match="rate is 3999; allowed: 4000 to 384000 Hz"):
        PcmReader(3999, 16000)
