"""Audio and folders made on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.data.kaldi_dir import Utterance, write_dir


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., str]:
    """Write noise of a second (by default) and return the path."""

    def make(name: str = "a.flac", seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> str:
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype="PCM_16")
        return str(path)

    return make


@pytest.fixture
def data_dir(tmp_path: Path, make_audio: Callable[..., str]) -> Path:
    """A Kaldi folder of three utterances of two speakers."""
    utterances = [
        Utterance(f"{speaker}-{number}", speaker, make_audio(f"audio/{speaker}{number}.flac"), f"WORD {number}")
        for speaker, number in (("ann", 1), ("ann", 2), ("bob", 1))
    ]
    write_dir(tmp_path / "set", utterances)
    return tmp_path / "set"
