"""Audio for decoding: batches are read ahead, and what cannot be read is named instead of raised."""

import numpy as np
import pytest
import soundfile

from espnet_larm.recognize.audio import AudioTable


@pytest.fixture
def folder(tmp_path):
    for name, num_samples in (("a", 400), ("b", 300), ("c", 200)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(num_samples, 0.25), 8000)
    (tmp_path / "wav.scp").write_text("".join(f"{name} {tmp_path}/{name}.wav\n" for name in "abc"))
    return tmp_path


def table(folder, **options):
    return AudioTable(folder / "wav.scp", options.pop("audio_type", "sound"), options.pop("rate", 8000), **options)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_come_in_turn(folder, num_workers):
    loaded = list(table(folder).load_ahead([["b", "a"], ["c"]], num_workers))
    assert [list(one.waveforms) for one in loaded] == [["b", "a"], ["c"]]
    assert [len(samples) for one in loaded for samples in one.waveforms.values()] == [300, 400, 200]


def test_no_batches_read_nothing(folder):
    assert list(table(folder).load_ahead([], 1)) == []


def test_missing_and_truncated_audio_are_named_and_the_others_read(folder):
    (folder / "a.wav").unlink()
    whole = (folder / "b.wav").read_bytes()
    (folder / "b.wav").write_bytes(whole[:100])
    loaded = table(folder).load(["a", "b", "c"])
    assert list(loaded.waveforms) == ["c"]
    assert "a.wav is missing" in loaded.failed["a"] and "b.wav is truncated" in loaded.failed["b"]


def test_a_preprocessor_that_gives_no_numbers_is_named(folder):
    with np.errstate(divide="ignore"):
        failed = table(folder, preprocess=lambda key, data: {"speech": data["speech"] / 0}).load(["b"]).failed
    assert "b.wav, preprocessed, holds samples that are not finite numbers" in failed["b"]


def test_segments_beside_wav_scp_are_what_is_decoded(folder, caplog):
    (folder / "segments").write_text("x a 0.01 0.02\ny b 0.03 0.05\nz b 0.2 0.3\n")
    parts = table(folder)
    assert parts.keys(None) == ["x", "y", "z"] and parts.length("y") == 60
    loaded = parts.load(["x", "y", "z"])
    assert [len(samples) for samples in loaded.waveforms.values()] == [80, 60]
    assert "y: the segment ends 0.013 s behind the end" in caplog.text
    assert "begins behind the end of the recording" in loaded.failed["z"]


def test_other_sample_rate_is_named(folder):
    failed = table(folder, rate=16000).load(["a"]).failed
    assert "has 8000 Hz, the model was trained on 16000 Hz" in failed["a"]


def test_lengths_come_from_utt2num_samples_or_from_the_audio(folder):
    assert table(folder).length("a") == 400
    (folder / "utt2num_samples").write_text("a 7\nb 8\nc 9\n")
    assert table(folder).length("a") == 7


def test_length_of_what_cannot_be_read_is_zero(folder):
    (folder / "a.wav").write_bytes(b"")
    assert table(folder).length("a") == 0


def test_a_command_that_fails_is_not_run_a_second_time(folder):
    (folder / "wav.scp").write_text(f"d echo run >> {folder}/runs; exit 3 |\n")
    audio = table(folder)
    assert audio.length("d") == 0
    assert "ended with status 3" in audio.load(["d"]).failed["d"]
    assert (folder / "runs").read_text() == "run\n"


def test_the_models_preprocessor_is_applied(folder):
    doubled = table(folder, preprocess=lambda key, data: {"speech": data["speech"] * 2})
    assert np.allclose(doubled.read("a"), 0.5)


def test_keys_are_in_the_key_files_order(folder):
    (folder / "keys").write_text("c x\na y\n")
    assert table(folder).keys(folder / "keys") == ["c", "a"]
    assert table(folder).keys(None) == ["a", "b", "c"]


def test_key_without_audio_is_named(folder):
    (folder / "keys").write_text("a\nzz\n")
    with pytest.raises(ValueError, match=r"1 utterances are not in .*wav.scp, zz first"):
        table(folder).keys(folder / "keys")


def test_nothing_to_decode_is_said(folder):
    (folder / "keys").write_text("")
    with pytest.raises(ValueError, match="keys is empty; nothing to decode"):
        table(folder).keys(folder / "keys")


def test_other_types_point_to_upstream(folder):
    with pytest.raises(ValueError, match=r"type npy; allowed: sound, kaldi_ark. Others: .*--upstream"):
        table(folder, audio_type="npy")
