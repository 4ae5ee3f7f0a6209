"""Encoder outputs that are stored."""

import numpy as np
import pytest
import soundfile
import torch

from studies import frames
from studies.frames import load, store


@pytest.fixture
def data(tmp_path):
    """Three utterances of noise, of which one is too short for the encoder."""
    folder = tmp_path / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = {"a": 9000, "b": 300, "c": 16000}
    for name, num_samples in names.items():
        soundfile.write(folder / f"{name}.wav", generator.standard_normal(num_samples) * 0.1, 16000)
    (folder / "wav.scp").write_text("".join(f"{name} {folder / name}.wav\n" for name in names))
    (folder / "text").write_text("a A B\nb C\nc D\n")
    return folder


def test_stored_frames_are_what_the_encoder_gives(build_speech_llm, data, tmp_path):
    model = build_speech_llm().eval()
    store(model, None, 16000, data, tmp_path / "train.pth", {"encoder_of": "x"})
    found = load(tmp_path / "train.pth")
    assert (found.names, found.texts) == (["a", "c"], ["A B", "D"])
    assert found.seconds == [9000 / 16000, 1.0]
    for name, one in zip(found.names, found.frames, strict=True):
        samples = torch.from_numpy(soundfile.read(data / f"{name}.wav", dtype="float32")[0]).unsqueeze(0)
        with torch.no_grad():
            wanted, _ = model.encode(samples, torch.tensor([samples.size(1)]))
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        torch.testing.assert_close(one, wanted[0], rtol=1e-5, atol=1e-5)


def test_what_is_stored_is_made_again_only_of_other_data_or_another_encoder(
    build_speech_llm, data, tmp_path, monkeypatch
):
    model, path = build_speech_llm().eval(), tmp_path / "train.pth"
    made = []
    encode = frames.encode
    monkeypatch.setattr(frames, "encode", lambda *given: made.append(1) or encode(*given))
    store(model, None, 16000, data, path, {"encoder_of": "x"})
    first = len(made)
    store(model, None, 16000, data, path, {"encoder_of": "x"})
    assert len(made) == first
    store(model, None, 16000, data, path, {"encoder_of": "y"})
    assert len(made) == 2 * first
    (data / "text").write_text("a A B\nc D A\n")
    store(model, None, 16000, data, path, {"encoder_of": "y"})
    assert load(path).texts == ["A B", "D A"]


def test_augmented_frames_are_masked_and_the_same_each_time(build_speech_llm, data, tmp_path):
    model = build_speech_llm(
        specaug="specaug",
        specaug_conf={"apply_time_warp": False, "apply_time_mask": False, "freq_mask_width_range": [30, 60]},
    ).eval()
    plain, first, second = (tmp_path / name for name in ("plain.pth", "first.pth", "second.pth"))
    store(model, None, 16000, data, plain, {})
    for path in (first, second):
        store(model, None, 16000, data, path, {}, augments=True)
    for one, other, alike in zip(load(first).frames, load(plain).frames, load(second).frames, strict=True):
        assert not torch.allclose(one, other)
        assert torch.equal(one, alike)


def test_a_model_without_specaug_cannot_augment(build_speech_llm, data, tmp_path):
    with pytest.raises(ValueError, match="augment is true, but the trained model has no specaug"):
        store(build_speech_llm().eval(), None, 16000, data, tmp_path / "train.pth", {}, augments=True)


def test_a_folder_without_texts_is_refused(build_speech_llm, data, tmp_path):
    (data / "text").unlink()
    with pytest.raises(FileNotFoundError, match="text is missing; run the recipe's stages of data preparation"):
        store(build_speech_llm().eval(), None, 16000, data, tmp_path / "train.pth", {})
