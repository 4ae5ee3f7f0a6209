"""Archives hold what ESPnet reads under its type kaldi_ark."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omniio import kaldi

from espnet_larm.data.audio import read_audio
from espnet_larm.recipe.archive import Rendering, render, write_archive

MakeAudio = Callable[..., str]


def test_an_entry_is_read_as_the_file_that_it_was(tmp_path: Path, make_audio: MakeAudio) -> None:
    path = make_audio()
    done = write_archive(tmp_path / "a.ark", [Rendering("x", path)], 16000)
    rate, samples = kaldi.load_mat(done[0].source)
    assert rate == 16000
    np.testing.assert_array_equal(samples, soundfile.read(path)[0])


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_plain_file_is_louder_than_an_entry(make_audio: MakeAudio, tmp_path: Path, name: str) -> None:
    """Why formatting converts plain files that stand beside archive entries."""
    (tmp_path / "wav.scp").write_text(f"plain {make_audio(name)}\n")
    assert kaldi.load_scp(str(tmp_path / "wav.scp"))["plain"][1].dtype == np.int16


@pytest.mark.parametrize(("speed", "num_samples"), [(0.9, 17778), (1.0, 16000), (1.1, 14545)])
def test_speed_changes_the_length(make_audio: MakeAudio, speed: float, num_samples: int) -> None:
    path = make_audio()
    assert abs(len(render(Rendering("x", path, speed), read_audio(path), 16000)) - num_samples) <= 1


def test_speed_shifts_the_pitch(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "tone.flac", tone, 16000)
    path = str(tmp_path / "tone.flac")
    slow = render(Rendering("x", path, 0.9), read_audio(path), 16000)
    peak_hz = np.argmax(np.abs(np.fft.rfft(slow))) * 16000 / len(slow)
    assert abs(peak_hz - 900) < 2


def test_the_rate_is_changed(make_audio: MakeAudio) -> None:
    path = make_audio(rate=8000)
    assert len(render(Rendering("x", path), read_audio(path), 16000)) == 16000


def test_what_cannot_be_read_is_reported_and_the_rest_written(tmp_path: Path, make_audio: MakeAudio) -> None:
    items = [Rendering("x", make_audio()), Rendering("y", "nowhere.flac"), Rendering("z", make_audio())]
    done = write_archive(tmp_path / "a.ark", items, 16000)
    assert [entry.num_samples for entry in done] == [16000, 0, 16000]
    assert "nowhere.flac is missing" in done[1].findings[0].what
    assert kaldi.load_mat(done[2].source)[0] == 16000
