"""Raw PCM to samples: 16 bits, little-endian, one channel; of any rate, in pieces of any number of bytes.

Shapes: N samples.
"""

import numpy as np
import soxr

from espnet_larm.data.stream import QUALITY
from espnet_larm.errors import DataError, OptionError
from espnet_larm.live.config import LEAST_HZ, MOST_HZ

SAMPLE_BYTES = 2
FULL_SCALE = 32768.0
# How a WAV file begins.
WAV = b"RIFF"


class PcmReader:
    """The samples of one stream.

    Args:
        rate_hz: The rate of the stream.
        to_hz: The rate that is wanted; the pieces are resampled as one signal.

    Raises:
        OptionError: The rate is out of its range.
    """

    def __init__(self, rate_hz: int, to_hz: int) -> None:
        if not LEAST_HZ <= rate_hz <= MOST_HZ:
            raise OptionError(f"rate is {rate_hz}; allowed: {LEAST_HZ} to {MOST_HZ} Hz.")
        is_other = rate_hz != to_hz
        self._resampler = soxr.ResampleStream(rate_hz, to_hz, 1, "float32", QUALITY) if is_other else None
        self._rest = b""
        self._is_begun = False

    def read(self, data: bytes) -> np.ndarray:
        """Samples (N,) in [-1, 1] of further bytes, which may end within a sample.

        Raises:
            DataError: The stream begins as a WAV file does.
        """
        data = self._rest + data
        if not self._is_begun and len(data) < len(WAV):
            self._rest = data
            return np.zeros(0, np.float32)
        if not self._is_begun and data.startswith(WAV):
            raise DataError("the stream begins as a WAV file; send raw samples of 16 bits, without a header.")
        self._is_begun = True
        whole = len(data) - len(data) % SAMPLE_BYTES
        self._rest = data[whole:]
        return self._resampled(data[:whole], False)

    def finish(self) -> np.ndarray:
        """Samples (N,) that resampling has held back.

        Raises:
            DataError: The stream ended within a sample.
        """
        if len(self._rest) % SAMPLE_BYTES:
            raise DataError("the stream ended within a sample: an odd number of bytes; send samples of 16 bits.")
        return self._resampled(self._rest, True)

    def _resampled(self, data: bytes, is_last: bool) -> np.ndarray:
        samples = np.frombuffer(data, "<i2").astype(np.float32) / FULL_SCALE
        return samples if self._resampler is None else self._resampler.resample_chunk(samples, is_last)
