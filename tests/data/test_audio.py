"""Reading audio from files, archives and commands, and what is said about damaged ones."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.data.audio import read_audio
from espnet_larm.data.audio_error import AudioError, MissingAudioError
from espnet_larm.data.source import is_archive_entry
from espnet_larm.recipe.archive import Rendering, write_archive

MakeAudio = Callable[..., str]


def cut(path: str, share: float) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
def test_samples_are_between_minus_one_and_one(make_audio: MakeAudio, name: str) -> None:
    header, samples = read_audio(make_audio(name))
    assert (header.sample_rate, header.num_channels, len(samples)) == (16000, 1, 16000)
    assert samples.dtype == np.float32 and 0.4 < np.abs(samples).max() <= 0.5


def test_nist_sphere_is_read(tmp_path: Path, make_audio: MakeAudio) -> None:
    samples, rate = soundfile.read(make_audio(), dtype="int16")
    soundfile.write(tmp_path / "a.sph", samples, rate, format="NIST", subtype="PCM_16", endian="BIG")
    np.testing.assert_array_equal(read_audio(str(tmp_path / "a.sph")).samples, read_audio(make_audio()).samples)


def test_channels_are_averaged(make_audio: MakeAudio) -> None:
    path = make_audio("stereo.wav", channels=2)
    expected = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    np.testing.assert_array_equal(read_audio(path).samples, expected)


def test_an_archive_entry_is_read(tmp_path: Path, make_audio: MakeAudio) -> None:
    path = make_audio()
    done = write_archive(tmp_path / "a.ark", [Rendering("x", path), Rendering("y", path)], 16000)
    np.testing.assert_array_equal(read_audio(done[1].source).samples, read_audio(path).samples)


def test_a_command_is_read(make_audio: MakeAudio) -> None:
    path = make_audio()
    np.testing.assert_array_equal(read_audio(f"cat {path} |").samples, read_audio(path).samples)


def test_a_failing_command_is_quoted_with_its_last_words() -> None:
    with pytest.raises(ValueError, match=r"ended with status 1: .*No such file"):
        read_audio("cat /nowhere.wav |")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.flac is missing"):
        read_audio("nowhere.flac")


def test_an_error_passes_from_one_process_to_another() -> None:
    error = MissingAudioError("missing-audio", "x.wav is missing", "look for it")
    copy = pickle.loads(pickle.dumps(error))  # our own bytes
    assert (type(copy), str(copy), copy.kind, copy.what) == (type(error), str(error), error.kind, error.what)


def test_a_missing_archive_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.ark is missing \(named as nowhere.ark:12\)"):
        read_audio("nowhere.ark:12")


@pytest.mark.parametrize("share", [0.0, 0.002, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
def test_a_truncated_file_is_refused(make_audio: MakeAudio, name: str, share: float) -> None:
    path = make_audio(name)
    cut(path, share)
    with pytest.raises(ValueError, match=f"{name} is {'truncated' if share else 'empty'}"):
        read_audio(path)


def test_a_truncated_archive_is_refused(tmp_path: Path, make_audio: MakeAudio) -> None:
    done = write_archive(tmp_path / "a.ark", [Rendering("x", make_audio())], 16000)
    cut(str(tmp_path / "a.ark"), 0.5)
    with pytest.raises(ValueError, match="is truncated: .* bytes"):
        read_audio(done[0].source)


def test_text_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_text("hello" * 100)
    with pytest.raises(ValueError, match="a.flac is no audio: it is text"):
        read_audio(str(tmp_path / "a.flac"))


def test_audio_without_samples_is_refused(make_audio: MakeAudio) -> None:
    with pytest.raises(ValueError, match="holds no samples"):
        read_audio(make_audio("a.wav", seconds=0.0))


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.nan, 0.1]), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        read_audio(str(tmp_path / "a.wav"))


def test_a_file_whose_name_ends_like_an_archive_entry_is_a_file(make_audio: MakeAudio) -> None:
    path = make_audio("take.flac")
    Path(path).rename(path + ":12")
    assert not is_archive_entry(path + ":12") and is_archive_entry(path + ":13")


@pytest.mark.parametrize("part", ["0.50000:0.50002", "0.99999:3.0", "1.00000:1.40000"])
def test_a_part_without_a_sample_is_a_bad_segment(make_audio: MakeAudio, part: str) -> None:
    with pytest.raises(AudioError, match=r"shorter than a sample|begins behind|behind the end") as caught:
        read_audio(f"{make_audio('a.wav')}[{part}]")
    assert caught.value.kind == "bad-segment"


def test_a_file_without_bytes_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.flac").touch()
    for source in (str(tmp_path / "a.flac"), "true |"):
        with pytest.raises(AudioError, match=r"is empty|wrote nothing") as caught:
            read_audio(source)
        assert caught.value.kind == "empty-audio"


def test_audio_beyond_the_memory_is_the_utterances_fault(
    make_audio: MakeAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    path = str(make_audio("a.wav"))
    monkeypatch.setattr(np, "concatenate", fail)
    with pytest.raises(AudioError, match=r"a.wav needs more memory than there is; cut it"):
        read_audio(path)
